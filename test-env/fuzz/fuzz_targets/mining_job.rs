//! Jobs from messages: of an upstream, of a template provider, of a client. What makes a job can be sent on and is the
//! same job; its coinbase is a transaction that rust-bitcoin hashes the same, where the parts make sense at all.
#![no_main]

use adit_fuzz::factory;
use adit_mining::{CustomJob, Job, TemplateTracker};
use adit_sv2::frame::Header;
use adit_sv2::messages::Message;
use adit_sv2::messages::mining::{NewExtendedMiningJob, SetCustomMiningJob};
use adit_sv2::messages::template_distribution::{NewTemplate, SetNewPrevHash};
use bitcoin::hashes::Hash;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(([kind, size], payload)) = data.split_first_chunk() else { return };
    let size = usize::from(*size);
    match kind % 3 {
        0 => {
            let Ok((message, _)) = NewExtendedMiningJob::decode(payload) else { return };
            let Ok(job) = Job::from_extended(&message, size) else { return };
            same(&job, size);
            assert_eq!(job.version(), message.version);
        }
        1 => {
            let Ok((message, _)) = SetCustomMiningJob::decode(payload) else { return };
            let custom = CustomJob::from(&message);
            let token = message.mining_job_token;
            let back = custom.message(message.channel_id, message.request_id, token);
            assert_eq!(back, Some(message));
            let _ = custom.tip();
            if let Ok(job) = custom.job(3, size, true) {
                same(&job, size);
                transaction(&job, size);
                assert!(custom.outputs().is_ok_and(|mut all| all.all(|output| output.is_ok())));
            }
        }
        _ => {
            let mut tracker = TemplateTracker::new();
            let Ok((message, rest)) = NewTemplate::decode(payload) else { return };
            let _ = tracker.new_template(&message);
            let after = &payload[message.encoded_len()..];
            assert_eq!(rest.is_empty(), after.is_empty());
            if let Ok((tip, _)) = SetNewPrevHash::decode(after) {
                let _ = tracker.set_new_prev_hash(&tip);
            }
            let waiting = tracker.futures().next().cloned();
            let working = tracker.work().map(|work| work.template().clone());
            for template in [waiting, working].into_iter().flatten() {
                if let Ok(job) = factory().job(5, &template, size) {
                    same(&job, size);
                    transaction(&job, size);
                }
            }
        }
    }
});

/// As it arrives at the next hop.
fn same(job: &Job, size: usize) {
    for min_ntime in [None, Some(5)] {
        let mut frame = Vec::new();
        job.write_frame_to(7, 9, min_ntime, &mut frame);
        let (header, payload) = frame.split_first_chunk().expect("a frame");
        assert_eq!(Header::parse(header).msg_length as usize, payload.len());
        let (message, _) = NewExtendedMiningJob::decode(payload).expect("our own frame");
        assert_eq!((message.channel_id, message.job_id, message.min_ntime), (7, 9, min_ntime));
        let read = Job::from_extended(&message, size).expect("our own job");
        assert!(read.has_same_headers(job));
        let extranonce = vec![0xab; size];
        let (head, tail) = extranonce.split_at(size / 2);
        let root = job.merkle_root(head, tail).expect("the right size");
        assert_eq!(read.merkle_root(&extranonce, &[]), Some(root));
    }
    assert_eq!(job.merkle_root(&[], &vec![0; size + 1]), None);
    let coinbase = job.coinbase().expect("an extended job");
    let _ = (coinbase.declared_prefix(), coinbase.declared_suffix());
    let _ = coinbase.outputs().map(Iterator::count);
}

/// A coinbase that we put together is one.
fn transaction(job: &Job, size: usize) {
    let coinbase = job.coinbase().expect("an extended job");
    let extranonce = vec![0xab; size];
    let raw = coinbase.full(&extranonce, &[]).expect("the right size");
    let declared = [coinbase.declared_prefix(), extranonce.clone(), coinbase.declared_suffix()];
    assert_eq!(declared.concat(), raw);
    let read: bitcoin::Transaction = bitcoin::consensus::deserialize(&raw).expect("a transaction");
    assert!(read.input.len() == 1 && read.input[0].previous_output.is_null());
    let txid = coinbase.txid(&extranonce, &[]).expect("the right size");
    assert_eq!(read.compute_txid().to_byte_array(), txid);
    assert!(read.input[0].script_sig.as_bytes().ends_with(&extranonce));
}
