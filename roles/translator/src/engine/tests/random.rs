//! Nothing that anybody sends breaks the engine.

use adit_sv2::codec::{Seq064K, Str0255};
use adit_sv2::messages::common::{Common, Reconnect};
use adit_sv2::messages::mining::{
    CloseChannel, OpenMiningChannelError, SetExtranoncePrefix, SetGroupChannel, SetTarget,
    SubmitSharesError, SubmitSharesSuccess,
};
use proptest::prelude::*;

use super::super::connection::Place;
use super::super::upstream::Stage;
use super::aggregated::config;
use super::*;

/// Lines that are almost right.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just("\"\"".to_owned()),
        Just("null".to_owned()),
        Just("\"0000000000000001\"".to_owned()),
        Just("\"ffffffff\"".to_owned()),
        Just("[\"version-rolling\"]".to_owned()),
        "[\"0-9a-f{}\\[\\]:,. -]{0,12}",
        (0..9_000_000_000_u64).prop_map(|n| n.to_string()),
    ];
    let method = prop::sample::select(vec![
        "mining.submit",
        "mining.configure",
        "mining.subscribe",
        "mining.authorize",
        "mining.suggest_difficulty",
        "mining.suggest_target",
        "mining.ping",
        "pong",
        "",
    ]);
    let almost =
        (method, prop::collection::vec(word, 0..7), 0..9_u8).prop_map(|(method, params, id)| {
            let id = if id == 0 { "null".to_owned() } else { id.to_string() };
            format!(r#"{{"id":{id},"method":"{method}","params":[{}]}}"#, params.join(","))
                .into_bytes()
        });
    prop_oneof![4 => almost, 1 => prop::collection::vec(any::<u8>(), 0..80)]
}

/// Frames of every type a server may send, with any payload; channel ids are often right.
fn frame() -> impl Strategy<Value = (Header, Vec<u8>)> {
    let types = Mining::ALL.iter().chain(Common::ALL).map(|info| (info.msg_type, info.channel_msg));
    let kind = prop::sample::select(types.collect::<Vec<_>>());
    let payload =
        (prop::sample::select(vec![1_u32, 7, 8, 0]), prop::collection::vec(any::<u8>(), 0..90));
    (kind, payload, 0..20_u16).prop_map(|((msg_type, channel_msg), (id, rest), extension)| {
        let payload = [&id.to_le_bytes()[..], &rest].concat();
        let extension_type = if extension == 0 { 1 } else { 0 };
        let msg_length = payload.len() as u32;
        (Header { extension_type, channel_msg, msg_type, msg_length }, payload)
    })
}

#[derive(Clone, Debug)]
enum Step {
    Line(u64, Vec<u8>),
    Frame(Header, Vec<u8>),
    Job(u32, u32, bool),
    Tip(u32, u32, u8),
    Open(u32, u32),
    Refuse(bool),
    CloseChannel(u32),
    Target(u32, u8),
    Prefix(u32, u8),
    Group(u32, u32),
    Answers(u32, u32),
    Elsewhere(u16),
    Join(u64),
    Hello(u64),
    Leave(u64),
    Lose,
    Connect,
    Other,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let miner = 1..5_u64;
    let channel = prop::sample::select(vec![1_u32, 7, 8, 9]);
    prop_oneof![
        4 => (miner.clone(), line()).prop_map(|(m, l)| Step::Line(m, l)),
        1 => frame().prop_map(|(h, p)| Step::Frame(h, p)),
        3 => (channel.clone(), 0..4_u32, any::<bool>()).prop_map(|(c, j, f)| Step::Job(c, j, f)),
        3 => (channel.clone(), 0..4_u32, 0..3_u8).prop_map(|(c, j, t)| Step::Tip(c, j, t)),
        6 => (channel.clone(), 0..3_u32).prop_map(|(c, g)| Step::Open(c, g)),
        1 => any::<bool>().prop_map(Step::Refuse),
        1 => channel.clone().prop_map(Step::CloseChannel),
        1 => (channel.clone(), 1..9_u8).prop_map(|(c, t)| Step::Target(c, t)),
        1 => (channel.clone(), any::<u8>()).prop_map(|(c, p)| Step::Prefix(c, p)),
        1 => (channel.clone(), 0..3_u32).prop_map(|(c, g)| Step::Group(c, g)),
        1 => (channel, 0..3_u32).prop_map(|(c, n)| Step::Answers(c, n)),
        1 => any::<u16>().prop_map(Step::Elsewhere),
        1 => miner.clone().prop_map(Step::Join),
        3 => miner.clone().prop_map(Step::Hello),
        1 => miner.prop_map(Step::Leave),
        1 => Just(Step::Lose),
        3 => Just(Step::Connect),
        1 => Just(Step::Other),
        1 => (0..100_u64).prop_map(Step::Pass),
    ]
}

/// A miner at work: with a channel of its own or one for all, and with one upstream or two.
fn world() -> impl Strategy<Value = (Channels, bool)> {
    let channels = prop::sample::select(vec![Channels::PerMiner, Channels::Aggregated]);
    (channels, any::<bool>())
}

impl Net {
    fn any_world(channels: Channels, two: bool) -> Self {
        if (channels, two) == (Channels::PerMiner, false) {
            return Self::mining();
        }
        let mut text = config("");
        if channels == Channels::PerMiner {
            text = text.replace("aggregated", "per-miner");
        }
        if !two {
            let end = text.find("[failover]").unwrap();
            text.replace_range(text.rfind("[[upstream]]").unwrap()..end, "");
        }
        let mut net = Self::of(&text);
        net.connect_any();
        net.hello(MINER);
        net.open(7, &[0xa0, 0xa1, 0xa2, 0xa3], 12);
        net.work(7, 1, 0x11);
        net
    }

    /// The next connection, with whatever the translator asks of it answered by nothing.
    fn connect_any(&mut self) {
        self.frames.clear();
        self.reach();
        self.say(&SetupConnectionSuccess { used_version: 2, flags: 0 });
        self.pass(Duration::from_secs(2));
        self.frames.retain(|(header, _)| header.msg_type != 0);
    }

    /// A miner that was here before connects anew.
    fn knows_no_jobs(&mut self, miner: PeerId) {
        self.job_ids.retain(|id| !id.ends_with(&format!(" of {miner}")));
    }

    fn is_dialled(&self) -> bool {
        self.effects.iter().any(|effect| matches!(effect, Effect::Dial(_)))
    }

    /// A request for a channel that is not answered, of the connection that was made last.
    fn any_request(&mut self) -> Option<u32> {
        let place = self.engine.place(self.upstream)?;
        let upstream = self.engine.at(place);
        upstream.requests.keys().min().copied().or(upstream.request_of_all)
    }

    /// What holds for everything that miners are told.
    fn check_lines(&mut self) {
        let aggregated = self.engine.core.settings.channels == Channels::Aggregated;
        for (peer, lines) in std::mem::take(&mut self.lines) {
            for (line, next) in lines.iter().zip(lines.iter().skip(1).map(Some).chain([None])) {
                // A difficulty counts from the next job on: it is never left to wait for one.
                if line.contains("mining.set_difficulty\",\"params") {
                    assert!(
                        next.is_some_and(|next| next.contains("mining.notify\",")),
                        "{lines:?}"
                    );
                }
                if line.contains("\"method\":\"mining.notify\"") {
                    let mut id = Notified::parse(line).job_id;
                    if aggregated {
                        // All have the same jobs, and each connection has each job once.
                        id = format!("{id} of {peer}");
                    }
                    assert!(self.job_ids.insert(id), "a job id twice");
                }
                serde_json::from_str::<Value>(line).unwrap();
            }
        }
    }
}

proptest! {
    #[test]
    fn any_order_of_events(
        (channels, two) in world(),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut net = Net::any_world(channels, two);
        for step in steps {
            match step {
                Step::Line(miner, line) => net.event(PeerId(miner), Link::Miner(0), Event::Line(&line)),
                Step::Frame(header, payload) => {
                    net.upstream_event(Event::Frame(header, &payload));
                }
                Step::Job(channel, job, future) => {
                    net.job(channel, job, if future { None } else { Some(NTIME) });
                }
                Step::Tip(channel, job, tip) => net.tip(channel, job, tip, HARD),
                Step::Open(channel, group) => {
                    if let Some(request_id) = net.any_request() {
                        net.say(&OpenExtendedMiningChannelSuccess {
                            request_id,
                            channel_id: channel,
                            target: EASY,
                            extranonce_size: 12,
                            extranonce_prefix: B032::new(&[channel as u8; 4]).unwrap(),
                            group_channel_id: group,
                        });
                    }
                }
                Step::Refuse(small) => {
                    if let Some(request_id) = net.any_request() {
                        let code = if small { "min-extranonce-size-too-large" } else { "no" };
                        let error_code = Str0255::cut(code);
                        net.say(&OpenMiningChannelError { request_id, error_code });
                    }
                }
                Step::CloseChannel(channel_id) => {
                    net.say(&CloseChannel { channel_id, reason_code: Str0255::cut("no") });
                }
                Step::Target(channel_id, byte) => {
                    net.say(&SetTarget { channel_id, maximum_target: [byte; 32] });
                }
                Step::Prefix(channel_id, byte) => {
                    let prefix = [byte; 4];
                    let extranonce_prefix = B032::new(&prefix).unwrap();
                    net.say(&SetExtranoncePrefix { channel_id, extranonce_prefix });
                }
                Step::Group(id, group_channel_id) => {
                    let ids = [id, 99];
                    let channel_ids = Seq064K::new(&ids).unwrap();
                    net.say(&SetGroupChannel { group_channel_id, channel_ids });
                }
                Step::Answers(channel_id, shares) => {
                    net.say(&SubmitSharesSuccess {
                        channel_id,
                        last_sequence_number: 0,
                        new_submits_accepted_count: shares,
                        new_shares_sum: 0,
                    });
                    let error_code = Str0255::cut("no");
                    net.say(&SubmitSharesError { channel_id, sequence_number: 0, error_code });
                }
                Step::Elsewhere(new_port) => {
                    net.say(&Reconnect { new_host: Str0255::cut("x"), new_port });
                }
                // A connection opens once.
                Step::Join(miner) if !net.engine.miners.contains_key(&PeerId(miner)) => {
                    net.knows_no_jobs(PeerId(miner));
                    net.join(PeerId(miner));
                }
                Step::Hello(miner) if !net.engine.miners.contains_key(&PeerId(miner)) => {
                    net.knows_no_jobs(PeerId(miner));
                    net.hello(PeerId(miner));
                }
                Step::Join(_) | Step::Hello(_) => {}
                Step::Leave(miner) => {
                    net.event(PeerId(miner), Link::Miner(0), Event::Closed("gone"));
                }
                Step::Lose => net.lose(),
                Step::Connect if net.engine.upstream.stage != Stage::Down && !net.is_dialled() => {}
                Step::Connect => net.connect_any(),
                // What comes next is of the other one of two connections.
                Step::Other => {
                    let place = net.engine.place(net.upstream);
                    let peer = match (place, &net.engine.candidate) {
                        (Some(Place::Active), Some(candidate)) => candidate.stage.peer(),
                        _ => net.engine.upstream.stage.peer(),
                    };
                    net.upstream = peer.unwrap_or(net.upstream);
                }
                Step::Pass(seconds) => net.pass(Duration::from_secs(seconds)),
            }
            net.check_lines();
            // Every channel has its miner and every miner with a channel is known by it.
            let upstream = &net.engine.upstream;
            for (id, peer) in &upstream.channels {
                let channel = net.engine.miners[peer].channel.as_ref();
                prop_assert_eq!(channel.map(|channel| channel.id), Some(*id));
            }
            let open = net.engine.miners.values().filter(|miner| miner.channel.is_some()).count();
            prop_assert_eq!(open, upstream.channels.len());
        }
        net.engine.status(net.now);
    }
}
