use std::sync::Arc;

use adit_sv2::frame::{Header as FrameHeader, encode_frame};
use adit_sv2::messages::Message;
use bitcoin::consensus::encode::{deserialize, serialize};
use bitcoin::hashes::Hash;
use bitcoin::{Transaction, TxOut};
use proptest::prelude::*;

use super::*;
use crate::channel::{ChannelOptions, JobTableError};
use crate::extranonce::Extranonce;
use crate::share::{Share, ShareError};
use crate::testing::{EASY, factory, find_nonce, job, template, tip};
use crate::{ChannelKind, ServerChannel};

const MIN_NTIME: u32 = 1_700_000_000;
const NOW: u32 = MIN_NTIME + 10;
const HARD: u32 = 0x1d00_ffff;

fn custom(mark: u8, nbits: u32) -> CustomJob {
    factory().custom_job(&template(5), &tip(mark, MIN_NTIME, nbits), 20).unwrap()
}

fn channel() -> ServerChannel {
    ServerChannel::new(ChannelOptions {
        id: 7,
        kind: ChannelKind::Extended,
        extranonce_prefix: Extranonce::new(&[1, 0, 0, 5]).unwrap(),
        extranonce_size: 16,
        target: Target::from_expected_hashes(16.0),
        max_target: Target::MAX,
        max_shares_per_job: 100,
    })
}

fn mined(custom: &CustomJob, channel: &ServerChannel, job_id: u32) -> Share<'static> {
    let extranonce = &[3; 16];
    let job = channel.job(job_id).unwrap();
    let merkle_root = job.merkle_root(channel.extranonce_prefix(), extranonce).unwrap();
    let (version, ntime) = (custom.version, NOW);
    let header = Job::header(&custom.tip().unwrap(), merkle_root, version, ntime, 0);
    let nonce = find_nonce(header, 0, |hash| channel.target().is_met_by(hash));
    Share { sequence_number: 1, job_id, nonce, ntime, version, extranonce }
}

#[test]
fn the_wire_carries_it_there_and_back() {
    let custom = custom(1, HARD);
    let token = B0255::new(&[9; 40]).unwrap();
    let message = custom.message(7, 3, token).unwrap();
    let mut frame = Vec::new();
    encode_frame(&message, &mut frame);
    let (decoded, _) = SetCustomMiningJob::decode(&frame[FrameHeader::LEN..]).unwrap();
    assert_eq!((decoded.channel_id, decoded.request_id), (7, 3));
    assert_eq!(decoded.mining_job_token.as_bytes(), [9; 40]);
    assert_eq!(CustomJob::from(&decoded), custom);
    let unsendable = CustomJob { coinbase_prefix: vec![0; 256], ..custom };
    assert_eq!(unsendable.message(7, 3, token), None);
}

/// What a client mines on is what the server rebuilds.
#[test]
fn the_same_job_as_the_client_s_own() {
    let (custom, own) = (custom(1, HARD), factory().job(4, &template(5), 20).unwrap());
    let rebuilt = custom.job(9, 20, true).unwrap();
    assert!(rebuilt.has_same_headers(&own));
    assert_eq!((rebuilt.id(), rebuilt.template_id()), (9, None));
    assert_eq!(rebuilt.version(), own.version());
    // Outputs as any Bitcoin library reads them.
    let outputs: Vec<TxOut> = deserialize(&custom.coinbase_tx_outputs).unwrap();
    assert_eq!(outputs.len(), 3);
    assert_eq!(custom.outputs().unwrap().flatten().count(), 3);
    assert_eq!(outputs.iter().map(|o| o.value.to_sat()).sum::<u64>(), 5_000_000_000);
}

/// Both halves of a declared coinbase around the extranonce are the block's coinbase.
#[test]
fn declared_parts_have_their_witness() {
    let job = job(1, 20);
    let coinbase = job.coinbase().unwrap();
    let (prefix, suffix) = (coinbase.declared_prefix(), coinbase.declared_suffix());
    let whole = [&prefix[..], &[7; 20], &suffix].concat();
    assert_eq!(Some(whole.clone()), coinbase.full(&[7; 4], &[7; 16]));
    let transaction: Transaction = deserialize(&whole).unwrap();
    assert_eq!(serialize(&transaction), whole);
    assert_eq!(transaction.input[0].witness.len(), 1);
    assert_eq!(Some(transaction.compute_txid().to_byte_array()), coinbase.txid(&[7; 4], &[7; 16]));

    let bare =
        Template { coinbase_tx_outputs_count: 0, coinbase_tx_outputs: Vec::new(), ..template(1) };
    let job = factory().job(1, &bare, 20).unwrap();
    let coinbase = job.coinbase().unwrap();
    assert_eq!(coinbase.declared_prefix(), coinbase.prefix());
    assert_eq!(coinbase.declared_suffix(), coinbase.suffix());
}

#[test]
fn a_share_counts_and_a_block_is_seen() {
    let mut channel = channel();
    let custom = custom(1, EASY);
    // Before the server knows any tip of its own.
    let tip = Arc::new(custom.tip().unwrap());
    let job = Arc::new(custom.job(1, 20, true).unwrap());
    channel.add_custom_job(1, job, custom.min_ntime, &tip, Portion::new(3, 4)).unwrap();
    assert!(channel.works_on(1) && channel.active_job().is_none() && !channel.is_on(&tip));
    let share = mined(&custom, &channel, 1);
    let accepted = channel.check_share(&share, NOW).unwrap();
    assert_eq!((accepted.work, accepted.credit, accepted.is_block), (16, 12, true));
    let again = channel.check_share(&share, NOW).unwrap_err();
    assert_eq!(again.error, ShareError::DuplicateShare);
    let early = Share { ntime: MIN_NTIME - 1, ..share };
    assert_eq!(channel.check_share(&early, NOW).unwrap_err().error, ShareError::NtimeTooOld);

    let solution = channel.solution(&share).unwrap();
    assert_eq!((solution.hash, solution.template_id), (accepted.hash, None));
    assert!(solution.message().is_none(), "no template provider of ours knows it");
    let push = solution.push_solution().unwrap();
    assert_eq!(push.extranonce.as_bytes(), [&[1, 0, 0, 5][..], &[3; 16]].concat());
    assert_eq!((push.prev_hash, push.nbits, push.nonce), (tip.prev_hash, EASY, share.nonce));
    let coinbase: Transaction = deserialize(&solution.coinbase_tx).unwrap();
    let script = coinbase.input[0].script_sig.to_bytes();
    let expected = [&custom.coinbase_prefix, push.extranonce.as_bytes()].concat();
    assert_eq!(script, expected);
}

/// A client may be ahead of the server: its job lives on when the tip comes.
#[test]
fn custom_jobs_and_tips() {
    let mut channel = channel();
    channel.start_work(1, job(1, 20), &tip(1, MIN_NTIME, HARD), &mut Vec::new()).unwrap();
    let (old, ahead) = (custom(1, HARD), custom(2, HARD));
    for (id, custom) in [(2, &old), (3, &ahead)] {
        let tip = Arc::new(custom.tip().unwrap());
        let job = Arc::new(custom.job(id, 20, true).unwrap());
        channel.add_custom_job(id, job, custom.min_ntime, &tip, Portion::WHOLE).unwrap();
    }
    assert_eq!(channel.active_job().unwrap().0, 1, "custom jobs are not the server's");
    assert_eq!(channel.renew_job(4, NOW), Some(NOW));
    assert!(channel.job(4).unwrap().has_same_headers(channel.job(1).unwrap()));

    channel.add_future_job(5, job(5, 20)).unwrap();
    channel.set_new_prev_hash(5, &tip(2, MIN_NTIME, HARD)).unwrap();
    let live: Vec<u32> = (1..=5).filter(|id| channel.works_on(*id)).collect();
    assert_eq!(live, [3, 5]);
    let stale = Share { job_id: 2, ..mined(&ahead, &channel, 3) };
    assert_eq!(channel.check_share(&stale, NOW).unwrap_err().error, ShareError::StaleShare);
    let share = mined(&ahead, &channel, 3);
    assert!(channel.check_share(&share, NOW).is_ok());

    // Where the server gives no jobs, the tips of custom jobs are retired by themselves.
    channel.add_future_job(6, job(6, 20)).unwrap();
    channel.retire_other_tips(&ahead.prev_hash);
    assert!(channel.works_on(3) && channel.works_on(5) && channel.awaits(6));
    channel.retire_other_tips(&[0; 32]);
    assert!(!channel.works_on(3) && !channel.works_on(5) && channel.awaits(6));
}

#[test]
fn what_makes_no_job_is_refused() {
    let good = custom(1, HARD);
    let refused = |custom: CustomJob| custom.job(1, 20, true).unwrap_err();
    let long = CustomJob { coinbase_prefix: vec![0; 81], ..good.clone() };
    assert_eq!(refused(long), CoinbaseError::ScriptSigTooLong { len: 101 }.into());
    let cut = good.coinbase_tx_outputs.len() - 1;
    for outputs in [&[][..], &[0xfd], &[0xff; 9], &good.coinbase_tx_outputs[..cut]] {
        let custom = CustomJob { coinbase_tx_outputs: outputs.to_vec(), ..good.clone() };
        assert!(custom.job(1, 20, true).is_err(), "{outputs:?}");
    }
    let trailing = [&good.coinbase_tx_outputs[..], &[0; 9]].concat();
    let trailing = CustomJob { coinbase_tx_outputs: trailing, ..good.clone() };
    assert_eq!(refused(trailing), CoinbaseError::OutputCount { said: 3, found: 4 }.into());
    let path = CustomJob { merkle_path: vec![[0; 32]; 256], ..good.clone() };
    assert_eq!(refused(path), JobError::MerklePath { steps: 256 });
    assert!(good.job(1, 0, true).is_err() && good.job(1, 65, true).is_err());
    assert_eq!(CustomJob { nbits: 0, ..good.clone() }.tip(), None);

    let mut channel = channel();
    let (job, tip) = (Arc::new(good.job(1, 19, true).unwrap()), Arc::new(good.tip().unwrap()));
    let added = channel.add_custom_job(1, job, 0, &tip, Portion::WHOLE);
    assert_eq!(added, Err(JobTableError::ExtranonceSize));
}

#[test]
fn portions() {
    assert_eq!(Portion::WHOLE.of(u128::MAX), u128::MAX);
    assert_eq!(Portion::new(1, 1), Portion::WHOLE);
    assert_eq!(Portion::new(7, 3), Portion::WHOLE);
    assert_eq!(Portion::new(u64::MAX, u64::MAX), Portion::WHOLE);
    assert_eq!(Portion::new(1, 4).of(1 << 80), 1 << 78);
    assert_eq!(Portion::new(1, 3).of(3_000_000), 999_999, "rounded down");
    assert_eq!(Portion::new(5, 0).of(u128::MAX), 0);
    assert_eq!(Portion::new(0, 5).of(u128::MAX), 0);
}

proptest! {
    /// Nothing that a client can put into the message panics, and whatever makes a job is a
    /// coinbase that a Bitcoin library reads.
    #[test]
    fn any_fields(
        prefix in prop::collection::vec(any::<u8>(), 0..256),
        mut outputs in prop::collection::vec(any::<u8>(), 0..80),
        honest in any::<bool>(),
        path in prop::collection::vec(any::<[u8; 32]>(), 0..4),
        (version, nbits, size) in (any::<u32>(), any::<u32>(), 0usize..70),
    ) {
        if honest {
            outputs = custom(1, HARD).coinbase_tx_outputs;
        }
        let custom = CustomJob {
            version,
            nbits,
            coinbase_tx_version: version,
            coinbase_prefix: prefix,
            coinbase_tx_outputs: outputs,
            merkle_path: path,
            ..custom(1, HARD)
        };
        let _ = custom.tip();
        let _ = custom.outputs().map(|outputs| outputs.count());
        if let Ok(job) = custom.job(1, size, false) {
            let whole = job.coinbase().unwrap().full(&vec![1; size], &[]).unwrap();
            let count = split_outputs(&custom.coinbase_tx_outputs).unwrap().0;
            // Without outputs the marker would be ambiguous; no such block is valid anyway.
            if count > 0 {
                let transaction: Transaction = deserialize(&whole).unwrap();
                prop_assert_eq!(serialize(&transaction), whole);
                prop_assert_eq!(transaction.output.len() as u64, count);
            }
        }
    }
}
