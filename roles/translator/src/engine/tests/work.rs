//! Jobs, tips, targets, prefixes and groups.

use adit_sv2::codec::Seq064K;
use adit_sv2::messages::mining::{SetExtranoncePrefix, SetGroupChannel, SetTarget};

use super::*;

const PREFIX: [u8; 4] = [0xa0, 0xa1, 0xa2, 0xa3];

fn notifies(lines: &[String]) -> usize {
    lines.iter().filter(|line| line.contains("mining.notify")).count()
}

#[test]
fn a_future_job_waits_for_its_previous_hash() {
    let mut net = Net::mining();
    net.told(MINER);
    net.job(7, 2, None);
    net.job(7, 3, None);
    assert!(net.told(MINER).is_empty());
    net.tip(7, 3, 0x22, HARD);
    let told = net.told(MINER);
    let job = Notified::last(&told);
    assert_eq!(told.len(), 1, "the difficulty is the same");
    assert!(job.clean);
    assert_eq!(job.prev_hash, [0x22; 32]);
    // An active job is worth a notify, and none of the old work is thrown away for it.
    net.job_with(7, 4, Some(NTIME + 5), b"more fees");
    let job = Notified::last(&net.told(MINER));
    assert_eq!((job.clean, job.ntime, &job.coinb2[..]), (false, NTIME + 5, &b"more fees"[..]));
}

#[test]
fn the_same_work_again_has_another_id_and_another_time() {
    let mut net = Net::mining();
    let first = Notified::last(&net.told(MINER));
    net.job(7, 2, Some(NTIME));
    let second = Notified::last(&net.told(MINER));
    assert_ne!(second.job_id, first.job_id);
    assert_eq!(second.ntime, first.ntime + 1, "or the miner does the same hashes again");
    net.pass(Duration::from_secs(20));
    net.told(MINER);
    net.job(7, 3, Some(NTIME));
    assert_eq!(Notified::last(&net.told(MINER)).ntime, NTIME + 2);
}

#[test]
fn a_quiet_upstream_is_not_noticed_by_the_miner() {
    let mut net = Net::mining();
    let first = Notified::last(&net.told(MINER));
    net.pass(Duration::from_secs(44));
    assert!(net.told(MINER).is_empty());
    net.pass(Duration::from_secs(2));
    let told = net.told(MINER);
    let again = Notified::last(&told);
    assert_eq!((notifies(&told), again.clean), (1, false));
    assert_ne!(again.job_id, first.job_id);
    assert!((NTIME + 45..NTIME + 47).contains(&again.ntime), "time goes on: {}", again.ntime);
    // Shares of both count.
    for job in [first, again] {
        let share = net.share(MINER, &job, |hash| meets(hash, &EASY));
        assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    }
    assert_eq!(net.sent().len(), 2);
    net.pass(Duration::from_secs(300));
    let told = net.told(MINER);
    assert!((6..=7).contains(&notifies(&told)), "{}", told.len());
}

#[test]
fn a_target_reaches_the_miner_with_the_next_job() {
    let mut net = Net::mining();
    net.told(MINER);
    // Future jobs that were sent already are judged by it, active ones are not (spec 5.3.21).
    net.job(7, 2, None);
    net.say(&SetTarget { channel_id: 7, maximum_target: target(2_887.9) });
    assert!(net.told(MINER).is_empty());
    net.tip(7, 2, 0x22, HARD);
    let told = net.told(MINER);
    assert_eq!(told[0], r#"{"id":null,"method":"mining.set_difficulty","params":[2887]}"#);
    assert_eq!(notifies(&told), 1);
    // The pool sends the same job again so that it counts now: difficulty, then a fresh job, at once.
    net.say(&SetTarget { channel_id: 7, maximum_target: target(1_024.0) });
    net.job(7, 3, Some(NTIME));
    let told = net.told(MINER);
    assert_eq!(told[0], r#"{"id":null,"method":"mining.set_difficulty","params":[1024]}"#);
    assert!(!Notified::parse(&told[1]).clean, "work done so far still counts");
    net.say(&SetTarget { channel_id: 7, maximum_target: target(0.000_5) });
    net.job(7, 4, Some(NTIME));
    let told = net.told(MINER);
    let value: Value = serde_json::from_str(&told[0]).unwrap();
    let said = value["params"][0].as_f64().unwrap();
    assert!((said / 0.000_5 - 1.0).abs() < 1e-9, "{said}");
}

#[test]
fn shares_of_older_jobs_are_judged_by_the_older_difficulty() {
    let mut net = Net::mining();
    let easy = Notified::last(&net.told(MINER));
    let share = net.share(MINER, &easy, |hash| meets(hash, &EASY));
    net.say(&SetTarget { channel_id: 7, maximum_target: target(1e6) });
    net.job(7, 2, Some(NTIME));
    let hard = Notified::last(&net.told(MINER));
    let other = net.share(MINER, &hard, |hash| meets(hash, &EASY));
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    assert_eq!(net.line(MINER, &other.submit()), refused(23, "Low difficulty share"));
    assert_eq!(net.sent().len(), 1);
}

#[test]
fn a_new_prefix_is_a_clean_job_and_old_jobs_keep_the_old_one() {
    let mut net = Net::mining();
    let before = Notified::last(&net.told(MINER));
    assert!(before.coinb1.ends_with(&PREFIX));
    let new = [0xb0, 0xb1, 0xb2, 0xb3];
    // Sent before the prefix: keeps the old one (spec 5.3.10).
    net.job(7, 2, None);
    let extranonce_prefix = B032::new(&new).unwrap();
    net.say(&SetExtranoncePrefix { channel_id: 7, extranonce_prefix });
    assert!(net.told(MINER).is_empty() && net.closed.is_empty());
    net.job(7, 3, Some(NTIME));
    let job = Notified::last(&net.told(MINER));
    assert!(job.clean && job.coinb1.ends_with(&new));
    // The miner is told to change over; what it had found is good all the same.
    let share = net.share(MINER, &before, |hash| meets(hash, &EASY));
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    assert_eq!(net.sent().len(), 1);
    net.tip(7, 2, 0x22, HARD);
    assert!(Notified::last(&net.told(MINER)).coinb1.ends_with(&PREFIX));

    net.say(&SetExtranoncePrefix { channel_id: 7, extranonce_prefix: B032::new(&[1]).unwrap() });
    assert_eq!(net.closed, [(net.upstream, "prefix-of-another-length")]);
}

/// Two miners in group 1, one that joined later; the upstream speaks to the group.
#[test]
fn jobs_for_a_group() {
    let mut net = Net::connected();
    let late = PeerId(3);
    for (miner, channel) in [(MINER, 7), (PeerId(2), 8)] {
        net.hello(miner);
        net.open_in(channel, 1, &[channel as u8; 4], 12);
        net.work(channel, 1, 0x11);
        net.told(miner);
    }
    // A future job for the group; a member that comes before its previous hash has it as well.
    net.job(1, 2, None);
    net.hello(late);
    net.open_in(9, 1, &[9; 4], 12);
    net.tip(1, 2, 0x22, HARD);
    for (miner, channel) in [(MINER, 7), (PeerId(2), 8), (late, 9)] {
        let told = net.told(miner);
        let job = Notified::last(&told);
        assert!(job.clean && job.prev_hash == [0x22; 32], "{channel}");
        assert!(job.coinb1.ends_with(&[channel; 4]), "each has its own prefix");
    }
    assert_eq!(net.engine.status(net.now)["upstream"]["channels"], 3);
    let shared = &net.engine.miners[&MINER].jobs.newest().unwrap().work.job;
    let other = &net.engine.miners[&late].jobs.newest().unwrap().work.job;
    assert!(std::sync::Arc::ptr_eq(shared, other), "one job in memory");

    net.job(1, 3, Some(NTIME));
    net.say(&SetTarget { channel_id: 1, maximum_target: target(64.0) });
    net.job(1, 4, Some(NTIME));
    for miner in [MINER, PeerId(2), late] {
        let told = net.told(miner);
        assert_eq!(notifies(&told), 2);
        assert!(told[1].contains(r#""params":[64]"#), "{told:?}");
    }

    // One moves to another group with the future jobs it has.
    net.job(1, 5, None);
    let channel_ids = [8];
    let channel_ids = Seq064K::new(&channel_ids).unwrap();
    net.say(&SetGroupChannel { group_channel_id: 2, channel_ids });
    net.tip(2, 5, 0x33, HARD);
    assert!(net.told(MINER).is_empty());
    assert_eq!(Notified::last(&net.told(PeerId(2))).prev_hash, [0x33; 32]);
    net.tip(1, 5, 0x33, HARD);
    assert_eq!(notifies(&net.told(MINER)), 1);
    assert!(net.told(PeerId(2)).is_empty());
    assert!(net.closed.is_empty());
}

/// As above, where the job that waits was sent to the group: the one member's new prefix is not for it.
#[test]
fn a_new_prefix_is_not_for_jobs_that_the_group_was_sent_before() {
    let mut net = Net::mining();
    net.job(1, 2, None);
    let extranonce_prefix = B032::new(&[0xb0, 0xb1, 0xb2, 0xb3]).unwrap();
    net.say(&SetExtranoncePrefix { channel_id: 7, extranonce_prefix });
    net.tip(1, 2, 0x22, HARD);
    assert!(Notified::last(&net.told(MINER)).coinb1.ends_with(&PREFIX));
    net.job(1, 3, Some(NTIME));
    let job = Notified::last(&net.told(MINER));
    assert!(job.clean && job.coinb1.ends_with(&[0xb0, 0xb1, 0xb2, 0xb3]));
}

#[test]
fn a_new_member_without_a_tip_is_passed_over() {
    let mut net = Net::connected();
    net.hello(MINER);
    net.open_in(7, 1, &[1; 4], 12);
    net.work(7, 1, 0x11);
    net.job(1, 2, None);
    net.tip(1, 2, 0x22, HARD);
    net.told(MINER);
    net.hello(PeerId(2));
    net.open_in(8, 1, &[2; 4], 12);
    net.job(1, 3, Some(NTIME));
    net.tip(1, 9, 0x22, HARD);
    assert!(net.told(PeerId(2)).is_empty());
    // The other member was sent a previous hash for a job that it never had.
    assert_eq!(net.closed, [(net.upstream, "prevhash-for-unknown-job")]);
}

#[test]
fn channels_that_are_sent_the_same_share_it() {
    let mut net = Net::connected();
    for (miner, channel) in [(MINER, 7), (PeerId(2), 8)] {
        net.hello(miner);
        net.open(channel, &[channel as u8; 4], 12);
    }
    for channel in [7, 8] {
        net.work(channel, 1, 0x11);
    }
    let work = |miner| &net.engine.miners[&miner].jobs.newest().unwrap().work;
    assert!(std::sync::Arc::ptr_eq(&work(MINER).job, &work(PeerId(2)).job));
    assert!(std::sync::Arc::ptr_eq(&work(MINER).tip, &work(PeerId(2)).tip));
}

#[test]
fn a_job_that_allows_no_rolling() {
    let mut net = Net::connected();
    net.join(MINER);
    net.line(MINER, r#"{"id":0,"method":"mining.configure","params":[["version-rolling"],{}]}"#);
    net.line(MINER, r#"{"id":1,"method":"mining.subscribe","params":[]}"#);
    net.line(MINER, r#"{"id":2,"method":"mining.authorize","params":["a"]}"#);
    net.open(7, &[1; 4], 12);
    net.work(7, 1, 0x11);
    assert!(!net.told(MINER).iter().any(|line| line.contains("version_mask")));
    let mut job = NewExtendedMiningJob {
        channel_id: 7,
        job_id: 2,
        min_ntime: Some(NTIME),
        version: 4,
        version_rolling_allowed: false,
        merkle_path: Seq0255::new(&[]).unwrap(),
        coinbase_tx_prefix: B064K::new(&[1]).unwrap(),
        coinbase_tx_suffix: B064K::new(&[2]).unwrap(),
    };
    net.say(&job);
    let told = net.told(MINER);
    assert_eq!(told[0], r#"{"id":null,"method":"mining.set_version_mask","params":["00000000"]}"#);
    (job.job_id, job.version_rolling_allowed) = (3, true);
    net.say(&job);
    assert!(net.told(MINER)[0].contains("1fffe000"));
}

#[test]
fn at_most_16_jobs_are_kept() {
    let mut net = Net::mining();
    let first = Notified::last(&net.told(MINER));
    for id in 2..=17 {
        net.job(7, id, Some(NTIME));
    }
    let share = net.share(MINER, &first, |hash| meets(hash, &EASY));
    assert_eq!(net.line(MINER, &share.submit()).last().unwrap(), &refused(21, "Stale job")[0]);
}

#[test]
fn the_time_of_a_new_tip_is_handed_to_the_histogram() {
    let mut net = Net::mining();
    net.engine.miner_event(MINER, 0, Event::Line(b""), net.now, &mut net.out);
    let since = net.now.instant;
    net.job(7, 2, None);
    let message = SetNewPrevHash {
        channel_id: 7,
        job_id: 2,
        prev_hash: [0x22; 32],
        min_ntime: NTIME,
        nbits: HARD,
    };
    net.say(&message);
    let effects = std::mem::take(&mut net.effects);
    assert_eq!(effects.last(), Some(&Effect::FannedOut(since)));
}
