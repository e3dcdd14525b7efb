//! Shares that meet the network's target: whatever else is wrong with them, they go upstream.

use adit_sv2::codec::Str0255;
use adit_sv2::messages::common::Reconnect;
use adit_sv2::messages::mining::{SetTarget, SubmitSharesSuccess};

use super::aggregated::config;
use super::*;

const PREFIX: [u8; 4] = [0xa0, 0xa1, 0xa2, 0xa3];
const SECOND: Duration = Duration::from_secs(1);

fn is_block(hash: &[u8; 32]) -> bool {
    meets(hash, &EASY)
}

/// A share that is not even a block of regtest.
fn is_nothing(hash: &[u8; 32]) -> bool {
    !is_block(hash)
}

/// A miner at work where every other hash is a block.
fn mining(channels: &str) -> Net {
    let mut net = Net::of(&config("vardiff = false").replace("aggregated", channels));
    if channels == "aggregated" {
        net.aggregated(&[]);
    } else {
        net.connect();
    }
    net.hello(MINER);
    net.open(7, &PREFIX, 12);
    net.job(7, 1, None);
    net.tip(7, 1, 0x11, REGTEST);
    net
}

impl Net {
    /// Hands in what is a block, and something on the same job that is none. Whether the block went upstream.
    fn block_on(&mut self, job: &Notified) -> bool {
        self.told(MINER);
        let nothing = self.share(MINER, job, is_nothing);
        assert_eq!(self.line(MINER, &nothing.submit()), refused(21, "Stale job"));
        self.frames.clear();
        let block = self.share(MINER, job, is_block);
        if self.line(MINER, &block.submit()) != [ACCEPTED] {
            assert!(self.frames.is_empty());
            return false;
        }
        let Some((header, payload)) = self.frames.pop() else { return false };
        let Mining::SubmitSharesExtended(sent) = Mining::decode(&header, &payload).unwrap().0
        else {
            panic!()
        };
        assert_eq!(upstream_header(&sent, &PREFIX, 0x11, REGTEST), block.header);
        assert_eq!(self.line(MINER, &block.submit()), refused(22, "Duplicate share"));
        true
    }
}

#[test]
fn a_block_on_a_job_that_made_room_for_others_goes_upstream() {
    for channels in ["per-miner", "aggregated"] {
        let mut net = mining(channels);
        let first = Notified::last(&net.told(MINER));
        for job in 2..18 {
            net.job(7, job, Some(NTIME));
        }
        assert!(net.block_on(&first), "{channels}");
        // As far back as 80 jobs.
        let first = Notified { ntime: first.ntime + 1, ..first };
        for job in 18..=80 {
            net.job(7, job, Some(NTIME));
        }
        assert!(net.block_on(&first), "{channels}");
        assert_eq!(net.totals().blocks, 2);
        for job in 81..400 {
            net.job(7, job, Some(NTIME));
        }
        let counts = match &net.engine.core.aggregate {
            Some(all) => all.jobs.counts(),
            None => net.engine.miners[&MINER].jobs.jobs.counts(),
        };
        assert_eq!(counts, (16, 64), "{channels}");
        let first = Notified { ntime: first.ntime + 1, ..first };
        assert!(!net.block_on(&first), "{channels}");
        // On a new tip none of them is worth anything.
        let last = Notified::last(&{
            net.job(7, 400, Some(NTIME));
            net.told(MINER)
        });
        net.job(7, 401, None);
        net.tip(7, 401, 0x22, REGTEST);
        assert!(!net.block_on(&last), "{channels}");
    }
}

#[test]
fn a_block_on_a_job_that_was_taken_back_goes_upstream() {
    let mut net = mining("per-miner");
    let first = Notified::last(&net.told(MINER));
    let nothing = net.share(MINER, &first, is_nothing);
    for _ in 0..8 {
        net.line(MINER, &nothing.submit());
        net.pass(10 * SECOND);
    }
    assert!(net.counted(r#"ladder_total{step="fresh-job"} 1"#));
    assert!(net.block_on(&first));
}

#[test]
fn a_block_is_sent_whatever_rule_of_ours_it_breaks() {
    for channels in ["per-miner", "aggregated"] {
        let mut net = mining(channels);
        // Harder than the network: so shares that are blocks may be too easy for the upstream.
        net.say(&SetTarget { channel_id: 7, maximum_target: target(1e9) });
        net.job(7, 2, Some(NTIME));
        let job = Notified::last(&net.told(MINER));
        for ntime in [NTIME, NTIME - 1, NTIME + 90_000] {
            let job = Notified { ntime, ..job.clone() };
            let block = net.share(MINER, &job, is_block);
            assert_eq!(net.line(MINER, &block.submit()), [ACCEPTED]);
            assert_eq!(net.sent_text().len(), 1, "{channels}");
        }
    }
}

#[test]
fn a_block_that_nobody_can_complete_is_counted_and_shown() {
    for channels in ["per-miner", "aggregated"] {
        let mut net = mining(channels);
        let first = Notified::last(&net.told(MINER));
        for job in 2..18 {
            net.job(7, job, Some(NTIME));
        }
        let last = Notified::last(&net.told(MINER));
        net.lose();
        for (job, lost) in [(last, 1), (first, 2)] {
            let block = net.share(MINER, &job, is_block);
            assert_eq!(net.line(MINER, &block.submit()), [ACCEPTED]);
            assert!(net.counted(&format!("blocks_lost_total {lost}")), "{channels}");
            assert!(net.counted(&format!("translator_blocks_total {lost}")), "{channels}");
        }
    }
}

#[test]
fn jobs_of_an_upstream_that_was_left_are_not_sent_to_another() {
    for channels in ["per-miner", "aggregated"] {
        let mut net = mining(channels);
        let first = Notified::last(&net.told(MINER));
        net.job(7, 2, Some(NTIME));
        net.lose();
        if channels == "aggregated" {
            net.aggregated(&[]);
        } else {
            net.connect();
        }
        net.open(3, &[0xb0; 4], 12);
        net.job(3, 1, None);
        net.tip(3, 1, 0x11, REGTEST);
        assert!(!net.block_on(&first), "{channels}");
        assert!(net.frames.is_empty());
    }
}

#[test]
fn a_share_of_one_that_was_told_no_difficulty_is_judged_by_the_jobs() {
    let mut net = mining("aggregated");
    net.say(&SetTarget { channel_id: 7, maximum_target: target(2.0) });
    net.job(7, 2, None);
    net.tip(7, 2, 0x11, HARD);
    let job = Notified::last(&net.told(MINER));
    net.hello(PeerId(2));
    net.engine.miners.get_mut(&PeerId(2)).unwrap().difficulty = None;
    let share = net.share(PeerId(2), &job, |_| true);
    assert_eq!(net.line(PeerId(2), &share.submit()), refused(23, "Low difficulty share"));
}

/// A miner that works for an upstream's second connection, on a tip of its own; the first still stands. Its last job of the
/// first, and the connection.
fn gone_over(channels: &str, tip: u8) -> (Net, Notified, PeerId) {
    let mut net = mining(channels);
    let first = Notified::last(&net.told(MINER));
    let left = net.upstream;
    net.say(&Reconnect { new_host: Str0255::cut(""), new_port: 5 });
    if channels == "aggregated" {
        net.aggregated(&[2]);
    } else {
        net.connect();
    }
    net.open(3, &[0xb0; 4], 12);
    net.job(3, 1, None);
    net.tip(3, 1, tip, REGTEST);
    (net, first, left)
}

#[test]
fn a_block_on_the_work_of_an_upstream_that_was_left_is_sent_there() {
    for (channels, tip) in
        [("per-miner", 0x11), ("per-miner", 0x22), ("aggregated", 0x11), ("aggregated", 0x22)]
    {
        let (mut net, first, left) = gone_over(channels, tip);
        let second = Notified::last(&net.told(MINER));
        assert!(second.clean && second.coinb1.ends_with(&[0xb0; 4]));
        let share = net.share(MINER, &second, is_block);
        assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
        // Another job of the new one changes nothing.
        net.job(3, 2, Some(NTIME));
        net.told(MINER);
        let nothing = net.share(MINER, &first, is_nothing);
        assert_eq!(net.line(MINER, &nothing.submit()), refused(21, "Stale job"));
        net.frames.clear();
        let block = net.share(MINER, &first, is_block);
        assert_eq!(net.line(MINER, &block.submit()), [ACCEPTED], "{channels}");
        let [(header, payload)] = &net.sent()[..] else { panic!("not one share") };
        let (Mining::SubmitSharesExtended(sent), tlvs) = Mining::decode(header, payload).unwrap()
        else {
            panic!()
        };
        assert_eq!(sent.channel_id, 7);
        assert_eq!(upstream_header(&sent, &PREFIX, 0x11, REGTEST), block.header);
        assert!(tlvs.is_empty(), "the one that was left knows no extension");
        // Neither it nor what was found since counts twice.
        for found in [&block, &share] {
            assert_eq!(net.line(MINER, &found.submit()), refused(22, "Duplicate share"));
        }
        assert!(net.frames.is_empty());
        assert!(!net.counted("blocks_lost_total 1"));

        // It is left when it has answered, and devices have had a moment to go over.
        let new = std::mem::replace(&mut net.upstream, left);
        net.say(&SubmitSharesSuccess {
            channel_id: 7,
            last_sequence_number: 0,
            new_submits_accepted_count: 1,
            new_shares_sum: 1,
        });
        assert_eq!(net.engine.miners[&MINER].stats.upstream_accepted, 1);
        net.pass(4 * SECOND);
        assert!(net.closed.is_empty(), "{:?}", net.closed);
        net.pass(3 * SECOND);
        assert_eq!(net.closed, [(left, "left-for-another")]);
        net.upstream = new;
        let later = Notified { ntime: first.ntime + 1, ..first };
        let block = net.share(MINER, &later, is_block);
        net.frames.clear();
        let told = net.line(MINER, &block.submit());
        assert!(net.frames.is_empty(), "nobody to send it to");
        assert_eq!(told, [ACCEPTED], "{channels} {tip}");
        assert!(net.counted("blocks_lost_total 1"));
        assert_eq!((net.totals().unanswered, net.totals().no_upstream), (0, 1));
    }
}

#[test]
fn version_bits_are_what_the_upstream_of_the_job_allows() {
    for channels in ["per-miner", "aggregated"] {
        let mut net = mining(channels);
        net.line(
            MINER,
            r#"{"id":9,"method":"mining.configure","params":[["version-rolling"],{"version-rolling.mask":"ffffffff"}]}"#,
        );
        net.job(7, 2, Some(NTIME));
        let job = Notified::last(&net.told(MINER));
        // The next one allows no rolling, and has no work yet.
        net.say(&Reconnect { new_host: Str0255::cut(""), new_port: 5 });
        net.reach();
        net.say(&SetupConnectionSuccess { used_version: 2, flags: 1 });
        net.pass(2 * SECOND);
        net.sent();
        let rolled = Notified { version: job.version | 0x0000_4000, ..job };
        let share = net.share(MINER, &rolled, is_block);
        let line = share.submit().replace("], \"id\"", ", \"00004000\"], \"id\"");
        assert_eq!(net.line(MINER, &line), [ACCEPTED], "{channels}");
        let (header, payload) = net.frames.pop().unwrap();
        let Mining::SubmitSharesExtended(sent) = Mining::decode(&header, &payload).unwrap().0
        else {
            panic!()
        };
        assert_eq!(upstream_header(&sent, &PREFIX, 0x11, REGTEST), share.header);
    }
}
