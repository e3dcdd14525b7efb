//! One channel for all miners.

use adit_sv2::codec::{Seq064K, Str0255};
use adit_sv2::messages::common::ChannelEndpointChanged;
use adit_sv2::messages::extensions::{Extensions, RequestExtensionsSuccess};
use adit_sv2::messages::mining::{
    SetExtranoncePrefix, SetGroupChannel, SetTarget, SubmitSharesError, UpdateChannel,
};

use super::*;

const PREFIX: [u8; 4] = [0xa0, 0xa1, 0xa2, 0xa3];
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn config(miners: &str) -> String {
    format!(
        "channels = \"aggregated\"\n\
         [[upstream]]\nurl = \"stratum2+tcp://pool.example:34254\"\nuser_identity = \"farm\"\n\
         [[upstream]]\nurl = \"stratum2+tcp://backup.example:34254\"\nuser_identity = \"farm2\"\n\
         [failover]\nreturn_after_seconds = 60\n\
         [miners]\nnominal_hash_rate = 1e6\n{miners}"
    )
}

fn easy(hash: &[u8; 32]) -> bool {
    meets(hash, &EASY)
}

impl Net {
    /// Connected, with the question about extensions answered.
    pub(super) fn aggregated(&mut self, extensions: &[u16]) -> String {
        let dial = self.reach();
        self.say(&SetupConnectionSuccess { used_version: 2, flags: 0 });
        let (header, payload) = self.frames.pop().expect("a question about extensions");
        let Extensions::RequestExtensions(asked) = Extensions::decode(&header, &payload).unwrap().0
        else {
            panic!()
        };
        assert_eq!(asked.requested_extensions.iter().collect::<Vec<_>>(), [2]);
        assert!(self.frames.is_empty(), "nothing before the answer");
        let supported_extensions = Seq064K::new(extensions).unwrap();
        self.say(&RequestExtensionsSuccess { request_id: asked.request_id, supported_extensions });
        dial.target.host
    }

    fn updates(&mut self) -> Vec<(u32, f32)> {
        let sent = self.sent();
        let update = |(h, p): &(Header, Vec<u8>)| match Mining::decode(h, p).unwrap().0 {
            Mining::UpdateChannel(UpdateChannel { channel_id, nominal_hash_rate, .. }) => {
                Some((channel_id, nominal_hash_rate))
            }
            _ => None,
        };
        sent.iter().filter_map(update).collect()
    }
}

/// Three miners with work on channel 7.
fn three(miners: &str) -> Net {
    let mut net = Net::of(&config(miners));
    net.aggregated(&[2]);
    for miner in 1..=3 {
        net.hello(PeerId(miner));
    }
    assert_eq!(net.frames.len(), 1, "one channel, when the first miner has come");
    net.open(7, &PREFIX, 12);
    net.work(7, 1, 0x11);
    net
}

#[test]
fn all_miners_share_a_channel_and_are_told_the_same() {
    let mut net = Net::of(&config(""));
    net.aggregated(&[2]);
    assert!(net.frames.is_empty(), "no channel as long as there is no miner");
    net.hello(MINER);
    let [open] = &net.frames[..] else { panic!() };
    let open = Mining::decode(&open.0, &open.1).unwrap().0.to_string();
    assert!(open.contains("user_identity: \"farm\"") && open.contains("size: 12"), "{open}");
    net.hello(PeerId(2));
    net.open(7, &PREFIX, 12);
    assert!(net.told(MINER).is_empty());
    net.work(7, 1, 0x11);
    let lines = [1, 2].map(|miner| net.told(PeerId(miner)));
    assert_eq!(lines[0], lines[1], "the same words");
    let job = Notified::last(&lines[0]);
    assert!(job.clean && job.coinb1.ends_with(&PREFIX), "{job:?}");
    // One that comes later has the same.
    net.hello(PeerId(3));
    assert!(net.frames.is_empty());
    // (What `hello` saw of the answer to its authorisation was all it was told then.)
    net.job_with(7, 2, Some(NTIME + 5), b"more fees");
    let lines = [1, 2, 3].map(|miner| net.told(PeerId(miner)));
    assert!(lines[0] == lines[1] && lines[1].last() == lines[2].last());
    let job = Notified::last(&lines[0]);
    assert_eq!((job.clean, job.ntime, &job.coinb2[..]), (false, NTIME + 5, &b"more fees"[..]));
}

#[test]
fn shares_are_the_upstreams_and_name_their_worker() {
    let mut net = three("vardiff = false");
    let job = Notified::last(&net.told(MINER));
    for miner in 1..=3 {
        net.told(PeerId(miner));
        let share = net.share(PeerId(miner), &job, easy);
        assert_eq!(net.line(PeerId(miner), &share.submit()), [ACCEPTED]);
        assert_eq!(net.line(PeerId(miner), &share.submit()), refused(22, "Duplicate share"));
        let [(header, payload)] = &net.sent()[..] else { panic!("not one share") };
        let (Mining::SubmitSharesExtended(sent), tlvs) = Mining::decode(header, payload).unwrap()
        else {
            panic!()
        };
        assert_eq!((sent.channel_id, sent.job_id), (7, 1));
        assert_eq!(u64::from(sent.sequence_number), miner - 1, "of the channel");
        assert_eq!(upstream_header(&sent, &PREFIX, 0x11, HARD), share.header);
        let name = miner.to_string();
        assert_eq!(tlvs.user_identity(), Ok(Some(name.as_bytes())), "what is behind the dot");
    }
    net.say(&SubmitSharesError {
        channel_id: 7,
        sequence_number: 1,
        error_code: Str0255::cut("stale-share"),
    });
    let totals = net.totals();
    assert_eq!((totals.accepted, totals.sent, totals.upstream_rejected), (3, 3, 1));
    // Somebody else is at the other end, who knows no extension until it says so.
    net.say(&ChannelEndpointChanged { channel_id: 7 });
    let (header, _) = net.frames.pop().unwrap();
    assert_eq!((header.extension_type, header.msg_type), (1, 0), "asked for anew");
    let job = Notified { ntime: job.ntime + 1, ..job };
    let share = net.share(MINER, &job, easy);
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    let (header, payload) = net.frames.pop().unwrap();
    assert!(Mining::decode(&header, &payload).unwrap().1.is_empty());
}

#[test]
fn an_upstream_without_extensions_is_worked_for_without_them() {
    let mut net = Net::of(&config(""));
    net.reach();
    net.say(&SetupConnectionSuccess { used_version: 2, flags: 0 });
    net.frames.clear();
    net.hello(MINER);
    assert!(net.frames.is_empty());
    // It does not answer: some do not know the question.
    net.pass(2 * SECOND);
    net.open(7, &PREFIX, 12);
    net.work(7, 1, 0x11);
    let job = Notified::last(&net.told(MINER));
    let share = net.share(MINER, &job, easy);
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    let (header, payload) = net.frames.pop().unwrap();
    assert!(Mining::decode(&header, &payload).unwrap().1.is_empty());
}

#[test]
fn the_upstream_is_told_of_all_hashrate_but_not_all_the_time() {
    let mut net = three("vardiff = false");
    net.pass(6 * SECOND);
    assert_eq!(net.updates(), [(7, 3e6)]);
    net.pass(60 * SECOND);
    assert_eq!(net.updates(), [], "nothing has changed");
    for miner in [2, 3] {
        net.event(PeerId(miner), Link::Miner(0), Event::Closed("gone"));
    }
    net.pass(SECOND);
    assert_eq!(net.updates(), [(7, 1e6)], "the last one was long ago");
    net.event(MINER, Link::Miner(0), Event::Closed("gone"));
    net.pass(2 * SECOND);
    assert_eq!(net.updates(), []);
    net.pass(5 * SECOND);
    assert_eq!(net.updates(), [(7, 0.0)], "nobody is behind the channel");
    for miner in 10..60 {
        net.hello(PeerId(miner));
        net.pass(Duration::from_millis(100));
    }
    net.pass(6 * SECOND);
    let updates = net.updates();
    assert!((1..=4).contains(&updates.len()), "{updates:?}");
    assert_eq!(updates.last(), Some(&(7, 5e7)));
}

#[test]
fn what_a_miner_claims_counts_when_its_shares_show_it() {
    let mut net = three("vardiff = false");
    net.pass(6 * SECOND);
    net.updates();
    net.subscribe(PeerId(4), "liar/1");
    net.authorize(PeerId(4), "th=1e9");
    net.pass(6 * SECOND);
    assert_eq!(net.updates(), [(7, 4e6)], "as much as anybody");
    // Its shares say that it is a little faster than that.
    let fast = Target::from_expected_hashes(256.0).to_le_bytes();
    net.say(&SetTarget { channel_id: 7, maximum_target: fast });
    net.job(7, 2, Some(NTIME));
    let mut job = Notified::last(&net.told(PeerId(4)));
    net.engine.core.settings.listeners[0].nominal_hash_rate = 10.0;
    for _ in 0..60 {
        job.ntime += 1;
        let share = net.share(PeerId(4), &job, |hash| meets(hash, &fast));
        assert_eq!(net.line(PeerId(4), &share.submit()), [ACCEPTED]);
        net.pass(SECOND);
        net.told(PeerId(4));
    }
    let (_, told) = net.updates().pop().unwrap();
    // 256 hashes a second, of which four times as much is believed.
    assert!((700.0..1_400.0).contains(&told), "{told}");
}

#[test]
fn each_miner_has_a_difficulty_of_its_own_below_the_upstreams() {
    let mut net = Net::of(&config("expected_shares_per_minute = 60.0"));
    net.aggregated(&[]);
    net.hello(MINER);
    net.open(7, &PREFIX, 12);
    // The upstream's is that of all: 100 times what one miner should have.
    let hard = Target::from_hash_rate(1e8, 60.0);
    net.say(&SetTarget { channel_id: 7, maximum_target: hard.to_le_bytes() });
    net.work(7, 1, 0x11);
    let told = net.told(MINER);
    let expected = Target::from_hash_rate(1e6, 60.0).difficulty();
    let line = told.iter().find(|line| line.contains("set_difficulty")).unwrap();
    let told_difficulty: Value = serde_json::from_str(line).unwrap();
    let difficulty = told_difficulty["params"][0].as_f64().unwrap();
    assert!((difficulty / expected - 1.0).abs() < 1e-6, "{difficulty} {expected}");
    let job = Notified::last(&told);
    // It meets its own and not the upstream's: accepted, and not sent.
    let own = Target::from_difficulty(difficulty).to_le_bytes();
    let share = net.share(MINER, &job, |hash| meets(hash, &own));
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    let totals = net.totals();
    assert_eq!((totals.below_target, totals.sent), (1, 0));
    let share = net.share(MINER, &job, |hash| !meets(hash, &own));
    assert_eq!(net.line(MINER, &share.submit()), refused(23, "Low difficulty share"));

    // It is much slower than it was taken for: it gets an easier one, with the job under another id.
    net.pass(100 * SECOND);
    let told = net.told(MINER);
    let eased = told.iter().position(|line| line.contains("set_difficulty")).unwrap();
    assert!(told[eased + 1].contains("mining.notify"), "{told:?}");
    let again = Notified::last(&told);
    assert_ne!(again.job_id, job.job_id);
    assert!(again.ntime > job.ntime && !again.clean);
    let line: Value =
        serde_json::from_str(told.iter().rev().find(|l| l.contains("set_diff")).unwrap()).unwrap();
    let now = line["params"][0].as_f64().unwrap();
    assert!(now < difficulty / 2.0, "{now} {difficulty}");
    let easier = Target::from_difficulty(now).to_le_bytes();
    let share = net.share(MINER, &again, |hash| meets(hash, &easier) && !meets(hash, &own));
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
}

#[test]
fn a_harder_difficulty_does_not_void_shares_of_what_was_told_before() {
    let mut net = three("vardiff = false");
    let before = Notified::last(&net.told(MINER));
    let half = Target::from_expected_hashes(64.0).to_le_bytes();
    net.say(&SetTarget { channel_id: 7, maximum_target: half });
    net.job(7, 2, Some(NTIME));
    let after = Notified::last(&net.told(MINER));
    let between = |hash: &[u8; 32]| easy(hash) && !meets(hash, &half);
    let share = net.share(MINER, &before, between);
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    let share = net.share(MINER, &after, between);
    assert_eq!(net.line(MINER, &share.submit()), refused(23, "Low difficulty share"));
}

#[test]
fn groups_and_prefixes() {
    let mut net = three("vardiff = false");
    let first = Notified::last(&net.told(MINER));
    // Work for the group the channel is in, and then for the one it is moved to.
    net.job(1, 2, None);
    net.tip(1, 2, 0x22, HARD);
    let job = Notified::last(&net.told(MINER));
    assert!(job.clean && job.prev_hash == [0x22; 32]);
    net.say(&SetGroupChannel { group_channel_id: 55, channel_ids: Seq064K::new(&[7]).unwrap() });
    net.job(55, 3, Some(NTIME + 3));
    assert_eq!(Notified::last(&net.told(MINER)).ntime, NTIME + 3);
    let share = net.share(MINER, &first, easy);
    assert_eq!(net.line(MINER, &share.submit()), refused(21, "Stale job"));
    // A new prefix is a clean job to all, and shares of the old one count on.
    let old = Notified { ntime: NTIME + 9, ..job };
    let prefix = [0xc0, 0xc1, 0xc2, 0xc3];
    net.say(&SetExtranoncePrefix { channel_id: 7, extranonce_prefix: B032::new(&prefix).unwrap() });
    net.job(55, 4, Some(NTIME));
    for miner in 1..=3 {
        let job = Notified::last(&net.told(PeerId(miner)));
        assert!(job.clean && job.coinb1.ends_with(&prefix));
    }
    let share = net.share(MINER, &old, easy);
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    let (header, payload) = net.frames.pop().unwrap();
    let Mining::SubmitSharesExtended(sent) = Mining::decode(&header, &payload).unwrap().0 else {
        panic!()
    };
    assert_eq!(upstream_header(&sent, &PREFIX, 0x22, HARD), share.header);
    assert!(net.closed.is_empty());
}

#[test]
fn a_failover_is_a_clean_job_to_all_and_so_is_the_return() {
    let mut net = three("vardiff = false");
    let first = Notified::last(&net.told(MINER));
    net.lose();
    let share = net.share(MINER, &first, easy);
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED], "answered, though nobody pays it");
    assert_eq!(net.totals().no_upstream, 1);
    assert_eq!(net.aggregated(&[]), "backup.example");
    let open = Mining::decode(&net.frames[0].0, &net.frames[0].1).unwrap().0.to_string();
    assert!(open.contains("\"farm2\"") && open.contains("nominal_hash_rate: 3000000"), "{open}");
    net.open(9, &[0xb0; 4], 12);
    net.work(9, 1, 0x11);
    for miner in 1..=3 {
        let job = Notified::last(&net.told(PeerId(miner)));
        assert!(job.clean && job.coinb1.ends_with(&[0xb0; 4]));
    }
    let backup = net.upstream;
    net.frames.clear();

    assert_eq!(net.aggregated(&[2]), "pool.example");
    net.open(7, &PREFIX, 12);
    net.work(7, 1, 0x11);
    net.pass(59 * SECOND);
    for miner in 1..=3 {
        let job = Notified::last(&net.told(PeerId(miner)));
        assert!(job.coinb1.ends_with(&[0xb0; 4]), "a quiet upstream's job once more");
    }
    let last = Notified { ntime: NTIME + 2, ..first.clone() };
    net.pass(2 * SECOND);
    let told = net.told(PeerId(2));
    let job = Notified::last(&told);
    assert!(job.clean && job.coinb1.ends_with(&PREFIX), "at once: its work was there already");
    net.frames.clear();
    let share = net.share(PeerId(2), &job, easy);
    assert_eq!(net.line(PeerId(2), &share.submit()), [ACCEPTED]);
    assert!(net.sent_text()[0].starts_with("SubmitSharesExtended { channel_id: 7"));
    let share = net.share(PeerId(2), &last, easy);
    assert_eq!(net.line(PeerId(2), &share.submit()), refused(21, "Stale job"));
    net.pass(6 * SECOND);
    assert_eq!(net.closed, [(backup, "left-for-another")]);
    assert_eq!(net.engine.miner_count(), 3);
}

/// One that asks for its job again and again gets it for as long as it does, but neither it nor anybody else is ever told a
/// time that is far ahead of the clock.
#[test]
fn one_that_wants_its_job_again_and_again_gets_it_and_nobody_is_sent_ahead_of_the_clock() {
    let mut net = Net::of(&config(""));
    net.aggregated(&[]);
    net.subscribe(MINER, "cgminer/4.11.1");
    net.authorize(MINER, "x");
    net.hello(PeerId(2));
    net.open(7, &PREFIX, 12);
    net.work(7, 1, 0x11);
    let begun = net.now.instant;
    let mut ids = HashSet::new();
    let (mut told_of_others, mut silent) = (0, 0);
    for second in 0..600 {
        for wish in 0..50 {
            let difficulty = second * 50 + wish + 1;
            let line = format!(
                r#"{{"id":3,"method":"mining.suggest_difficulty","params":[{difficulty}]}}"#
            );
            net.event(MINER, Link::Miner(0), Event::Line(line.as_bytes()));
        }
        net.pass(SECOND);
        let clock = NTIME + (net.now.instant - begun).as_secs() as u32;
        let lines = net.told(MINER);
        silent = if lines.is_empty() { silent + 1 } else { 0 };
        assert!(silent < 5, "no work in second {second}");
        let others = net.told(PeerId(2));
        told_of_others += others.len();
        for line in lines.iter().filter(|line| line.contains("mining.notify")) {
            assert!(ids.insert(Notified::parse(line).job_id), "no id twice");
        }
        for line in lines.iter().chain(&others).filter(|line| line.contains("mining.notify")) {
            let ntime = Notified::parse(line).ntime;
            assert!(ntime <= clock + 10, "second {second}: {} s ahead", ntime - clock);
        }
    }
    assert!(told_of_others <= 40, "a job for all every 45 s: {told_of_others}");
    // What it was told counts, and no hash of it counts twice.
    net.pass(SECOND);
    let line = r#"{"id":3,"method":"mining.suggest_difficulty","params":[0.5]}"#;
    net.line(MINER, line);
    net.pass(SECOND);
    let line = r#"{"id":3,"method":"mining.suggest_difficulty","params":[0.25]}"#;
    let job = Notified::last(&net.line(MINER, line));
    let share = net.share(MINER, &job, easy);
    assert_eq!(net.line(MINER, &share.submit()), [ACCEPTED]);
    let base = u64::from_str_radix(&job.job_id, 16).unwrap() & !255;
    let other = Found { job_id: format!("{base:016x}"), ..share };
    assert_eq!(net.line(MINER, &other.submit()), refused(22, "Duplicate share"));
}
