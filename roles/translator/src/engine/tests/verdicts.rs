//! What the upstream says of shares, and what miners have of it.

use adit_sv2::codec::Str0255;
use adit_sv2::messages::mining::{SubmitSharesError, SubmitSharesSuccess};

use super::*;

const PREFIXES: [[u8; 4]; 2] = [[1; 4], [2; 4]];
const OTHER: PeerId = PeerId(2);
const BACKUP: &str = "[[upstream]]\nurl = \"stratum2+tcp://backup.example:34254\"\n\
                      user_identity = \"farm2\"\n[failover]\nreturn_after_seconds = 60\n\
                      silence_seconds = 0\nacknowledge_seconds = 0\n";

/// A share that the upstream was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Sent {
    channel: u32,
    number: u32,
}

/// Two miners at work: on channels 7 and 8, or both on 7.
fn two(mode: Channels, more: &str) -> Net {
    let mut net = Net::in_mode(mode, more, "vardiff = false\n");
    net.connect();
    for (miner, channel, prefix) in [(MINER, 7, PREFIXES[0]), (OTHER, 8, PREFIXES[1])] {
        net.subscribe(miner, "cgminer/4.11.1");
        net.authorize(miner, "x");
        if mode == Channels::PerMiner || miner == MINER {
            net.open(channel, &prefix, 12);
            net.work(channel, 1, 0x11);
        }
    }
    net.job(7, 2, Some(NTIME));
    if mode == Channels::PerMiner {
        net.job(8, 2, Some(NTIME));
    }
    net.sent();
    net
}

impl Net {
    /// A miner finds a share on its last job, which is accepted here and sent.
    fn finds(&mut self, miner: PeerId, job: &mut Notified) -> Sent {
        if let Some(line) = self.told(miner).iter().rev().find(|line| line.contains("notify\"")) {
            let told = Notified::parse(line);
            // Never the same hashes twice.
            *job = Notified { ntime: told.ntime.max(job.ntime), ..told };
        }
        job.ntime += 1;
        let share = self.share(miner, job, |hash| meets(hash, &EASY));
        self.frames.clear();
        let told = self.line(miner, &share.submit());
        assert_eq!(told[0], ACCEPTED);
        let (header, payload) = self.frames.last().expect("a share");
        match Mining::decode(header, payload).unwrap().0 {
            Mining::SubmitSharesExtended(m) => {
                Sent { channel: m.channel_id, number: m.sequence_number }
            }
            other => panic!("{other}"),
        }
    }

    fn accept(&mut self, last: Sent, shares: u32) {
        self.say(&SubmitSharesSuccess {
            channel_id: last.channel,
            last_sequence_number: last.number,
            new_submits_accepted_count: shares,
            new_shares_sum: shares.into(),
        });
    }

    fn reject(&mut self, share: Sent) {
        let error_code = Str0255::cut("invalid-timestamp");
        let Sent { channel: channel_id, number: sequence_number } = share;
        self.say(&SubmitSharesError { channel_id, sequence_number, error_code });
    }

    /// Shares of a miner that the upstream accepted and rejected, as its status says.
    fn verdicts(&self, miner: PeerId) -> (u64, u64) {
        let address = self.engine.miners[&miner].extranonce1.unwrap().to_string();
        let status = self.engine.status(self.now);
        let miners = status["miners"].as_array().unwrap();
        let miner = miners.iter().find(|miner| miner["extranonce1"] == address.as_str()).unwrap();
        let count = |key: &str| miner[key].as_u64().unwrap();
        (count("upstream_accepted"), count("upstream_rejected"))
    }

    fn last_job(&mut self, miner: PeerId) -> Notified {
        Notified::last(&self.told(miner))
    }
}

#[test]
fn each_miner_has_its_own() {
    for mode in MODES {
        let mut net = two(mode, "");
        let (mut a, mut b) = (net.last_job(MINER), net.last_job(OTHER));
        let shares: Vec<_> = (0..6)
            .map(|n| if n % 2 == 0 { net.finds(MINER, &mut a) } else { net.finds(OTHER, &mut b) })
            .collect();
        net.reject(shares[2]);
        net.reject(shares[3]);
        assert_eq!((net.verdicts(MINER), net.verdicts(OTHER)), ((0, 1), (0, 1)), "{mode:?}");
        match mode {
            Channels::PerMiner => {
                net.accept(shares[4], 2);
                net.accept(shares[5], 2);
            }
            Channels::Aggregated => {
                // In two parts, the second of which is as if the first had not been.
                net.accept(shares[1], 2);
                net.accept(shares[5], 2);
            }
        }
        assert_eq!((net.verdicts(MINER), net.verdicts(OTHER)), ((2, 1), (2, 1)), "{mode:?}");
        let totals = net.totals();
        assert_eq!((totals.upstream_accepted, totals.upstream_rejected), (4, 2));
        let status = net.engine.status(net.now);
        let channel = match mode {
            Channels::PerMiner => &status["miners"][0]["channel"],
            Channels::Aggregated => &status["aggregate"],
        };
        assert_eq!(channel["unacknowledged"], 0, "{mode:?}");
        assert!(net.told(MINER).is_empty(), "what it was told is not taken back");
        // Of shares that there never were.
        net.reject(Sent { number: 77, ..shares[0] });
        net.accept(Sent { number: 77, ..shares[0] }, 0);
        net.reject(Sent { channel: 99, number: 0 });
        assert!(net.closed.is_empty());
        assert_eq!(net.verdicts(OTHER), (2, 1), "{mode:?}");
    }
}

#[test]
fn a_rejection_that_comes_after_the_others_were_accepted() {
    let mut net = two(Channels::Aggregated, "");
    let (mut a, mut b) = (net.last_job(MINER), net.last_job(OTHER));
    let first = net.finds(MINER, &mut a);
    let second = net.finds(OTHER, &mut b);
    net.accept(second, 1);
    assert_eq!((net.verdicts(MINER), net.verdicts(OTHER)), ((1, 0), (1, 0)));
    net.reject(first);
    assert_eq!((net.verdicts(MINER), net.verdicts(OTHER)), ((0, 1), (1, 0)));
    // Of one that has left it is counted in all, and that is that.
    let third = net.finds(MINER, &mut a);
    net.event(MINER, Link::Miner(0), Event::Closed("gone"));
    net.reject(third);
    assert_eq!((net.totals().upstream_rejected, net.verdicts(OTHER)), (2, (1, 0)));
}

#[test]
fn one_whose_shares_the_upstream_refuses_while_it_takes_others_climbs_the_ladder() {
    for mode in MODES {
        let mut net = two(mode, "");
        let (mut a, mut b) = (net.last_job(MINER), net.last_job(OTHER));
        let mut events = Vec::new();
        for second in (0..240).step_by(10) {
            let share = net.finds(OTHER, &mut b);
            net.accept(share, 1);
            let share = net.finds(MINER, &mut a);
            net.told(MINER);
            net.reject(share);
            let told = net.told(MINER);
            if let Some(line) = told.iter().find(|line| line.contains("notify\"")) {
                let fresh = Notified::parse(line);
                assert!(fresh.clean, "a fresh job, and none of the others");
                a = Notified { ntime: fresh.ntime.max(a.ntime), ..fresh };
            }
            let method = |line: &String| {
                let message: Value = serde_json::from_str(line).unwrap();
                message["method"].as_str().unwrap().to_owned()
            };
            events.extend(told.iter().map(|line| (second, method(line))));
            if !net.closed.is_empty() {
                break;
            }
            net.pass(Duration::from_secs(10));
        }
        let names: Vec<_> = events.iter().map(|(second, name)| (*second, name.as_str())).collect();
        let ladder =
            [(60, "mining.notify"), (120, "client.reconnect"), (180, "client.show_message")];
        assert_eq!(names, ladder, "{mode:?}");
        assert_eq!(net.closed, [(MINER, "only-refused-shares")], "{mode:?}");
        assert_eq!(net.engine.miner_count(), 1);
        let metrics = net.metrics();
        for step in ["fresh-job", "reconnect", "drop"] {
            let line = format!(r#"translator_ladder_total{{step="{step}"}} 1"#);
            assert!(metrics.contains(&line), "{metrics}");
        }
    }
}

#[test]
fn one_accepted_share_ends_that_ladder() {
    for mode in MODES {
        let mut net = two(mode, "");
        let (mut a, mut b) = (net.last_job(MINER), net.last_job(OTHER));
        for step in 0..40 {
            let share = net.finds(OTHER, &mut b);
            net.accept(share, 1);
            let share = net.finds(MINER, &mut a);
            if step % 6 == 5 {
                net.accept(share, 1)
            } else {
                net.reject(share)
            }
            net.pass(Duration::from_secs(10));
        }
        assert!(net.closed.is_empty(), "{mode:?}");
        assert!(!net.metrics().contains("ladder_total{step"), "{mode:?}");
    }
}

#[test]
fn an_upstream_that_takes_nobodys_shares_is_no_fault_of_miners() {
    for mode in MODES {
        let mut net = two(mode, "");
        let (mut a, mut b) = (net.last_job(MINER), net.last_job(OTHER));
        for _ in 0..40 {
            let shares = [net.finds(MINER, &mut a), net.finds(OTHER, &mut b)];
            for share in shares {
                net.reject(share);
            }
            net.pass(Duration::from_secs(10));
        }
        assert!(net.closed.is_empty(), "{mode:?}");
        assert!(!net.metrics().contains("ladder_total{step"), "{mode:?}");
        assert_eq!(net.verdicts(MINER), (0, 40));
    }
}

#[test]
fn answers_of_an_upstream_that_was_left_find_their_miner() {
    for mode in MODES {
        let mut net = two(mode, BACKUP);
        let (mut a, mut b) = (net.last_job(MINER), net.last_job(OTHER));
        let shares = [net.finds(MINER, &mut a), net.finds(OTHER, &mut b)];
        let old = net.upstream;
        // It is left, as by an operator's wish, and another one gives work under the same channel ids.
        net.engine.retire(net.now, &mut net.out);
        net.drain();
        net.frames.clear();
        net.connect();
        if mode == Channels::PerMiner {
            let requests: std::collections::BTreeMap<_, _> =
                net.engine.upstream.requests.clone().into_iter().collect();
            for ((request_id, _), channel_id) in requests.into_iter().zip([7, 8]) {
                net.say(&OpenExtendedMiningChannelSuccess {
                    request_id,
                    channel_id,
                    target: EASY,
                    extranonce_size: 12,
                    extranonce_prefix: B032::new(&[channel_id as u8; 4]).unwrap(),
                    group_channel_id: 1,
                });
                net.work(channel_id, 5, 0x11);
            }
        } else {
            net.open(7, &[9; 4], 12);
            net.work(7, 5, 0x11);
        }
        let new = std::mem::replace(&mut net.upstream, old);
        net.accept(shares[0], 1);
        net.reject(shares[1]);
        assert_eq!((net.verdicts(MINER), net.verdicts(OTHER)), ((1, 0), (0, 1)), "{mode:?}");
        net.upstream = new;
        let share = net.finds(OTHER, &mut b);
        net.accept(share, 1);
        assert_eq!(net.verdicts(OTHER), (1, 1), "{mode:?}");
    }
}

#[test]
fn the_time_to_an_answer_is_measured() {
    for mode in MODES {
        let mut net = two(mode, "");
        let mut a = net.last_job(MINER);
        let first = net.finds(MINER, &mut a);
        net.now = net.now.later(Duration::from_millis(30));
        let second = net.finds(MINER, &mut a);
        net.now = net.now.later(Duration::from_millis(10));
        net.reject(first);
        net.now = net.now.later(Duration::from_millis(100));
        net.accept(second, 1);
        let metrics = net.metrics();
        for line in [
            // 40 and 110 ms.
            r#"translator_upstream_ack_seconds_bucket{le="0.032"} 0"#,
            r#"translator_upstream_ack_seconds_bucket{le="0.064"} 1"#,
            r#"translator_upstream_ack_seconds_bucket{le="0.128"} 2"#,
            "translator_upstream_ack_seconds_count 2",
        ] {
            assert!(metrics.contains(line), "{mode:?} {line}\n{metrics}");
        }
    }
}

#[test]
fn more_shares_than_are_remembered() {
    let mut net = two(Channels::Aggregated, "");
    let mut a = net.last_job(MINER);
    let share = net.finds(MINER, &mut a);
    let all = net.engine.core.aggregate.as_mut().unwrap();
    let slots = super::super::window::OF_ALL as u32;
    for _ in 0..slots {
        all.channel.window.sent(OTHER, net.now.instant);
    }
    net.reject(share);
    assert_eq!(net.verdicts(MINER), (0, 0), "nobody knows whose it was");
    net.reject(Sent { number: slots, ..share });
    net.accept(Sent { number: slots - 1, ..share }, slots);
    assert_eq!(net.verdicts(OTHER), (u64::from(slots) - 1, 1));
    assert_eq!(net.totals().upstream_rejected, 2);
}
