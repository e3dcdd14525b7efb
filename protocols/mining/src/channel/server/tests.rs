use proptest::prelude::*;

use super::*;
use crate::channel::jobs::MAX_LIVE_JOBS;
use crate::header::BlockHash;
use crate::job::{JobFactory, VERSION_ROLLING_MASK};
use crate::share::ShareError;
use crate::template::TemplateTracker;
use crate::testing::{EASY, factory, find_nonce, job, new_template, template, tip};

const NOW: u32 = 1_700_000_100;
const MIN_NTIME: u32 = 1_700_000_000;
const VERSION: u32 = 0x2000_0000;
/// Practically no hash is a block.
const HARD: u32 = 0x1d00_ffff;

fn options(kind: ChannelKind) -> ChannelOptions {
    ChannelOptions {
        id: 7,
        kind,
        extranonce_prefix: Extranonce::new(&[1, 0, 0, 5]).unwrap(),
        extranonce_size: if kind == ChannelKind::Extended { 16 } else { 0 },
        target: Target::from_expected_hashes(16.0),
        max_target: Target::MAX,
        max_shares_per_job: 1_000,
    }
}

/// A channel that works on job 1 on tip 1.
fn working(kind: ChannelKind, nbits: u32) -> ServerChannel {
    let mut channel = ServerChannel::new(options(kind));
    let size = channel.full_extranonce_size();
    channel.add_future_job(1, job(1, size)).unwrap();
    channel.set_new_prev_hash(1, &tip(1, MIN_NTIME, nbits)).unwrap();
    channel
}

fn share(channel: &ServerChannel, job_id: u32) -> Share<'static> {
    Share {
        sequence_number: 0,
        job_id,
        nonce: 0,
        ntime: NOW,
        version: VERSION,
        extranonce: &[3; 16][..channel.extranonce_size()],
    }
}

fn header(channel: &ServerChannel, share: &Share<'_>, tip: &Tip) -> crate::Header {
    let job = channel.job(share.job_id).unwrap();
    let root = job.merkle_root(channel.extranonce_prefix(), share.extranonce).unwrap();
    Job::header(tip, root, share.version, share.ntime, share.nonce)
}

/// `share` with the first nonce from `start` whose hash is between the targets (met, not met).
fn mined<'a>(
    channel: &ServerChannel,
    share: Share<'a>,
    meets: Target,
    misses: Option<Target>,
    start: u32,
) -> Share<'a> {
    let (_, _, tip) = channel.active_job().unwrap();
    let wanted = |hash: &BlockHash| {
        meets.is_met_by(hash) && misses.is_none_or(|target| !target.is_met_by(hash))
    };
    Share { nonce: find_nonce(header(channel, &share, tip), start, wanted), ..share }
}

fn good<'a>(channel: &ServerChannel, share: Share<'a>) -> Share<'a> {
    mined(channel, share, channel.target(), None, 0)
}

fn error(result: Result<AcceptedShare, RejectedShare>) -> ShareError {
    let rejected = result.unwrap_err();
    assert_eq!(rejected.block, None);
    rejected.error
}

#[test]
fn custom_jobs_live_as_long_as_their_tip_is_allowed() {
    let (old, new) = (tip(1, MIN_NTIME, EASY), tip(2, MIN_NTIME, EASY));
    let mut channel = ServerChannel::new(options(ChannelKind::Extended));
    for (id, tip) in [(1, &old), (2, &new)] {
        let job = job(id, channel.full_extranonce_size());
        channel.add_custom_job(id, job, MIN_NTIME, tip, Portion::WHOLE).unwrap();
        assert!(channel.has_custom_job_on(&tip.prev_hash));
    }
    channel.retire_tip(&old.prev_hash);
    assert!(!channel.has_custom_job_on(&old.prev_hash) && channel.job(1).is_none());
    assert!(channel.has_custom_job_on(&new.prev_hash) && channel.job(2).is_some());
}

#[test]
fn a_good_share_counts_once_on_both_kinds_of_channel() {
    for kind in [ChannelKind::Standard, ChannelKind::Extended] {
        let mut channel = working(kind, HARD);
        let share = good(&channel, share(&channel, 1));
        let expected = header(&channel, &share, channel.active_job().unwrap().2).hash();
        let accepted = channel.check_share(&share, NOW).unwrap();
        assert_eq!(
            accepted,
            AcceptedShare { hash: expected, work: 16, credit: 16, is_block: false }
        );
        assert_eq!(error(channel.check_share(&share, NOW)), ShareError::DuplicateShare);
    }
}

#[test]
fn each_rule_has_its_error() {
    let mut channel = working(ChannelKind::Extended, HARD);
    let target = channel.target();
    let base = share(&channel, 1);
    // None of these is a block, whatever its hash.
    let mut says = |share: Share<'_>| error(channel.check_share(&share, NOW));
    assert_eq!(says(Share { job_id: 2, ..base }), ShareError::InvalidJobId);
    assert_eq!(says(Share { extranonce: &[3; 15], ..base }), ShareError::BadExtranonceSize);
    assert_eq!(says(Share { extranonce: &[3; 17], ..base }), ShareError::BadExtranonceSize);
    assert_eq!(says(Share { extranonce: &[], ..base }), ShareError::BadExtranonceSize);
    assert_eq!(says(Share { ntime: MIN_NTIME - 1, ..base }), ShareError::NtimeTooOld);
    assert_eq!(says(Share { ntime: NOW + MAX_NTIME_AHEAD + 1, ..base }), ShareError::NtimeTooNew);
    assert_eq!(says(Share { version: VERSION | 1, ..base }), ShareError::InvalidVersionBit);
    assert_eq!(
        says(Share { version: VERSION | 1 << 29 | 1 << 31, ..base }),
        ShareError::InvalidVersionBit
    );
    let low = mined(&channel, base, Target::MAX, Some(target), 0);
    assert_eq!(error(channel.check_share(&low, NOW)), ShareError::DifficultyTooLow);
    // The edges are inside.
    for (ntime, version) in [
        (MIN_NTIME, VERSION),
        (NOW + MAX_NTIME_AHEAD, VERSION),
        (NOW, VERSION | VERSION_ROLLING_MASK),
    ] {
        let share = good(&channel, Share { ntime, version, ..base });
        assert!(channel.check_share(&share, NOW).is_ok());
    }
    // The window does not wrap around at the end of time.
    let last = good(&channel, Share { ntime: u32::MAX, ..base });
    assert!(channel.check_share(&last, u32::MAX - 5).is_ok());
}

#[test]
fn version_rolling_can_be_forbidden() {
    let mut channel = ServerChannel::new(options(ChannelKind::Extended));
    let fixed = JobFactory { version_rolling_allowed: false, ..factory() };
    channel.add_future_job(1, Arc::new(fixed.job(1, &template(1), 20).unwrap())).unwrap();
    channel.set_new_prev_hash(1, &tip(1, MIN_NTIME, HARD)).unwrap();
    let rolled = Share { version: VERSION | 1 << 13, ..share(&channel, 1) };
    assert_eq!(error(channel.check_share(&rolled, NOW)), ShareError::VersionRollingNotAllowed);
    let share = good(&channel, share(&channel, 1));
    assert!(channel.check_share(&share, NOW).is_ok());
}

#[test]
fn a_block_is_recognised_and_can_be_rebuilt() {
    for kind in [ChannelKind::Standard, ChannelKind::Extended] {
        let mut channel = working(kind, EASY);
        let share = good(&channel, share(&channel, 1));
        let accepted = channel.check_share(&share, NOW).unwrap();
        assert!(accepted.is_block);
        let solution = channel.solution(&share).unwrap();
        assert_eq!(solution.hash, accepted.hash);
        assert_eq!(solution.template_id, Some(1));
        let message = solution.message().unwrap();
        assert_eq!((message.template_id, message.header_nonce), (1, share.nonce));
        assert_eq!((message.version, message.header_timestamp), (share.version, share.ntime));
        // The block that a template provider would build has this very header.
        let coinbase: bitcoin::Transaction =
            bitcoin::consensus::deserialize(message.coinbase_tx.as_bytes()).unwrap();
        let txid = bitcoin::hashes::Hash::to_byte_array(coinbase.compute_txid());
        let root = crate::merkle::merkle_root(txid, channel.job(1).unwrap().merkle_path());
        assert_eq!(solution.header.merkle_root, root);
        let script = coinbase.input[0].script_sig.to_bytes();
        let extranonce = [channel.extranonce_prefix().as_bytes(), share.extranonce].concat();
        assert!(script.ends_with(&extranonce));
    }
}

#[test]
fn a_block_that_breaks_a_rule_of_ours_is_reported_once() {
    let mut channel = working(ChannelKind::Extended, EASY);
    let network = Target::from_nbits(EASY).unwrap();
    let old = Share { ntime: MIN_NTIME - 1, ..share(&channel, 1) };
    let block = mined(&channel, old, network, None, 0);
    let rejected = channel.check_share(&block, NOW).unwrap_err();
    assert_eq!(rejected.error, ShareError::NtimeTooOld);
    assert_eq!(rejected.block, Some(channel.solution(&block).unwrap().hash));
    assert_eq!(error(channel.check_share(&block, NOW)), ShareError::NtimeTooOld);
    let no_block = mined(&channel, old, Target::MAX, Some(network), 0);
    assert_eq!(error(channel.check_share(&no_block, NOW)), ShareError::NtimeTooOld);
}

/// On regtest a share target may be harder than the network's.
#[test]
fn a_block_below_the_share_target_is_paid_as_a_block() {
    let mut channel = working(ChannelKind::Standard, EASY);
    let network = Target::from_nbits(EASY).unwrap();
    let block = mined(&channel, share(&channel, 1), network, Some(channel.target()), 0);
    let accepted = channel.check_share(&block, NOW).unwrap();
    assert_eq!((accepted.work, accepted.is_block), (2, true));
}

#[test]
fn a_new_tip_makes_all_older_jobs_stale() {
    let mut channel = working(ChannelKind::Extended, EASY);
    channel.add_active_job(2, job(2, 20), &tip(1, MIN_NTIME, EASY)).unwrap();
    channel.add_future_job(3, job(3, 20)).unwrap();
    channel.add_future_job(4, job(4, 20)).unwrap();
    let late = good(&channel, share(&channel, 2));
    channel.set_new_prev_hash(3, &tip(2, MIN_NTIME, EASY)).unwrap();
    // Even one that would have been a block.
    assert_eq!(error(channel.check_share(&late, NOW)), ShareError::StaleShare);
    for id in [1, 2, 4] {
        assert_eq!(error(channel.check_share(&share(&channel, id), NOW)), ShareError::StaleShare);
    }
    assert_eq!(error(channel.check_share(&share(&channel, 99), NOW)), ShareError::InvalidJobId);
    let good = good(&channel, share(&channel, 3));
    assert!(channel.check_share(&good, NOW).is_ok());
    assert_eq!(channel.solution(&late), None);
    channel.stop_work();
    assert_eq!(error(channel.check_share(&good, NOW)), ShareError::StaleShare);
    assert!(channel.active_job().is_none());
}

#[test]
fn a_share_for_a_job_that_waits_is_for_no_job() {
    let mut channel = working(ChannelKind::Extended, EASY);
    channel.add_future_job(2, job(2, 20)).unwrap();
    assert_eq!(error(channel.check_share(&share(&channel, 2), NOW)), ShareError::InvalidJobId);
    assert_eq!(channel.solution(&share(&channel, 2)), None);
}

#[test]
fn wrong_jobs_are_refused() {
    let mut channel = ServerChannel::new(options(ChannelKind::Extended));
    let tip_1 = tip(1, MIN_NTIME, EASY);
    assert_eq!(channel.add_active_job(1, job(1, 20), &tip_1), Err(JobTableError::NoPrevHash));
    assert_eq!(channel.set_new_prev_hash(1, &tip_1), Err(JobTableError::UnknownFutureJob(1)));
    assert_eq!(channel.add_future_job(1, job(1, 19)), Err(JobTableError::ExtranonceSize));
    channel.add_future_job(1, job(1, 20)).unwrap();
    assert_eq!(channel.add_future_job(1, job(2, 20)), Err(JobTableError::IdInUse(1)));
    channel.set_new_prev_hash(1, &tip_1).unwrap();
    // Active already, so no future job any more.
    assert_eq!(channel.set_new_prev_hash(1, &tip_1), Err(JobTableError::UnknownFutureJob(1)));
    assert_eq!(channel.add_active_job(1, job(2, 20), &tip_1), Err(JobTableError::IdInUse(1)));
    assert_eq!(
        channel.add_active_job(2, job(2, 20), &tip(2, MIN_NTIME, EASY)),
        Err(JobTableError::NoPrevHash)
    );
}

#[test]
fn the_oldest_active_job_makes_room_and_waiting_ones_stay() {
    let mut channel = working(ChannelKind::Extended, HARD);
    channel.add_future_job(2, job(2, 20)).unwrap();
    let tip_1 = tip(1, MIN_NTIME, HARD);
    // Ids wrap around on the way.
    let ids: Vec<u32> = (0..40)
        .map(|i| (u32::MAX - 10).wrapping_add(i))
        .filter(|id| *id != 1 && *id != 2)
        .collect();
    for (i, id) in ids.iter().enumerate() {
        channel.add_active_job(*id, job(3 + i as u32, 20), &tip_1).unwrap();
    }
    let live: Vec<_> = ids.iter().filter(|id| channel.job(**id).is_some()).collect();
    assert_eq!(live.len(), MAX_LIVE_JOBS - 1);
    assert_eq!(live, ids[ids.len() - live.len()..].iter().collect::<Vec<_>>());
    let oldest = *live[0];
    let evicted = ids[ids.len() - live.len() - 1];
    assert_eq!(error(channel.check_share(&share(&channel, evicted), NOW)), ShareError::StaleShare);
    let share = good(&channel, share(&channel, oldest));
    assert!(channel.check_share(&share, NOW).is_ok());
    channel.set_new_prev_hash(2, &tip(2, MIN_NTIME, HARD)).unwrap();
    assert_eq!(channel.active_job().unwrap().0, 2);
}

#[test]
fn a_target_counts_from_the_next_activation() {
    let mut channel = working(ChannelKind::Extended, HARD);
    let (easy, hard) = (channel.target(), Target::from_expected_hashes(256.0));
    channel.add_future_job(2, job(2, 20)).unwrap();
    let message = channel.set_target(hard).unwrap();
    assert_eq!((message.channel_id, message.maximum_target), (7, hard.to_le_bytes()));
    assert_eq!(channel.set_target(hard), None);

    let between = mined(&channel, share(&channel, 1), easy, Some(hard), 0);
    assert_eq!(channel.check_share(&between, NOW).unwrap().work, 16);
    // The same job under a new id is judged by the new target, and pays nothing twice.
    let (_, same, tip_1) =
        channel.active_job().map(|(id, job, tip)| (id, job.clone(), tip.clone())).unwrap();
    channel.add_active_job(3, same, &tip_1).unwrap();
    let again = Share { job_id: 3, ..between };
    assert_eq!(error(channel.check_share(&again, NOW)), ShareError::DifficultyTooLow);
    let both = mined(&channel, share(&channel, 3), hard, None, 0);
    assert_eq!(channel.check_share(&both, NOW).unwrap().work, 256);
    let replayed = Share { job_id: 1, ..both };
    assert_eq!(error(channel.check_share(&replayed, NOW)), ShareError::DuplicateShare);

    // The future job was sent before the target and gets it all the same.
    channel.set_new_prev_hash(2, &tip(2, MIN_NTIME, HARD)).unwrap();
    let between = mined(&channel, share(&channel, 2), easy, Some(hard), 0);
    assert_eq!(error(channel.check_share(&between, NOW)), ShareError::DifficultyTooLow);
}

/// A miner that begins its search anew with every job must not find the same shares again.
#[test]
fn a_renewed_job_is_the_same_work_at_a_later_time() {
    for kind in [ChannelKind::Standard, ChannelKind::Extended] {
        let mut channel = working(kind, HARD);
        let found = good(&channel, share(&channel, 1));
        channel.check_share(&found, NOW).unwrap();
        let hard = Target::from_expected_hashes(256.0);
        channel.set_target(hard).unwrap();
        assert_eq!(channel.renew_job(2, MIN_NTIME), Some(MIN_NTIME + 1), "later than before");
        assert_eq!(channel.renew_job(3, NOW), Some(NOW));
        assert_eq!(channel.renew_job(3, NOW), None, "the id is in use");
        let (id, _, _) = channel.active_job().unwrap();
        assert_eq!(id, 3);
        let replayed = Share { job_id: 3, ..found };
        assert!(channel.check_share(&replayed, NOW).is_err(), "from before its time");
        let fresh = mined(&channel, Share { ntime: NOW, ..share(&channel, 3) }, hard, None, 0);
        assert_eq!(channel.check_share(&fresh, NOW).unwrap().work, 256);
    }
}

/// A template provider that reconnects sends the same template again, as a new one.
/// One whose target changes with every share must not be sent into the future.
#[test]
fn a_job_is_not_renewed_far_ahead_of_the_clock() {
    let mut channel = working(ChannelKind::Extended, HARD);
    assert_eq!(channel.renew_job(2, NOW), Some(NOW));
    for ahead in 1..=60 {
        assert_eq!(channel.renew_job(2 + ahead, NOW), Some(NOW + ahead));
    }
    assert_eq!(channel.renew_job(100, NOW), None);
    assert_eq!(channel.active_job().unwrap().0, 62);
    assert_eq!(channel.renew_job(100, NOW + 1), Some(NOW + 61));
    // Where blocks themselves are ahead of the clock, so may jobs be.
    let mut channel = working(ChannelKind::Extended, HARD);
    assert_eq!(channel.renew_job(2, MIN_NTIME - 1_000), Some(MIN_NTIME + 1));
}

#[test]
fn a_share_that_is_not_judged_may_be_a_block() {
    let mut channel = working(ChannelKind::Extended, EASY);
    let easy = Target::from_nbits(EASY).unwrap();
    let nothing = mined(&channel, share(&channel, 1), Target::MAX, Some(easy), 0);
    assert_eq!(channel.block_of(&nothing), None);
    let block = mined(&channel, share(&channel, 1), easy, None, 0);
    let hash = channel.block_of(&block).unwrap();
    assert_eq!(channel.solution(&block).unwrap().hash, hash);
    assert_eq!(channel.block_of(&Share { job_id: 9, ..block }), None);
    assert_eq!(channel.block_of(&Share { extranonce: &[0; 3], ..block }), None);
    // It leaves no trace.
    let judged = channel.check_share(&block, NOW).unwrap();
    assert_eq!((judged.hash, judged.is_block), (hash, true));
    channel.stop_work();
    assert_eq!(channel.block_of(&block), None);
}

#[test]
fn a_template_sent_twice_pays_once() {
    let mut channel = working(ChannelKind::Extended, HARD);
    let paid = good(&channel, share(&channel, 1));
    channel.check_share(&paid, NOW).unwrap();
    let again = Arc::new(factory().job(50, &template(1), 20).unwrap());
    channel.add_future_job(50, again).unwrap();
    channel.set_new_prev_hash(50, &tip(1, MIN_NTIME, HARD)).unwrap();
    let replayed = Share { job_id: 50, ..paid };
    assert_eq!(error(channel.check_share(&replayed, NOW)), ShareError::DuplicateShare);
}

#[test]
fn the_client_s_maximum_is_a_limit() {
    let hard = Target::from_expected_hashes(1e6);
    let mut channel =
        ServerChannel::new(ChannelOptions { max_target: hard, ..options(ChannelKind::Standard) });
    assert_eq!(channel.target(), hard);
    assert_eq!(channel.set_target(Target::MAX), None);
    assert_eq!(channel.set_max_target(Target::MAX), None);
    assert!(channel.set_target(Target::DIFFICULTY_1.max(hard)).is_none());
    let harder = Target::from_expected_hashes(2e6);
    let message = channel.set_max_target(harder).unwrap();
    assert_eq!(message.maximum_target, harder.to_le_bytes());
    assert_eq!((channel.target(), channel.max_target()), (harder, harder));
}

#[test]
fn jobs_keep_the_prefix_they_were_sent_with() {
    for kind in [ChannelKind::Standard, ChannelKind::Extended] {
        let mut channel = working(kind, HARD);
        let size = channel.full_extranonce_size();
        let before = good(&channel, share(&channel, 1));
        let prefix = Extranonce::new(&[1, 0, 0, 6]).unwrap();
        channel.set_extranonce_prefix(prefix).unwrap();
        assert!(channel.check_share(&before, NOW).is_ok());
        channel.add_active_job(2, job(2, size), &tip(1, MIN_NTIME, HARD)).unwrap();
        let after = good(&channel, share(&channel, 2));
        assert!(channel.check_share(&after, NOW).is_ok());
        let short = Extranonce::new(&[1]).unwrap();
        assert_eq!(channel.set_extranonce_prefix(short), Err(PrefixError { old: 4, new: 1 }));
    }
}

/// A job that waits for its tip keeps its prefix across tips, so that nobody else may have it.
#[test]
fn a_former_prefix_is_given_back_when_no_job_has_it() {
    let mut channel = working(ChannelKind::Extended, HARD);
    let old = *channel.extranonce_prefix();
    channel.add_future_job(2, job(2, 20)).unwrap();
    let new = Extranonce::new(&[1, 0, 0, 6]).unwrap();
    let message = channel.set_extranonce_prefix(new).unwrap();
    assert_eq!((message.channel_id, message.extranonce_prefix), (7, new.as_field()));
    channel.add_future_job(3, job(3, 20)).unwrap();
    assert_eq!(channel.take_unused_prefix(), None, "jobs 1 and 2 have it");
    channel.set_new_prev_hash(2, &tip(2, MIN_NTIME, HARD)).unwrap();
    assert_eq!(channel.take_unused_prefix(), None, "job 2 has it");
    let header_prefix = old; // what job 2 is mined with
    let root = channel.job(2).unwrap().merkle_root(&header_prefix, &[3; 16]).unwrap();
    let header = Job::header(&tip(2, MIN_NTIME, HARD), root, VERSION, NOW, 0);
    let nonce = find_nonce(header, 0, |hash| channel.target().is_met_by(hash));
    let share = Share { nonce, ..share(&channel, 2) };
    assert!(channel.check_share(&share, NOW).is_ok());
    assert_eq!(channel.prefixes().collect::<Vec<_>>(), [&new, &old]);
    channel.add_future_job(4, job(4, 20)).unwrap();
    channel.set_new_prev_hash(4, &tip(3, MIN_NTIME, HARD)).unwrap();
    assert_eq!((channel.take_unused_prefix(), channel.take_unused_prefix()), (Some(old), None));
    // There and back: nothing to give back but the one that was left.
    channel.set_extranonce_prefix(old).unwrap();
    channel.set_extranonce_prefix(new).unwrap();
    assert_eq!(channel.prefixes().collect::<Vec<_>>(), [&new, &old]);
    assert_eq!((channel.take_unused_prefix(), channel.take_unused_prefix()), (Some(old), None));
    channel.set_extranonce_prefix(new).unwrap();
    assert_eq!(channel.take_unused_prefix(), None);
}

#[test]
fn work_starts_with_a_future_job_and_its_tip() {
    for kind in [ChannelKind::Standard, ChannelKind::Extended] {
        let mut channel = ServerChannel::new(options(kind));
        let job = job(1, channel.full_extranonce_size());
        let (tip, mut out) = (tip(1, MIN_NTIME, HARD), Vec::new());
        channel.start_work(1, job.clone(), &tip, &mut out).unwrap();
        let mut expected = Vec::new();
        match kind {
            ChannelKind::Standard => {
                let message = channel.new_mining_job(1).unwrap();
                encode_frame(&NewMiningJob { min_ntime: None, ..message }, &mut expected);
            }
            ChannelKind::Extended => job.write_frame_to(7, 1, None, &mut expected),
        }
        encode_frame(&tip.set_new_prev_hash(7, 1), &mut expected);
        assert_eq!(out, expected);
        assert!(channel.works_on(1) && channel.is_on(&tip) && !channel.awaits(1));
        assert!(channel.start_work(1, job, &tip, &mut out).is_err());
        assert_eq!(out, expected, "nothing is written where nothing is done");
    }
}

#[test]
fn standard_jobs_are_sent_with_their_root() {
    let mut channel = working(ChannelKind::Standard, HARD);
    channel.add_future_job(2, job(2, 4)).unwrap();
    let root = |id| channel.job(id).unwrap().merkle_root(&[1, 0, 0, 5], &[]).unwrap();
    let active = channel.new_mining_job(1).unwrap();
    assert_eq!((active.channel_id, active.job_id, active.version), (7, 1, VERSION));
    assert_eq!((active.min_ntime, active.merkle_root), (Some(MIN_NTIME), root(1)));
    let future = channel.new_mining_job(2).unwrap();
    assert_eq!((future.min_ntime, future.merkle_root), (None, root(2)));
    assert_eq!(channel.new_mining_job(3), None);
    assert_eq!(working(ChannelKind::Extended, HARD).new_mining_job(1), None);
}

#[test]
fn a_flood_on_one_job_is_capped() {
    let mut channel = ServerChannel::new(ChannelOptions {
        target: Target::MAX,
        max_shares_per_job: 10,
        ..options(ChannelKind::Extended)
    });
    channel.add_future_job(1, job(1, 20)).unwrap();
    channel.set_new_prev_hash(1, &tip(1, MIN_NTIME, HARD)).unwrap();
    let base = share(&channel, 1);
    for nonce in 0..10 {
        channel.check_share(&Share { nonce, ..base }, NOW).unwrap();
    }
    assert_eq!(
        error(channel.check_share(&Share { nonce: 10, ..base }, NOW)),
        ShareError::TooManyShares
    );
    assert_eq!(error(channel.check_share(&base, NOW)), ShareError::DuplicateShare);
    // The next job has its own budget.
    channel.add_active_job(2, job(2, 20), &tip(1, MIN_NTIME, HARD)).unwrap();
    assert!(channel.check_share(&Share { job_id: 2, ..base }, NOW).is_ok());
}

#[test]
fn acknowledgements_follow_credit() {
    let mut channel = working(ChannelKind::Standard, HARD);
    assert_eq!(channel.take_success(), None);
    channel.credit(5, 3 << 32);
    channel.credit(6, 4 << 32);
    assert_eq!(channel.unacknowledged(), 2);
    let message = channel.take_success().unwrap();
    assert_eq!((message.channel_id, message.last_sequence_number), (7, 6));
    assert_eq!((message.new_submits_accepted_count, message.new_shares_sum), (2, 7));
    assert_eq!(channel.unacknowledged(), 0);
}

/// The peer's trap, at the channel: opened between template B and its prevhash, it must mine A on A.
#[test]
fn a_channel_opened_between_template_and_prev_hash_works_on_the_old_tip() {
    let mut tracker = TemplateTracker::new();
    let prev_hash = |template_id, mark| adit_sv2::messages::template_distribution::SetNewPrevHash {
        template_id,
        prev_hash: [mark; 32],
        header_timestamp: MIN_NTIME,
        n_bits: HARD,
        target: Target::DIFFICULTY_1.to_le_bytes(),
    };
    let future = |id| crate::Template { future: true, ..template(id) };
    tracker.new_template(&new_template(&future(1)));
    tracker.set_new_prev_hash(&prev_hash(1, 0xa));
    tracker.new_template(&new_template(&future(2)));

    let work = tracker.work().unwrap();
    let mut channel = ServerChannel::new(options(ChannelKind::Extended));
    let job = Arc::new(factory().job(11, work.template(), 20).unwrap());
    channel.add_future_job(11, job).unwrap();
    channel.set_new_prev_hash(11, work.tip()).unwrap();
    let share = good(&channel, share(&channel, 11));
    channel.check_share(&share, NOW).unwrap();
    let solution = channel.solution(&share).unwrap();
    assert_eq!((solution.template_id, solution.header.prev_hash), (Some(1), [0xa; 32]));

    // B's job comes with B's tip, also where the channel was not told of B before.
    tracker.set_new_prev_hash(&prev_hash(2, 0xb));
    let work = tracker.work().unwrap();
    assert_eq!(channel.set_new_prev_hash(12, work.tip()), Err(JobTableError::UnknownFutureJob(12)));
    assert!(channel.check_share(&share, NOW).is_err_and(|r| r.error == ShareError::DuplicateShare));
    let job = Arc::new(factory().job(12, work.template(), 20).unwrap());
    channel.add_future_job(12, job).unwrap();
    channel.set_new_prev_hash(12, work.tip()).unwrap();
    assert_eq!(channel.active_job().unwrap().2.prev_hash, [0xb; 32]);
}

/// What a test knows of a channel's jobs: how each came and on which tip it counts.
#[derive(Default)]
struct Model {
    /// Id, mark of the tip where active, whether a custom one.
    jobs: Vec<(u32, Option<u8>, bool)>,
    paid: std::collections::HashSet<BlockHash>,
}

proptest! {
    /// Any operations in any order: nothing panics, no job outlives its tip, no id is there twice,
    /// no header is paid twice, and what is not live is stale or unknown.
    #[test]
    fn any_operations(
        extended in any::<bool>(),
        steps in prop::collection::vec((0u8..12, any::<u8>()), 0..150),
    ) {
        let kind = if extended { ChannelKind::Extended } else { ChannelKind::Standard };
        let mut channel = ServerChannel::new(options(kind));
        let size = channel.full_extranonce_size();
        let tip_of = |mark: u8| tip(mark, MIN_NTIME, EASY);
        let (mut next, mut current) = (1, None);
        let mut model = Model::default();
        for (step, value) in steps {
            match step {
                0 | 1 => {
                    channel.add_future_job(next, job(next, size)).unwrap();
                    model.jobs.push((next, None, false));
                    next += 1;
                }
                2 | 3 => if let Some(mark) = current {
                    channel.add_active_job(next, job(next % 3, size), &tip_of(mark)).unwrap();
                    model.jobs.push((next, Some(mark), false));
                    next += 1;
                } else {
                    let added = channel.add_active_job(next, job(next, size), &tip_of(value));
                    prop_assert_eq!(added, Err(JobTableError::NoPrevHash));
                },
                4 => {
                    let mark = value % 4;
                    let paid = Portion::new(u64::from(value), 255);
                    channel
                        .add_custom_job(next, job(next, size), MIN_NTIME, &tip_of(mark), paid)
                        .unwrap();
                    model.jobs.push((next, Some(mark), true));
                    next += 1;
                }
                5 => {
                    let id = u32::from(value) % next.max(1);
                    let mark = value % 4;
                    let waited = channel.awaits(id);
                    let outcome = channel.set_new_prev_hash(id, &tip_of(mark));
                    prop_assert_eq!(outcome.is_ok(), waited);
                    if waited {
                        current = Some(mark);
                        model.jobs.retain(|(other, on, custom)| {
                            *other == id || *custom && *on == Some(mark)
                        });
                        for entry in model.jobs.iter_mut().filter(|entry| entry.0 == id) {
                            entry.1 = Some(mark);
                        }
                        prop_assert_eq!(channel.active_job().map(|(id, ..)| id), Some(id));
                    }
                }
                6 => {
                    let mark = value % 4;
                    channel.retire_other_tips(&tip_of(mark).prev_hash);
                    model.jobs.retain(|(_, on, _)| on.is_none_or(|on| on == mark));
                }
                7 => {
                    channel.set_target(Target::from_expected_hashes(f64::from(value % 4 + 1)));
                }
                8 => {
                    let prefix = Extranonce::new(&[1, 0, 0, value % 8]).unwrap();
                    let prefix = prefix.padded(channel.extranonce_prefix().len());
                    channel.set_extranonce_prefix(prefix).unwrap();
                    while channel.take_unused_prefix().is_some() {}
                }
                9 => if channel.renew_job(next, NOW).is_some() {
                    let mark = channel.active_job().unwrap().2.prev_hash[0];
                    model.jobs.push((next, Some(mark), false));
                    next += 1;
                },
                _ => {
                    let id = u32::from(value) % (next + 2);
                    let share = Share { nonce: u32::from(value), ..share(&channel, id) };
                    let known = channel.job(id).is_some();
                    match channel.check_share(&share, NOW) {
                        Ok(accepted) => {
                            prop_assert!(channel.works_on(id));
                            prop_assert!(accepted.credit <= accepted.work);
                            prop_assert!(model.paid.insert(accepted.hash), "paid twice");
                            let solution = channel.solution(&share).unwrap();
                            prop_assert_eq!(solution.hash, accepted.hash);
                        }
                        Err(rejected) => if !known {
                            let error = rejected.error;
                            prop_assert!(
                                error == ShareError::StaleShare || error == ShareError::InvalidJobId
                            );
                        },
                    }
                }
            }
            // Live are those that should be, but for the oldest that made room.
            let live: Vec<_> =
                model.jobs.iter().filter(|(id, ..)| channel.job(*id).is_some()).collect();
            prop_assert!(live.len() <= MAX_LIVE_JOBS);
            if model.jobs.len() <= MAX_LIVE_JOBS {
                prop_assert_eq!(live.len(), model.jobs.len());
            }
            let missing: Vec<u32> = model
                .jobs
                .iter()
                .map(|(id, ..)| *id)
                .filter(|id| channel.job(*id).is_none())
                .collect();
            model.jobs.retain(|(id, ..)| !missing.contains(id));
            for (id, on, _) in &model.jobs {
                prop_assert_eq!(channel.works_on(*id), on.is_some());
            }
            let others = (0..next).filter(|id| channel.job(*id).is_some()).count();
            prop_assert_eq!(others, model.jobs.len());
        }
    }
}
