//! Opening, changing and closing channels.

use std::time::Duration;

use adit_mining::Target;
use adit_sv2::codec::Str0255;
use adit_sv2::messages::mining::{
    CloseChannel, OpenExtendedMiningChannel, OpenStandardMiningChannel, SetCustomMiningJob,
    UpdateChannel,
};

use super::sim::{Rig, Sim, Wanted, open_extended, open_standard};
use crate::engine::Link;

#[test]
fn a_new_channel_gets_the_newest_work_at_once() {
    let (mut sim, tp) = Sim::working("");
    sim.template(tp, 0, 2, false, 2);
    let extended = sim.extended("alice.rig1");
    let standard = sim.standard("bob");
    for rig in [&extended, &standard] {
        let work = rig.client.active().unwrap();
        assert_eq!((work.tip.prev_hash, work.tip.nbits), ([1; 32], super::sim::NBITS));
    }
    assert_eq!(
        extended.client.active().unwrap().job.merkle_path()[0],
        [2; 32],
        "the newer template"
    );
    // server_id, then slices in order; as many bytes as were asked for.
    assert_eq!(&**extended.client.extranonce_prefix(), [7, 0, 0, 0]);
    assert_eq!(&**standard.client.extranonce_prefix(), [7, 0, 0, 1]);
    assert_eq!((extended.client.extranonce_size(), standard.client.extranonce_size()), (8, 0));
    assert_ne!(extended.client.id(), extended.client.group_channel_id());
}

#[test]
fn each_bad_request_has_its_code() {
    let (mut sim, _) = Sim::working("channels.max_per_connection = 2\nchannels.max = 3");
    let peer = sim.miner(0);
    let good = open_standard(5, "a");
    let refuse = |sim: &mut Sim, request: OpenStandardMiningChannel<'_>, code: &str| {
        sim.send(peer, Link::Miner, &request);
        sim.heard_only(
            peer,
            &format!("OpenMiningChannel.Error {{ request_id: 5, error_code: \"{code}\" }}"),
        );
    };
    for name in [&b""[..], b".worker", b"a\nb", b"\xff\xfe", b"a.\x07"] {
        let user_identity = Str0255::new(name).unwrap();
        refuse(
            &mut sim,
            OpenStandardMiningChannel { user_identity, ..good },
            "invalid-user-identity",
        );
    }
    for nominal_hash_rate in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0] {
        refuse(
            &mut sim,
            OpenStandardMiningChannel { nominal_hash_rate, ..good },
            "invalid-nominal-hashrate",
        );
    }
    for nominal_hash_rate in [f32::NAN, f32::INFINITY, -f32::MIN_POSITIVE] {
        let open = OpenExtendedMiningChannel { nominal_hash_rate, ..open_extended(5, "a") };
        sim.send(peer, Link::Miner, &open);
        sim.heard_only(peer, "request_id: 5, error_code: \"invalid-nominal-hashrate\"");
    }
    // Harder than a block, which is not allowed here, or impossible.
    let mut harder = Target::from_nbits(super::sim::NBITS).unwrap().to_le_bytes();
    harder[29] -= 1;
    for max_target in [[0; 32], harder] {
        refuse(
            &mut sim,
            OpenStandardMiningChannel { max_target, ..good },
            "max-target-out-of-range",
        );
    }
    let extended = OpenExtendedMiningChannel { min_extranonce_size: 17, ..open_extended(5, "a") };
    sim.send(peer, Link::Miner, &extended);
    sim.heard_only(peer, "min-extranonce-size-too-large");
    for _ in 0..2 {
        sim.send(peer, Link::Miner, &good);
        sim.rig(peer);
    }
    refuse(&mut sim, good, "channel-capacity-exhausted");
    sim.extended("b");
    let other = sim.miner(0);
    sim.send(other, Link::Miner, &open_standard(5, "a"));
    sim.heard_only(other, "channel-capacity-exhausted");
    let standard_jobs = sim.miner(1);
    sim.send(standard_jobs, Link::Miner, &open_extended(6, "a"));
    sim.heard_only(standard_jobs, "extended-channels-not-supported-for-standard-jobs");
}

#[test]
fn the_extranonce_is_granted_as_it_is_asked_for() {
    let (mut sim, _) = Sim::working("");
    for (asked, granted) in [(0, 0), (1, 1), (2, 2), (7, 7), (16, 16)] {
        let peer = sim.miner(0);
        let request =
            OpenExtendedMiningChannel { min_extranonce_size: asked, ..open_extended(1, "a") };
        sim.send(peer, Link::Miner, &request);
        let mut rig = sim.rig(peer);
        assert_eq!(rig.client.extranonce_size(), granted);
        rig.mine(&mut sim, 1);
        assert!(rig.listen(&mut sim).is_empty(), "refused at {granted}");
    }
}

#[test]
fn the_first_target_follows_hashrate_and_limits() {
    let (mut sim, _) = Sim::working("");
    let mut target = |nominal_hash_rate: f32, max_target: [u8; 32]| {
        let peer = sim.miner(0);
        let request =
            OpenStandardMiningChannel { nominal_hash_rate, max_target, ..open_standard(1, "a") };
        sim.send(peer, Link::Miner, &request);
        sim.rig(peer).client.target()
    };
    let hashes = |hashes: f64| Target::from_expected_hashes(hashes);
    assert_eq!(target(10.0, [0xff; 32]), hashes(100.0));
    assert_eq!(target(0.0, [0xff; 32]), hashes(200.0), "start_hashrate");
    assert_eq!(target(0.001, [0xff; 32]), hashes(10.0), "min_hashrate");
    assert_eq!(
        target(1e30, [0xff; 32]),
        Target::from_nbits(super::sim::NBITS).unwrap(),
        "the network's"
    );
    assert_eq!(target(10.0, hashes(300.0).to_le_bytes()), hashes(300.0), "the client's");
}

/// On regtest a block takes two hashes: were shares no harder, any device would send millions a second.
#[test]
fn shares_may_be_harder_than_blocks_on_regtest_or_where_that_is_said() {
    let network = Target::from_nbits(super::sim::NBITS).unwrap();
    for (more, harder) in [
        ("", false),
        ("shares.allow_above_network_difficulty = true", true),
        ("network = \"regtest\"", true),
        ("network = \"regtest\"\nshares.allow_above_network_difficulty = false", false),
    ] {
        let (mut sim, _) = Sim::working(more);
        let peer = sim.miner(0);
        let max_target = network.to_le_bytes();
        let open = open_extended(1, "a");
        let open = OpenExtendedMiningChannel { nominal_hash_rate: 1e6, max_target, ..open };
        sim.send(peer, Link::Miner, &open);
        let mut rig = sim.rig(peer);
        // 1 MH/s at 6 shares a minute.
        let expected = if harder { Target::from_expected_hashes(1e7) } else { network };
        assert_eq!(rig.client.target(), expected, "{more}");
        // What the client takes may be harder than blocks only there, too.
        let tiny = Target::from_expected_hashes(1e6);
        sim.send(peer, Link::Miner, &update(&rig, 1e6, tiny));
        let refused = sim.heard(peer).iter().any(|m| m.contains("max-target-out-of-range"));
        assert_eq!(refused, !harder, "{more}");
        // Nor does difficulty follow what it finds past that.
        rig.listen(&mut sim);
        sim.pass(Duration::from_secs(90));
        rig.listen(&mut sim);
        let limit = if harder { tiny } else { network };
        assert!(rig.client.target() <= limit && (harder || rig.client.target() == network));
    }
}

/// A miner whose shares come by chance, with as many hashes a second, at the pool itself: whatever it is sent counts
/// only with a job that is sent after it.
struct Poisson {
    rig: Rig,
    rng: u64,
    hash_rate: f64,
    set_targets: usize,
    seconds: u32,
    first_share: Option<u32>,
}

impl Poisson {
    fn new(sim: &mut Sim, seed: u64, hash_rate: f64, said: f32) -> Self {
        let peer = sim.miner(0);
        let open = OpenExtendedMiningChannel { nominal_hash_rate: said, ..open_extended(1, "a") };
        sim.send(peer, Link::Miner, &open);
        let rig = sim.rig(peer);
        let rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { rig, rng, hash_rate, set_targets: 0, seconds: 0, first_share: None }
    }

    /// From 0 to 1 (xorshift64*).
    fn random(&mut self) -> f64 {
        self.rng ^= self.rng >> 12;
        self.rng ^= self.rng << 25;
        self.rng ^= self.rng >> 27;
        (self.rng.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn run(&mut self, sim: &mut Sim, seconds: u32) {
        for _ in 0..seconds {
            self.seconds += 1;
            let rate = self.hash_rate / self.work();
            let mut time = 0.0;
            loop {
                time -= (1.0 - self.random()).ln() / rate;
                if time >= 1.0 {
                    break;
                }
                self.first_share.get_or_insert(self.seconds);
                self.rig.mine(sim, 1);
            }
            sim.store();
            sim.pass(Duration::from_secs(1));
            let heard = self.rig.listen(sim);
            self.set_targets += heard.iter().filter(|name| **name == "SetTarget").count();
        }
    }

    /// Expected hashes of a share on the job at hand.
    fn work(&self) -> f64 {
        self.rig.client.active().unwrap().target.expected_hashes() as f64
    }

    /// How far the expected share interval is from the wanted one.
    fn error(&self) -> f64 {
        (self.work() / self.hash_rate / 10.0 - 1.0).abs()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What `adit-mining` promises of its arithmetic, at the pool: limits, `SetTarget` and the jobs that bring it into force
/// included.
#[test]
fn difficulty_settles_at_the_pool_as_it_does_alone() {
    const RUNS: u64 = 25;
    for factor in [10.0, 0.1] {
        let (mut errors, mut counts) = (Vec::new(), Vec::new());
        for seed in 0..RUNS {
            let (mut sim, _) = Sim::working("");
            let mut miner = Poisson::new(&mut sim, seed, 20.0, 20.0);
            miner.run(&mut sim, 900);
            miner.hash_rate *= factor;
            let before = miner.set_targets;
            miner.run(&mut sim, 600);
            errors.push(miner.error());
            counts.push((miner.set_targets - before) as f64);
        }
        assert!(median(errors.clone()) <= 0.25, "x{factor}: {errors:?}");
        assert!(median(counts.clone()) <= 5.0, "x{factor}: {counts:?}");
    }
    let first = |seed| {
        let (mut sim, _) = Sim::working("shares.allow_above_network_difficulty = true");
        let mut miner = Poisson::new(&mut sim, seed, 10.0, 10_000.0);
        while miner.first_share.is_none() && miner.seconds < 600 {
            miner.run(&mut sim, 1);
        }
        f64::from(miner.seconds)
    };
    let firsts: Vec<f64> = (0..RUNS).map(first).collect();
    assert!(median(firsts.clone()) <= 180.0, "{firsts:?}");
    let hours = (0..RUNS).map(|seed| {
        let (mut sim, _) = Sim::working("");
        let mut miner = Poisson::new(&mut sim, seed, 20.0, 20.0);
        miner.run(&mut sim, 3_600);
        miner.set_targets as f64
    });
    assert!(median(hours.collect()) <= 1.0);
}

#[test]
fn requests_without_a_template_wait_for_it() {
    let mut sim = Sim::new("channels.open_deadline_secs = 2\nchannels.max_per_connection = 2");
    let peer = sim.miner(0);
    for request_id in 1..=3 {
        sim.send(peer, Link::Miner, &open_extended(request_id, "a"));
    }
    sim.heard_only(
        peer,
        "OpenMiningChannel.Error { request_id: 3, error_code: \"channel-capacity-exhausted\" }",
    );
    assert_eq!(sim.engine.readiness().template, Err("no template yet".to_owned()));
    sim.pass(Duration::from_secs(10));
    assert!(sim.heard(peer).is_empty() && sim.closed(peer).is_none());
    let gone = sim.miner(0);
    sim.send(gone, Link::Miner, &open_extended(1, "b"));
    sim.event(gone, Link::Miner, adit_transport::Event::Closed("closed by the peer"));
    let tp = sim.provider(0);
    sim.template(tp, 0, 1, true, 1);
    assert!(sim.heard(peer).is_empty(), "a template alone is no work");
    sim.prev_hash(tp, 0, 1, 1);
    let names = sim.heard_names(peer);
    let one = ["OpenExtendedMiningChannel.Success", "NewExtendedMiningJob", "SetNewPrevHash"];
    assert_eq!(names, [one, one].concat());
    assert!(sim.heard(gone).is_empty());
    assert_eq!(sim.engine.core.channels, 2);
    assert_eq!(sim.engine.readiness().template, Ok(()));
}

fn update(rig: &Rig, nominal_hash_rate: f32, maximum_target: Target) -> UpdateChannel {
    UpdateChannel {
        channel_id: rig.client.id(),
        nominal_hash_rate,
        maximum_target: maximum_target.to_le_bytes(),
    }
}

#[test]
fn a_smaller_maximum_brings_a_target_that_counts_at_once() {
    let (mut sim, _) = Sim::working("");
    for mut rig in [sim.extended("a"), sim.standard("b")] {
        let old = rig.search(Wanted::Share);
        let smaller = Target::from_expected_hashes(1_000.0);
        sim.send(rig.peer, Link::Miner, &update(&rig, 10.0, smaller));
        let names = rig.listen(&mut sim);
        assert_eq!(names[0], "SetTarget");
        assert!(names[1].ends_with("MiningJob") && names.len() == 2, "{names:?}");
        assert_eq!(rig.client.active().unwrap().target, smaller);
        assert_ne!(rig.client.active().unwrap().job_id, old.job_id);
        // Its time is later: who begins the search anew does not repeat hashes.
        assert!(rig.client.active().unwrap().min_ntime > old.ntime);
        // The old job keeps the target that it became active with.
        rig.submit(&mut sim, &old);
        rig.mine(&mut sim, 1);
        assert!(rig.listen(&mut sim).is_empty());
        // An equal or larger one changes nothing.
        sim.send(rig.peer, Link::Miner, &update(&rig, 10.0, smaller));
        sim.send(rig.peer, Link::Miner, &update(&rig, 10.0, Target::MAX));
        assert!(rig.listen(&mut sim).is_empty());
    }
}

/// A proxy opens its channel for one miner, slower than any target asks for, and soon says what all of them do.
#[test]
fn a_floor_under_the_first_hashrate_is_nothing_learnt() {
    let (mut sim, _) = Sim::working("");
    let peer = sim.miner(0);
    let slow = OpenExtendedMiningChannel { nominal_hash_rate: 0.1, ..open_extended(1, "a") };
    sim.send(peer, Link::Miner, &slow);
    let mut rig = sim.rig(peer);
    let floor = rig.client.target();
    sim.send(peer, Link::Miner, &update(&rig, 1.0, Target::MAX));
    assert!(rig.listen(&mut sim).is_empty(), "the target is that of 1 hash per second already");
    sim.send(peer, Link::Miner, &update(&rig, 2.0, Target::MAX));
    assert_eq!(rig.listen(&mut sim)[0], "SetTarget");
    let harder = floor.to_f64() / rig.client.target().to_f64();
    assert!((1.9..2.1).contains(&harder), "{harder}");
}

#[test]
fn a_new_hashrate_is_followed_and_a_wrong_one_refused() {
    let (mut sim, _) = Sim::working("");
    let mut rig = sim.extended("a");
    sim.send(rig.peer, Link::Miner, &update(&rig, 11.0, Target::MAX));
    sim.send(rig.peer, Link::Miner, &update(&rig, 0.0, Target::MAX));
    assert!(rig.listen(&mut sim).is_empty(), "no news");
    sim.send(rig.peer, Link::Miner, &update(&rig, 40.0, Target::MAX));
    assert_eq!(rig.listen(&mut sim)[0], "SetTarget");
    assert!(
        (rig.client.target().expected_hashes() as f64 - 400.0).abs() < 40.0,
        "{}",
        rig.client.target()
    );
    let codes = [
        (update(&rig, f32::NAN, Target::MAX), "invalid-nominal-hashrate"),
        (update(&rig, f32::INFINITY, Target::MAX), "invalid-nominal-hashrate"),
        (update(&rig, f32::NEG_INFINITY, Target::MAX), "invalid-nominal-hashrate"),
        (update(&rig, -1.0, Target::MAX), "invalid-nominal-hashrate"),
        (update(&rig, 1.0, Target::from_le_bytes([0; 32])), "max-target-out-of-range"),
        (UpdateChannel { channel_id: 77, ..update(&rig, 1.0, Target::MAX) }, "invalid-channel-id"),
    ];
    for (message, code) in codes {
        sim.send(rig.peer, Link::Miner, &message);
        let id = message.channel_id;
        let error = format!("UpdateChannel.Error {{ channel_id: {id}, error_code: \"{code}\" }}");
        sim.heard_only(rig.peer, &error);
    }
}

/// A proxy whose miners work elsewhere for some time and come back.
#[test]
fn miners_that_come_back_find_the_difficulty_that_they_left() {
    let (mut sim, _) = Sim::working("");
    let mut rig = sim.extended("a");
    let left = rig.client.target();
    sim.send(rig.peer, Link::Miner, &update(&rig, 0.0, Target::MAX));
    sim.pass(Duration::from_secs(1_800));
    rig.listen(&mut sim);
    assert!(rig.client.target() > left, "silence makes it easier");
    sim.send(rig.peer, Link::Miner, &update(&rig, 10.0, Target::MAX));
    assert_eq!(rig.listen(&mut sim)[0], "SetTarget");
    let ratio = rig.client.target().expected_hashes() as f64 / left.expected_hashes() as f64;
    assert!((0.9..1.1).contains(&ratio), "{ratio}");
}

#[test]
fn difficulty_follows_the_shares() {
    let (mut sim, _) = Sim::working("");
    let mut rig = sim.extended("a");
    // 6 shares a minute are expected, and 60 come.
    let mut seconds = 0;
    while rig.client.target() == Target::from_expected_hashes(100.0) {
        rig.mine(&mut sim, 1);
        sim.pass(Duration::from_secs(1));
        sim.store();
        rig.listen(&mut sim);
        seconds += 1;
    }
    assert!((2..=60).contains(&seconds), "{seconds}");
    assert!(rig.client.target() < Target::from_expected_hashes(200.0), "{}", rig.client.target());
    assert_eq!(rig.client.active().unwrap().target, rig.client.target());
    let (mut sim, _) = Sim::working("shares.vardiff = false");
    let mut rig = sim.extended("a");
    for _ in 0..60 {
        rig.mine(&mut sim, 1);
        sim.pass(Duration::from_secs(1));
    }
    assert!(!rig.listen(&mut sim).contains(&"SetTarget"));
}

#[test]
fn a_silent_miner_gets_easier_work_on_the_same_template() {
    let (mut sim, _) = Sim::working("");
    let peer = sim.miner(0);
    let request = OpenStandardMiningChannel { nominal_hash_rate: 5_000.0, ..open_standard(1, "a") };
    sim.send(peer, Link::Miner, &request);
    let mut rig = sim.rig(peer);
    let hard = rig.client.active().unwrap().target;
    sim.pass(Duration::from_secs(60));
    assert!(rig.listen(&mut sim).contains(&"SetTarget"));
    assert!(rig.client.active().unwrap().target > hard, "counts for the job at hand");
    rig.mine(&mut sim, 1);
    assert!(rig.listen(&mut sim).is_empty());
}

#[test]
fn closing_a_channel_frees_it_alone_and_closing_the_group_all() {
    let (mut sim, tp) = Sim::working("");
    let peer = sim.miner(0);
    let mut rigs = Vec::new();
    for request_id in 1..=3 {
        sim.send(peer, Link::Miner, &open_extended(request_id, "a"));
        rigs.push(sim.rig(peer));
    }
    let close = |channel_id: u32| CloseChannel { channel_id, reason_code: Str0255::cut("bye\x07") };
    sim.send(peer, Link::Miner, &close(rigs[1].client.id()));
    sim.send(peer, Link::Miner, &close(rigs[1].client.id()));
    assert!(sim.heard(peer).is_empty());
    rigs[1].mine(&mut sim, 1);
    sim.heard_only(peer, "invalid-channel-id");
    sim.tip(tp, 0, 2, 2);
    assert_eq!(sim.heard(peer).len(), 2, "one job and one tip for the group");
    // Its slice is free after that tip; its id is not used again.
    sim.send(peer, Link::Miner, &open_extended(4, "a"));
    let again = sim.rig(peer);
    assert_eq!(again.client.extranonce_prefix(), rigs[1].client.extranonce_prefix());
    assert!(rigs.iter().all(|rig| rig.client.id() != again.client.id()));
    sim.send(peer, Link::Miner, &close(rigs[0].client.group_channel_id()));
    assert_eq!(sim.engine.core.channels, 0);
    sim.tip(tp, 0, 3, 3);
    assert!(sim.heard(peer).is_empty());
}

#[test]
fn custom_jobs_are_refused() {
    let (mut sim, _) = Sim::working("");
    let rig = sim.extended("a");
    let message = SetCustomMiningJob {
        channel_id: rig.client.id(),
        request_id: 8,
        mining_job_token: Default::default(),
        version: 0,
        prev_hash: [0; 32],
        min_ntime: 0,
        nbits: 0,
        coinbase_tx_version: 2,
        coinbase_prefix: Default::default(),
        coinbase_tx_input_sequence: 0,
        coinbase_tx_outputs: Default::default(),
        coinbase_tx_locktime: 0,
        merkle_path: Default::default(),
    };
    sim.send(rig.peer, Link::Miner, &message);
    sim.heard_only(rig.peer, "request_id: 8, error_code: \"jd-not-supported\"");
}
