//! Shares: what they are answered, and what the upstream gets.

use std::sync::Arc;

use super::super::channel::Work;
use super::*;

fn easy(hash: &[u8; 32]) -> bool {
    meets(hash, &EASY)
}

fn decode(frame: &(Header, Vec<u8>)) -> SubmitSharesExtended<'_> {
    match Mining::decode(&frame.0, &frame.1).unwrap().0 {
        Mining::SubmitSharesExtended(share) => share,
        other => panic!("{other}"),
    }
}

#[test]
fn the_upstream_hashes_what_the_miner_hashed() {
    let mut net = Net::mining();
    let job = Notified::last(&net.told(MINER));
    let share = net.share(MINER, &job, easy);
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    let [frame] = &net.sent()[..] else { panic!("not one share") };
    let sent = decode(frame);
    assert_eq!((sent.channel_id, sent.sequence_number, sent.job_id), (7, 0, 1));
    assert_eq!(sent.extranonce.as_bytes(), [&[0, 0, 0, 1][..], &[7; 8]].concat());
    let prefix = [0xa0, 0xa1, 0xa2, 0xa3];
    assert_eq!(upstream_header(&sent, &prefix, 0x11, HARD), share.header);
    assert!(job.coinb1.ends_with(&prefix), "the upstream's prefix is hidden in coinb1");
    assert_eq!(net.totals().sent, 1);
}

#[test]
fn an_upstream_that_grants_more_than_was_asked() {
    let mut net = Net::connected();
    net.hello(MINER);
    net.open(7, &[1, 2, 3, 4], 16);
    net.work(7, 1, 0x11);
    let job = Notified::last(&net.told(MINER));
    assert!(job.coinb1.ends_with(&[1, 2, 3, 4]) && job.coinb2.starts_with(&[0; 4]));
    let share = net.share(MINER, &job, easy);
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    let [frame] = &net.sent()[..] else { panic!("not one share") };
    let sent = decode(frame);
    assert_eq!(sent.extranonce.as_bytes().len(), 16);
    assert_eq!(upstream_header(&sent, &[1, 2, 3, 4], 0x11, HARD), share.header);
}

#[test]
fn a_rolled_version() {
    let mut net = Net::connected();
    net.join(MINER);
    net.line(MINER, r#"{"id":0,"method":"mining.configure","params":[["version-rolling"],{"version-rolling.mask":"1fffe000"}]}"#);
    net.line(MINER, r#"{"id":1,"method":"mining.subscribe","params":[]}"#);
    net.line(MINER, r#"{"id":2,"method":"mining.authorize","params":["a"]}"#);
    net.open(7, &[1, 2, 3, 4], 12);
    net.work(7, 1, 0x11);
    let mut job = Notified::last(&net.told(MINER));
    job.version |= 0x0040_6000;
    let share = net.share(MINER, &job, easy);
    let submit = share.submit().replace("], \"id\"", ", \"00406000\"], \"id\"");
    assert_eq!(net.line(MINER, &submit), [ACCEPTED]);
    let [frame] = &net.sent()[..] else { panic!("not one share") };
    let sent = decode(frame);
    assert_eq!(sent.version, 0x2040_6000);
    assert_eq!(upstream_header(&sent, &[1, 2, 3, 4], 0x11, HARD), share.header);
}

#[test]
fn every_error_has_its_code() {
    let mut net = Net::mining();
    let job = Notified::last(&net.told(MINER));
    let share = net.share(MINER, &job, easy);

    // 25 and 24: a miner that mines on after a restart. It is asked once to begin anew.
    let other = PeerId(2);
    net.join(other);
    let reconnect = r#"{"id":null,"method":"client.reconnect","params":[]}"#;
    let told = net.line(other, &share.submit());
    assert_eq!(told, [refused(25, "Not subscribed"), vec![reconnect.to_owned()]].concat());
    assert_eq!(net.line(other, &share.submit()), refused(25, "Not subscribed"));
    net.line(other, r#"{"id":1,"method":"mining.subscribe","params":[]}"#);
    assert_eq!(net.line(other, &share.submit()), refused(24, "Unauthorized worker"));

    // 21: never heard of, or of another miner.
    for job_id in ["1", "zz", "ffffffffffffffff"] {
        let wrong = Found { job_id: job_id.into(), ..share.clone() };
        assert_eq!(net.line(MINER, &wrong.submit()), refused(21, "Job not found"), "{job_id}");
    }
    // 20: not a share.
    let nothing = r#"{"id":4,"method":"mining.submit","params":["w","1"]}"#;
    assert_eq!(net.line(MINER, nothing), refused(20, "Malformed share"));
    // 20: outside the upstream's window, on both sides.
    for ntime in [NTIME - 1, NTIME + 7_001] {
        let wrong = Found { ntime, ..share.clone() };
        assert_eq!(net.line(MINER, &wrong.submit()), refused(20, "Time out of range"));
    }
    // 23: too easy.
    let hard = net.share(MINER, &job, |hash| !easy(hash));
    assert_eq!(net.line(MINER, &hard.submit()), refused(23, "Low difficulty share"));
    // 22: paid once, under whatever job id.
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    assert_eq!(net.line(MINER, &share.submit()), refused(22, "Duplicate share"));
    net.job(7, 2, Some(NTIME));
    let again = Notified::last(&net.told(MINER));
    assert_ne!(again.job_id, job.job_id);
    let again = Found { job_id: again.job_id, ..share.clone() };
    assert_eq!(net.line(MINER, &again.submit()), refused(22, "Duplicate share"));
    // 21: over.
    net.work(7, 3, 0x22);
    net.told(MINER);
    assert_eq!(net.line(MINER, &share.submit()), refused(21, "Stale job"));

    assert_eq!(net.sent().len(), 1, "the upstream got the good one alone");
    let totals = net.totals();
    assert_eq!((totals.accepted, totals.rejected), (1, 13));
    // No answer where there is no id, and yet it counts.
    let job = Notified::last(&{
        net.job(7, 4, Some(NTIME));
        net.told(MINER)
    });
    let silent = net.share(MINER, &job, easy).submit().replace("\"id\":4", "\"id\":null");
    assert!(net.line(MINER, &silent).is_empty());
    assert_eq!(net.totals().accepted, 2);
}

#[test]
fn what_firmware_does_to_hex_is_repaired_and_counted() {
    let mut net = Net::mining();
    let job = Notified::last(&net.told(MINER));
    let extranonce1 = net.engine.miners[&MINER].extranonce1.unwrap();
    // NerdMiner: no leading zeros in the nonce, blanks for zeros in the extranonce2.
    let mut extranonce2 = [7; 8];
    extranonce2[0] = 0;
    let mut shares =
        (0..).map(|n| Found::new(&job, &extranonce1, &extranonce2, NTIME, n, job.version));
    let share = shares.find(|share| easy(&share.hash)).unwrap();
    let line = format!(
        r#"{{"id":4,"method":"mining.submit","params":["w","{}","  07070707070707","{:X}","{:x}"]}}"#,
        share.job_id, share.ntime, share.nonce
    );
    assert_eq!(net.line(MINER, &line), [ACCEPTED]);
    assert_eq!(net.sent().len(), 1);
    assert_eq!(net.engine.miners[&MINER].stats.repaired_lines, 2);
}

#[test]
fn between_the_announced_difficulty_and_the_upstreams() {
    // 1.9 is announced as 1: a share for 1 is taken from the miner, and only one for 1.9 goes on. Both are far too hard
    // for a test to find, so the judgement is looked at by its targets.
    let mut net = Net::connected();
    net.hello(MINER);
    net.open(7, &[1, 2, 3, 4], 12);
    net.say(&adit_sv2::messages::mining::SetTarget { channel_id: 7, maximum_target: target(1.9) });
    net.work(7, 1, 0x11);
    let told = net.told(MINER);
    assert_eq!(told[0], r#"{"id":null,"method":"mining.set_difficulty","params":[1]}"#);
    let miner = net.engine.miners.get_mut(&MINER).unwrap();
    let job = miner.jobs.newest_mut();
    assert_eq!(job.announced, Target::from_difficulty(1.0));
    assert_eq!(job.work.target, Target::from_difficulty(1.9));
    // Now with targets that can be met: half of all hashes for the miner, one in 256 upstream.
    let mut upstream = [0xff; 32];
    upstream[31] = 0;
    job.announced = Target::from_le_bytes(EASY);
    job.work = Arc::new(Work { target: Target::from_le_bytes(upstream), ..(*job.work).clone() });
    let job = Notified::last(&told);
    let kept = net.share(MINER, &job, |hash| easy(hash) && !meets(hash, &upstream));
    let sent = net.share(MINER, &job, |hash| meets(hash, &upstream));
    assert_eq!(net.line(MINER, &kept.submit()), [ACCEPTED]);
    assert!(net.frames.is_empty());
    assert_eq!(net.line(MINER, &sent.submit()), [ACCEPTED]);
    assert_eq!(net.sent().len(), 1);
    assert_eq!(net.line(MINER, &kept.submit()), refused(22, "Duplicate share"));
    let totals = net.totals();
    assert_eq!((totals.accepted, totals.below_target, totals.sent), (2, 1, 1));
}

#[test]
fn a_block_goes_upstream_whatever_rule_it_breaks() {
    let mut net = Net::connected();
    net.hello(MINER);
    net.open(7, &[1, 2, 3, 4], 12);
    // Shares harder than blocks, as on regtest.
    net.say(&adit_sv2::messages::mining::SetTarget { channel_id: 7, maximum_target: target(1.0) });
    net.job(7, 1, None);
    net.tip(7, 1, 0x11, REGTEST);
    let job = Notified::last(&net.told(MINER));
    let extranonce1 = net.engine.miners[&MINER].extranonce1.unwrap();
    let late = NTIME + 7_190;
    let mut shares = (0..).map(|n| Found::new(&job, &extranonce1, &[7; 8], late, n, job.version));
    let block = shares.find(|share| meets(&share.hash, &EASY)).unwrap();
    assert_eq!(net.line(MINER, &block.submit()), [ACCEPTED]);
    let [frame] = &net.sent()[..] else { panic!("the block was not sent") };
    assert_eq!(decode(frame).ntime, late);
    assert_eq!(net.totals().blocks, 1);
    assert_eq!(net.line(MINER, &block.submit()), refused(22, "Duplicate share"));
    let miss = shares.find(|share| !meets(&share.hash, &EASY)).unwrap();
    assert_eq!(net.line(MINER, &miss.submit()), refused(20, "Time out of range"));
}

#[test]
fn what_the_upstream_says_of_shares_is_counted() {
    use adit_sv2::codec::Str0255;
    use adit_sv2::messages::mining::{SubmitSharesError, SubmitSharesSuccess};
    let mut net = Net::mining();
    let job = Notified::last(&net.told(MINER));
    let extranonce1 = net.engine.miners[&MINER].extranonce1.unwrap();
    let shares = (0..).map(|n| Found::new(&job, &extranonce1, &[7; 8], NTIME, n, job.version));
    for share in shares.filter(|share| easy(&share.hash)).take(4) {
        assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    }
    let sequence = net.sent().iter().map(|frame| decode(frame).sequence_number).collect::<Vec<_>>();
    assert_eq!(sequence, [0, 1, 2, 3]);
    net.say(&SubmitSharesSuccess {
        channel_id: 7,
        last_sequence_number: 1,
        new_submits_accepted_count: 2,
        new_shares_sum: 2,
    });
    for code in ["stale-share", "some words of its own"] {
        let error_code = Str0255::cut(code);
        net.say(&SubmitSharesError { channel_id: 7, sequence_number: 2, error_code });
    }
    assert!(net.told(MINER).is_empty(), "what a miner was told is not taken back");
    let totals = net.totals();
    assert_eq!((totals.sent, totals.upstream_accepted, totals.upstream_rejected), (4, 2, 2));
    let status = net.engine.status(net.now);
    let miner = &status["miners"][0];
    assert_eq!((&miner["shares_accepted"], &miner["upstream_rejected"]), (&4.into(), &2.into()));
    assert_eq!(miner["channel"]["unacknowledged"], 0);
    assert_eq!((&miner["user"], &miner["extranonce1"]), (&"w.1".into(), &"00000001".into()));
    net.lose();
    assert_eq!(net.totals().unanswered, 0);
}
