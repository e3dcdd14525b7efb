use adit_sv2::codec::Seq0255;
use adit_sv2::messages::Message;
use bitcoin::consensus::encode::deserialize;
use bitcoin::hashes::Hash;
use bitcoin::{Transaction, TxMerkleNode};

use super::*;
use crate::testing::{EASY, factory, job, template, tip};

fn decode(frame: &[u8]) -> NewExtendedMiningJob<'_> {
    let (header, payload) = frame.split_first_chunk().unwrap();
    let header = FrameHeader::parse(header);
    assert!(header.channel_msg);
    assert_eq!(header.msg_type, NewExtendedMiningJob::TYPE);
    assert_eq!(header.msg_length as usize, payload.len());
    let (message, tlvs) = NewExtendedMiningJob::decode(payload).unwrap();
    assert!(tlvs.is_empty());
    message
}

#[test]
fn frames_say_what_the_job_is() {
    let job = job(0x0a0b_0c0d, 20);
    let message = decode(job.future_frame());
    assert_eq!((message.channel_id, message.job_id), (0, 0x0a0b_0c0d));
    assert_eq!(message.min_ntime, None);
    assert_eq!(message.version, 0x2000_0000);
    assert!(message.version_rolling_allowed);
    assert!(message.merkle_path.iter().eq(job.merkle_path().iter().copied()));
    let coinbase = job.coinbase().unwrap();
    assert_eq!(message.coinbase_tx_prefix.as_bytes(), coinbase.prefix());
    assert_eq!(message.coinbase_tx_suffix.as_bytes(), coinbase.suffix());
}

#[test]
fn frames_are_patched_where_the_constants_say() {
    let job = job(1, 20);
    let mut frame = job.future_frame().to_vec();
    frame[CHANNEL_ID_AT..JOB_ID_AT].copy_from_slice(&7u32.to_le_bytes());
    frame[JOB_ID_AT..MIN_NTIME_AT].copy_from_slice(&8u32.to_le_bytes());
    assert_eq!((decode(&frame).channel_id, decode(&frame).job_id), (7, 8));

    let mut frames = vec![0xee; 3];
    job.write_frame(9, Some(1_700_000_000), &mut frames);
    let active = decode(&frames[3..]);
    let expected = NewExtendedMiningJob {
        job_id: 9,
        min_ntime: Some(1_700_000_000),
        ..decode(job.future_frame())
    };
    assert_eq!(active, expected);
    assert_eq!(frames[3 + MIN_NTIME_AT], 1);
    frames.clear();
    job.write_frame(1, None, &mut frames);
    assert_eq!(frames, job.future_frame());
}

#[test]
fn a_client_computes_what_the_server_computes() {
    let ours = job(4, 20);
    let theirs = Job::from_extended(&decode(ours.future_frame()), 20).unwrap();
    let root = ours.merkle_root(&[1, 2, 3, 4], &[9; 16]);
    assert!(root.is_some());
    assert_eq!(theirs.merkle_root(&[1, 2, 3, 4], &[9; 16]), root);
    assert_eq!(theirs.merkle_root(&[1, 2, 3, 4], &[9; 15]), None);
    assert_eq!(theirs.id(), 4);
    assert_eq!(theirs.template_id(), None);
    assert_eq!(ours.template_id(), Some(4));
}

#[test]
fn the_root_is_the_one_of_the_block() {
    let job = job(4, 8);
    let full = job.coinbase().unwrap().full(&[1, 2, 3, 4], &[5; 4]).unwrap();
    let coinbase: Transaction = deserialize(&full).unwrap();
    assert_eq!(coinbase.output.len(), 3);
    let paid: Vec<_> = coinbase.output.iter().map(|output| output.value.to_sat()).collect();
    assert_eq!(paid, [3_750_000_000, 1_250_000_000, 0]);
    assert_eq!(coinbase.input[0].witness.len(), 1);
    // Fold the path with the oracle's hash.
    let mut root = coinbase.compute_txid().to_byte_array();
    for step in job.merkle_path() {
        root = TxMerkleNode::hash(&[root, *step].concat()).to_byte_array();
    }
    assert_eq!(job.merkle_root(&[1, 2, 3, 4], &[5; 4]), Some(root));
}

#[test]
fn a_standard_job_has_its_root() {
    let message = NewMiningJob {
        channel_id: 1,
        job_id: 2,
        min_ntime: None,
        version: 3,
        merkle_root: [4; 32],
    };
    let job = Job::from_standard(&message);
    assert!(job.has_fixed_root());
    assert_eq!(job.merkle_root(&[], &[]), Some([4; 32]));
    assert!(job.future_frame().is_empty());
    let mut out = Vec::new();
    job.write_frame(1, Some(2), &mut out);
    assert!(out.is_empty());
    let tip = tip(1, 100, EASY);
    let header = Job::header(&tip, [4; 32], 3, 101, 5);
    assert_eq!((header.prev_hash, header.nbits, header.ntime), (tip.prev_hash, EASY, 101));
}

#[test]
fn a_set_builds_each_size_once() {
    let mut set = JobSet::new(6, Arc::new(template(60)));
    let factory = factory();
    let small = set.job(&factory, 4).unwrap();
    let large = set.job(&factory, 20).unwrap();
    assert!(Arc::ptr_eq(&small, &set.job(&factory, 4).unwrap()));
    assert!(!Arc::ptr_eq(&small, &large));
    assert_eq!((small.id(), large.id(), set.id()), (6, 6, 6));
    assert_eq!(set.template().id, 60);
    assert!(matches!(
        set.job(&factory, 65),
        Err(JobError::Coinbase(CoinbaseError::ExtranonceSize { size: 65 }))
    ));
}

#[test]
fn what_does_not_fit_is_refused() {
    let long_tag = JobFactory { tag: vec![b'x'; 80], ..factory() };
    assert_eq!(
        long_tag.job(1, &template(1), 20).unwrap_err(),
        JobError::Coinbase(CoinbaseError::ScriptSigTooLong { len: 3 + 2 + 80 + 1 + 20 })
    );
    let mut odd = template(1);
    odd.coinbase_tx_outputs_count = 2;
    let error = factory().job(1, &odd, 20).unwrap_err();
    assert_eq!(error, JobError::Coinbase(CoinbaseError::OutputCount { said: 4, found: 3 }));
    let mut deep = template(1);
    deep.merkle_path = vec![[0; 32]; 256];
    assert_eq!(factory().job(1, &deep, 20).unwrap_err(), JobError::MerklePath { steps: 256 });
    let mut absurd = template(1);
    absurd.merkle_path = vec![[0; 32]; 255];
    assert!(Seq0255::new(&absurd.merkle_path).is_ok() && factory().job(1, &absurd, 20).is_ok());
}

#[test]
fn ids_go_round_without_stopping() {
    let mut ids = JobIds::default();
    assert_eq!((ids.allocate(), ids.allocate()), (1, 2));
    ids.last = u32::MAX;
    assert_eq!((ids.allocate(), ids.allocate()), (0, 1));
}
