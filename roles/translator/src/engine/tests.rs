//! The engine as lists of lines and frames, on simulated time.

mod aggregated;
mod allocations;
mod blocks;
mod conduct;
mod dialect;
mod failover;
mod hello;
mod login;
mod random;
mod room;
mod shares;
mod unanswered;
mod upstream;
mod verdicts;
mod wishes;
mod work;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use adit_mining::Target;
use adit_service::parse_config;
use adit_sv2::codec::{B032, B064K, Seq0255};
use adit_sv2::frame::{Header, encode_frame};
use adit_sv2::messages::Message;
use adit_sv2::messages::common::SetupConnectionSuccess;
use adit_sv2::messages::mining::{
    Mining, NewExtendedMiningJob, OpenExtendedMiningChannelSuccess, SetNewPrevHash,
    SubmitSharesExtended,
};
use adit_transport::Delivery;
use bitcoin::hashes::{Hash, sha256d};
use serde_json::Value;

use super::*;

const UPSTREAM: PeerId = PeerId(1_000);
const MINER: PeerId = PeerId(1);

/// nBits of mainnet's first block: no share of these tests is a block.
const HARD: u32 = 0x1d00_ffff;
/// nBits of regtest: every other hash is a block.
const REGTEST: u32 = 0x207f_ffff;
/// A share target that one hash in two meets, and the difficulty that says so.
const EASY: [u8; 32] = {
    let mut target = [0xff; 32];
    target[31] = 0x7f;
    target
};
const COINBASE_PREFIX: &[u8] = b"\x02\0\0\0\x01 coinbase before";
const COINBASE_SUFFIX: &[u8] = b"coinbase after";
const MERKLE_PATH: [[u8; 32]; 2] = [[0xaa; 32], [0xbb; 32]];
const NTIME: u32 = 1_700_000_000;

/// How miners are presented to the upstream.
const MODES: [Channels; 2] = [Channels::PerMiner, Channels::Aggregated];

/// The engine, its miners and its upstream.
struct Net {
    engine: TranslatorEngine,
    out: Outbox<Effect>,
    effects: Vec<Effect>,
    /// By which attempt a connection to an upstream was made.
    dials: HashMap<PeerId, DialId>,
    now: Now,
    lines: HashMap<PeerId, Vec<String>>,
    /// What the upstream was sent: header and payload.
    frames: Vec<(Header, Vec<u8>)>,
    /// On which connection the last of them was.
    sent_to: PeerId,
    closed: Vec<(PeerId, &'static str)>,
    upstream: PeerId,
    /// Of all jobs that any miner was told.
    job_ids: HashSet<String>,
}

impl Net {
    fn new(more: &str) -> Self {
        Self::with_miners(more, "")
    }

    /// With `more` of the configuration, and more of its `[miners]`.
    fn with_miners(more: &str, miners: &str) -> Self {
        Self::in_mode(Channels::PerMiner, more, miners)
    }

    /// The same, in one of the modes.
    fn in_mode(mode: Channels, more: &str, miners: &str) -> Self {
        let (channels, identity) = match mode {
            Channels::PerMiner => ("", ""),
            Channels::Aggregated => ("channels = \"aggregated\"\n", "user_identity = \"farm\"\n"),
        };
        // Upstreams of tests speak only when they are asked to.
        let patient = match more.contains("[failover]") {
            true => "",
            false => "[failover]\nsilence_seconds = 0\nacknowledge_seconds = 0\n",
        };
        Self::of(&format!(
            "{channels}[[upstream]]\nurl = \"stratum2+tcp://pool.example:34254\"\n{identity}{more}\n{patient}\
             [miners]\nnominal_hash_rate = 1e6\n{miners}"
        ))
    }

    /// With a whole configuration.
    fn of(text: &str) -> Self {
        let config: Config = parse_config(text, Path::new("/nowhere")).unwrap();
        config.check().unwrap();
        let now = Now { instant: Instant::now(), unix_ms: u64::from(NTIME) * 1_000 };
        Self {
            engine: TranslatorEngine::new(&config, Metrics::default(), now, 7),
            out: Outbox::default(),
            now,
            effects: Vec::new(),
            dials: HashMap::new(),
            lines: HashMap::new(),
            frames: Vec::new(),
            sent_to: UPSTREAM,
            closed: Vec::new(),
            upstream: UPSTREAM,
            job_ids: HashSet::new(),
        }
    }

    /// With an upstream that is set up.
    fn connected() -> Self {
        let mut net = Self::new("");
        net.connect();
        net
    }

    /// With an upstream and a miner that has a channel (id 7, prefix `a0a1a2a3`, 12 bytes) and work (job 1).
    fn mining() -> Self {
        Self::mining_in(Channels::PerMiner)
    }

    /// The same, in one of the modes.
    fn mining_in(mode: Channels) -> Self {
        let mut net = Self::in_mode(mode, "", "");
        net.connect();
        net.hello(MINER);
        net.open(7, &[0xa0, 0xa1, 0xa2, 0xa3], 12);
        net.work(7, 1, 0x11);
        net
    }

    /// The next attempt to connect is made and succeeds, up to the answer to `SetupConnection`.
    fn connect(&mut self) {
        if self.engine.core.settings.channels == Channels::Aggregated {
            self.aggregated(&[2]);
            return;
        }
        self.reach();
        self.say(&SetupConnectionSuccess { used_version: 2, flags: 0 });
    }

    /// The next attempt to connect is made and succeeds: where.
    fn reach(&mut self) -> Dial {
        let dial = self.dial();
        self.upstream = PeerId(self.upstream.0 + 1);
        self.dials.insert(self.upstream, dial.id);
        let remote = "10.0.0.1:34254".parse().unwrap();
        self.upstream_event(Event::Opened { remote });
        let (header, _) = self.frames.pop().expect("a SetupConnection");
        assert_eq!(header.msg_type, 0);
        dial
    }

    /// Something happens on the connection that was made last, or that `upstream` was set to.
    fn upstream_event(&mut self, event: Event<'_>) {
        let dial = self.dials.get(&self.upstream).copied().unwrap_or(DialId(0));
        let link = Link::Upstream(dial);
        self.event(self.upstream, link, event);
    }

    /// Waits for the next attempt to connect.
    fn dial(&mut self) -> Dial {
        for _ in 0..1_000 {
            let is_dial = |effect: &Effect| matches!(effect, Effect::Dial(_));
            if let Some(place) = self.effects.iter().position(is_dial) {
                let Effect::Dial(dial) = self.effects.remove(place) else { unreachable!() };
                return dial;
            }
            self.now = self.now.later(Duration::from_millis(100));
            self.engine.tick(self.now, &mut self.out);
            self.drain();
        }
        panic!("nobody is dialled");
    }

    /// The next attempt to connect is made and comes to nothing: where.
    fn fail_dial(&mut self) -> Dial {
        let dial = self.dial();
        self.engine.dial_failed(dial.id, "cannot connect", self.now);
        dial
    }

    fn event(&mut self, peer: PeerId, link: Link, event: Event<'_>) {
        self.engine.handle(peer, link, event, self.now, &mut self.out);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.later(time);
        while self.now.instant < end.instant {
            let step = (end.instant - self.now.instant).min(Duration::from_secs(1));
            self.now = self.now.later(step);
            self.engine.tick(self.now, &mut self.out);
            self.drain();
        }
    }

    fn drain(&mut self) {
        self.effects.extend(self.out.take_effects());
        let Self { out, lines, frames, sent_to, closed, .. } = self;
        out.deliver(|delivery| match delivery {
            Delivery::Bytes(peer, bytes) if peer.0 > UPSTREAM.0 => {
                *sent_to = peer;
                let mut rest = bytes;
                while let Some((header, after)) = rest.split_first_chunk() {
                    let header = Header::parse(header);
                    let (payload, after) = after.split_at(header.msg_length as usize);
                    frames.push((header, payload.to_vec()));
                    rest = after;
                }
            }
            Delivery::Bytes(peer, bytes) => {
                let text = std::str::from_utf8(bytes).unwrap();
                assert!(text.ends_with('\n'));
                lines.entry(peer).or_default().extend(text.lines().map(str::to_owned));
            }
            Delivery::Close(peer, reason) => closed.push((peer, reason)),
        });
    }

    /// A miner connects.
    fn join(&mut self, miner: PeerId) {
        // What an earlier miner of this name was told is none of its business.
        self.lines.remove(&miner);
        let remote = "10.1.0.1:5000".parse().unwrap();
        self.event(miner, Link::Miner(0), Event::Opened { remote });
    }

    /// A miner says a line; what it is told then.
    fn line(&mut self, miner: PeerId, line: &str) -> Vec<String> {
        self.event(miner, Link::Miner(0), Event::Line(line.as_bytes()));
        self.told(miner)
    }

    /// What a miner was told since it was last asked.
    fn told(&mut self, miner: PeerId) -> Vec<String> {
        self.lines.remove(&miner).unwrap_or_default()
    }

    /// A miner connects and subscribes, as what it says it is.
    fn subscribe(&mut self, miner: PeerId, user_agent: &str) -> Vec<String> {
        self.join(miner);
        let line =
            format!(r#"{{"id": 1, "method": "mining.subscribe", "params": ["{user_agent}"]}}"#);
        self.line(miner, &line)
    }

    /// A miner authorises.
    fn authorize(&mut self, miner: PeerId, password: &str) -> Vec<String> {
        let line = format!(
            r#"{{"id": 2, "method": "mining.authorize", "params": ["farm.rig", "{password}"]}}"#
        );
        self.line(miner, &line)
    }

    /// The request for a channel that was made last.
    fn asked(&self) -> (f32, [u8; 32]) {
        let (header, payload) = self.frames.last().expect("a request");
        match Mining::decode(header, payload).unwrap().0 {
            Mining::OpenExtendedMiningChannel(m) => (m.nominal_hash_rate, m.max_target),
            Mining::UpdateChannel(m) => (m.nominal_hash_rate, m.maximum_target),
            other => panic!("{other}"),
        }
    }

    /// A miner connects, subscribes and authorises.
    fn hello(&mut self, miner: PeerId) {
        self.join(miner);
        let told = self.line(miner, r#"{"id":1,"method":"mining.subscribe","params":["test/1"]}"#);
        assert_eq!(told.len(), 1, "{told:?}");
        let authorize =
            format!(r#"{{"id":2,"method":"mining.authorize","params":["w.{}","x"]}}"#, miner.0);
        let told = self.line(miner, &authorize);
        assert_eq!(told[0], r#"{"id":2,"result":true,"error":null}"#);
    }

    /// The upstream says something.
    fn say<'m, M: Message<'m>>(&mut self, message: &M) {
        let mut frame = Vec::new();
        encode_frame(message, &mut frame);
        let (header, payload) = frame.split_first_chunk().unwrap();
        self.upstream_event(Event::Frame(Header::parse(header), payload));
    }

    /// What the upstream was sent since it was last asked.
    fn sent(&mut self) -> Vec<(Header, Vec<u8>)> {
        std::mem::take(&mut self.frames)
    }

    /// The one frame that the upstream was sent, as text.
    fn sent_text(&mut self) -> Vec<String> {
        self.sent().iter().map(|(h, p)| Mining::decode(h, p).unwrap().0.to_string()).collect()
    }

    /// The upstream opens the channel that was asked for last.
    fn open(&mut self, channel_id: u32, prefix: &[u8], extranonce_size: u16) {
        self.open_in(channel_id, 1, prefix, extranonce_size);
    }

    fn open_in(&mut self, channel_id: u32, group: u32, prefix: &[u8], extranonce_size: u16) {
        let request_id = self.request_id();
        self.say(&OpenExtendedMiningChannelSuccess {
            request_id,
            channel_id,
            target: EASY,
            extranonce_size,
            extranonce_prefix: B032::new(prefix).unwrap(),
            group_channel_id: group,
        });
    }

    /// The id of the request that was made last.
    fn request_id(&mut self) -> u32 {
        let (header, payload) = self.frames.pop().expect("a request");
        match Mining::decode(&header, &payload).unwrap().0 {
            Mining::OpenExtendedMiningChannel(m) => m.request_id,
            other => panic!("{other}"),
        }
    }

    /// A future job and its previous hash.
    fn work(&mut self, channel_id: u32, job_id: u32, tip: u8) {
        self.job(channel_id, job_id, None);
        self.tip(channel_id, job_id, tip, HARD);
    }

    fn job(&mut self, channel_id: u32, job_id: u32, min_ntime: Option<u32>) {
        self.job_with(channel_id, job_id, min_ntime, COINBASE_SUFFIX);
    }

    fn job_with(&mut self, channel_id: u32, job_id: u32, min_ntime: Option<u32>, suffix: &[u8]) {
        self.say(&NewExtendedMiningJob {
            channel_id,
            job_id,
            min_ntime,
            version: 0x2000_0000,
            version_rolling_allowed: true,
            merkle_path: Seq0255::new(&MERKLE_PATH).unwrap(),
            coinbase_tx_prefix: B064K::new(COINBASE_PREFIX).unwrap(),
            coinbase_tx_suffix: B064K::new(suffix).unwrap(),
        });
    }

    fn tip(&mut self, channel_id: u32, job_id: u32, tip: u8, nbits: u32) {
        let prev_hash = [tip; 32];
        self.say(&SetNewPrevHash { channel_id, job_id, prev_hash, min_ntime: NTIME, nbits });
    }

    /// The connection to the upstream ends.
    fn lose(&mut self) {
        self.upstream_event(Event::Closed("closed by the peer"));
        self.frames.clear();
    }

    /// What is counted, as it is collected.
    fn metrics(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.engine.core.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    /// Whether a line of the metrics is this, without the prefix of all.
    fn counted(&self, sample: &str) -> bool {
        self.metrics().lines().any(|line| {
            line.strip_suffix(sample).is_some_and(|prefix| !prefix.contains(['{', ' ']))
        })
    }

    fn totals(&self) -> crate::metrics::Totals {
        self.engine.core.metrics.totals()
    }

    /// A share of `miner` on `job`, as text and with its header's hash.
    fn share(&self, miner: PeerId, job: &Notified, found: impl Fn(&[u8; 32]) -> bool) -> Found {
        let miner = &self.engine.miners[&miner];
        let extranonce1 = miner.extranonce1.unwrap();
        let extranonce2 = &[7; 8][..miner.extranonce2_size.into()];
        (0..)
            .map(|nonce| Found::new(job, &extranonce1, extranonce2, job.ntime, nonce, job.version))
            .find(|share| found(&share.hash))
            .unwrap()
    }
}

/// A `mining.notify`, taken apart as a miner does.
#[derive(Clone, Debug)]
struct Notified {
    job_id: String,
    prev_hash: [u8; 32],
    coinb1: Vec<u8>,
    coinb2: Vec<u8>,
    merkle_path: Vec<[u8; 32]>,
    version: u32,
    nbits: u32,
    ntime: u32,
    clean: bool,
}

impl Notified {
    fn parse(line: &str) -> Self {
        let message: Value = serde_json::from_str(line).unwrap();
        assert_eq!(message["method"], "mining.notify", "{line}");
        let params = message["params"].as_array().unwrap();
        let text = |at: usize| params[at].as_str().unwrap();
        let word = |at: usize| u32::from_str_radix(text(at), 16).unwrap();
        let mut prev_hash: [u8; 32] = unhex(text(1)).try_into().unwrap();
        prev_hash.chunks_exact_mut(4).for_each(<[u8]>::reverse);
        let path = params[4].as_array().unwrap().iter();
        Self {
            job_id: text(0).to_owned(),
            prev_hash,
            coinb1: unhex(text(2)),
            coinb2: unhex(text(3)),
            merkle_path: path.map(|p| unhex(p.as_str().unwrap()).try_into().unwrap()).collect(),
            version: word(5),
            nbits: word(6),
            ntime: word(7),
            clean: params[8].as_bool().unwrap(),
        }
    }

    /// The last `mining.notify` among lines.
    fn last(lines: &[String]) -> Self {
        let line = lines.iter().rev().find(|line| line.contains("mining.notify"));
        Self::parse(line.unwrap_or_else(|| panic!("no job in {lines:?}")))
    }

    /// The block header as the miner makes it.
    fn header(&self, extranonce: &[u8], ntime: u32, nonce: u32, version: u32) -> [u8; 80] {
        let coinbase = [&self.coinb1, extranonce, &self.coinb2].concat();
        let mut root = sha256d::Hash::hash(&coinbase).to_byte_array();
        for step in &self.merkle_path {
            root = sha256d::Hash::hash(&[root, *step].concat()).to_byte_array();
        }
        header(version, &self.prev_hash, &root, ntime, self.nbits, nonce)
    }
}

/// A share as a miner sends it.
#[derive(Clone, Debug)]
struct Found {
    job_id: String,
    extranonce2: Vec<u8>,
    ntime: u32,
    nonce: u32,
    header: [u8; 80],
    hash: [u8; 32],
}

impl Found {
    fn new(
        job: &Notified,
        extranonce1: &[u8],
        extranonce2: &[u8],
        ntime: u32,
        nonce: u32,
        version: u32,
    ) -> Self {
        let header = job.header(&[extranonce1, extranonce2].concat(), ntime, nonce, version);
        let hash = sha256d::Hash::hash(&header).to_byte_array();
        let (job_id, extranonce2) = (job.job_id.clone(), extranonce2.to_vec());
        Self { job_id, extranonce2, ntime, nonce, header, hash }
    }

    /// In minerd's manner: five parameters, id 4.
    fn submit(&self) -> String {
        let extranonce2: String = self.extranonce2.iter().map(|b| format!("{b:02x}")).collect();
        format!(
            r#"{{"method": "mining.submit", "params": ["w", "{}", "{extranonce2}", "{:08x}", "{:08x}"], "id":4}}"#,
            self.job_id, self.ntime, self.nonce
        )
    }
}

/// The header that an upstream makes of a share, from the job as it sent it.
fn upstream_header(
    share: &SubmitSharesExtended<'_>,
    prefix: &[u8],
    tip: u8,
    nbits: u32,
) -> [u8; 80] {
    let coinbase = [COINBASE_PREFIX, prefix, share.extranonce.as_bytes(), COINBASE_SUFFIX].concat();
    let mut root = sha256d::Hash::hash(&coinbase).to_byte_array();
    for step in MERKLE_PATH {
        root = sha256d::Hash::hash(&[root, step].concat()).to_byte_array();
    }
    header(share.version, &[tip; 32], &root, share.ntime, nbits, share.nonce)
}

fn header(
    version: u32,
    prev: &[u8; 32],
    root: &[u8; 32],
    time: u32,
    bits: u32,
    nonce: u32,
) -> [u8; 80] {
    let words = [time, bits, nonce].map(u32::to_le_bytes).concat();
    [&version.to_le_bytes()[..], prev, root, &words].concat().try_into().unwrap()
}

/// Whether a hash meets a target as it is on the wire.
fn meets(hash: &[u8; 32], target: &[u8; 32]) -> bool {
    hash.iter().rev().le(target.iter().rev())
}

fn unhex(text: &str) -> Vec<u8> {
    adit_sv1::hex::decode(text).unwrap()
}

const ACCEPTED: &str = r#"{"id":4,"result":true,"error":null}"#;

fn refused(code: i32, text: &str) -> Vec<String> {
    vec![format!(r#"{{"id":4,"result":null,"error":[{code},"{text}",null]}}"#)]
}

/// The target of a difficulty, as on the wire.
fn target(difficulty: f64) -> [u8; 32] {
    Target::from_difficulty(difficulty).to_le_bytes()
}
