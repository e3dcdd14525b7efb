//! A pool, its template providers, its disk and its miners in one thread.

use std::path::Path;
use std::time::{Duration, Instant};

use adit_mining::{BlockHash, ClientChannel, Job, NonceScan, Share, Target};
use adit_sv2::codec::{B032, B064K, B0255, Seq0255, Str0255};
use adit_sv2::frame::{Header, encode_frame};
use adit_sv2::messages::common::{SetupConnection, SetupConnectionSuccess};
use adit_sv2::messages::mining::{
    Mining, OpenExtendedMiningChannel, OpenStandardMiningChannel, SubmitSharesExtended,
    SubmitSharesStandard,
};
use adit_sv2::messages::template_distribution::{NewTemplate, SetNewPrevHash, SubmitSolution};
use adit_sv2::messages::{AnyMessage, Message};
use adit_transport::{Delivery, Engine, Event, Now, Outbox, PeerId};

use crate::config::Config;
use crate::engine::{Effect, Link, PoolEngine};
use crate::metrics::Metrics;
use crate::store::{FoundBlock, Queue, Record, ShareOutcome};

/// One of 65,536 hashes is a block.
pub(super) const NBITS: u32 = 0x1f00_ffff;
/// Seconds since 1970 when a simulation begins.
pub(super) const START: u32 = 1_800_000_000;

pub(super) struct Sim {
    pub(super) config: Config,
    pub(super) engine: PoolEngine,
    pub(super) now: Now,
    out: Outbox<Effect>,
    frames: Vec<(PeerId, Header, Vec<u8>)>,
    closed: Vec<(PeerId, &'static str)>,
    /// What waits for the disk.
    pub(super) records: Vec<Record>,
    peers: u64,
    height: u32,
    /// Of tips to come.
    pub(super) nbits: u32,
    /// Frames of the last [`stored_quietly`](Self::stored_quietly).
    pub(super) said: usize,
}

impl Sim {
    /// A pool with one template provider, `tp:1`, and a share at about 100 hashes for a miner of 10 H/s.
    pub(super) fn new(more: &str) -> Self {
        Self::with_providers(more, 1, Vec::new())
    }

    pub(super) fn with_providers(more: &str, providers: usize, pending: Vec<FoundBlock>) -> Self {
        Self::run(more, providers, pending, 0)
    }

    /// The run with this number.
    pub(super) fn run(more: &str, providers: usize, pending: Vec<FoundBlock>, run: u64) -> Self {
        let network = if more.starts_with("network") { "" } else { "network = \"signet\"\n" };
        let mut text = format!(
            "{network}\
             coinbase.output = \"raw(0014751e76e8199196d454941c45d1b3a323f1433bd6)\"\ncoinbase.server_id = 7\n\
             shares.min_hashrate = 1.0\nshares.start_hashrate = 20.0\n{more}\n"
        );
        for index in 1..=providers {
            text += &format!("[[template_provider]]\naddress = \"tp:{index}\"\n");
        }
        let config: Config = adit_service::parse_config(&text, Path::new("")).unwrap();
        Self {
            engine: PoolEngine::new(&config, Metrics::default(), pending, run).unwrap(),
            config,
            now: Now { instant: Instant::now(), unix_ms: u64::from(START) * 1_000 },
            out: Outbox::default(),
            frames: Vec::new(),
            closed: Vec::new(),
            records: Vec::new(),
            peers: 0,
            height: 300,
            nbits: NBITS,
            said: 0,
        }
    }

    /// A pool whose provider `tp:1` has given template 1 on tip 1.
    pub(super) fn working(more: &str) -> (Self, PeerId) {
        let mut sim = Self::new(more);
        let tp = sim.provider(0);
        sim.tip(tp, 0, 1, 1);
        (sim, tp)
    }

    pub(super) fn event(&mut self, peer: PeerId, link: Link, event: Event<'_>) {
        self.engine.handle(peer, link, event, self.now, &mut self.out);
        self.settle();
    }

    fn settle(&mut self) {
        let Self { out, frames, closed, .. } = self;
        out.deliver(|delivery| match delivery {
            Delivery::Close(peer, reason) => closed.push((peer, reason)),
            Delivery::Bytes(peer, mut bytes) => {
                assert!(
                    closed.iter().all(|(gone, _)| *gone != peer),
                    "{peer} is closed and still spoken to"
                );
                while let Some((header, rest)) = bytes.split_first_chunk() {
                    let header = Header::parse(header);
                    let (payload, rest) = rest.split_at(header.msg_length as usize);
                    frames.push((peer, header, payload.to_vec()));
                    bytes = rest;
                }
            }
        });
        self.records.extend(self.out.take_effects().filter_map(|effect| match effect {
            Effect::Store(record) => Some(record),
            Effect::FannedOut(_) => None,
        }));
    }

    pub(super) fn send<'m, M: Message<'m>>(&mut self, peer: PeerId, link: Link, message: &M) {
        let mut frame = Vec::new();
        encode_frame(message, &mut frame);
        let (header, payload) = frame.split_first_chunk().unwrap();
        self.event(peer, link, Event::Frame(Header::parse(header), payload));
    }

    /// A miner's frame, as the driver carries it: what is to be stored goes into the queue.
    pub(super) fn event_quietly(&mut self, peer: PeerId, frame: &[u8], queue: &Queue) {
        let (header, payload) = frame.split_first_chunk().unwrap();
        let event = Event::Frame(Header::parse(header), payload);
        self.engine.handle(peer, Link::Miner, event, self.now, &mut self.out);
        self.out.deliver(|delivery| panic!("{delivery:?}"));
        for effect in self.out.take_effects() {
            if let Effect::Store(record) = effect {
                queue.push(record);
            }
        }
    }

    /// The disk took every share up to this number; counts what is said then and drops it.
    pub(super) fn stored_quietly(&mut self, number: u64) {
        self.engine.stored(Some(number), &[], self.now, &mut self.out);
        let mut bytes = 0;
        self.out.deliver(|delivery| {
            if let Delivery::Bytes(_, frames) = delivery {
                bytes += frames.len();
            }
        });
        self.said = bytes / (Header::LEN + 20);
    }

    /// What was said to this peer since the last time, as logs show it.
    pub(super) fn heard(&mut self, peer: PeerId) -> Vec<String> {
        let mut heard = Vec::new();
        self.frames.retain(|(to, header, payload)| {
            if *to == peer {
                heard.push(AnyMessage::decode(header, payload).unwrap().0.to_string());
            }
            *to != peer
        });
        heard
    }

    /// The names of what was said to this peer since the last time.
    pub(super) fn heard_names(&mut self, peer: PeerId) -> Vec<String> {
        let name = |text: String| text.split(" {").next().unwrap().to_owned();
        self.heard(peer).into_iter().map(name).collect()
    }

    /// The one message of this type that was said to this peer, and nothing else was.
    pub(super) fn heard_only(&mut self, peer: PeerId, text: &str) {
        let heard = self.heard(peer);
        assert!(heard.len() == 1 && heard[0].contains(text), "expected {text}, heard {heard:?}");
    }

    pub(super) fn solutions(&mut self, peer: PeerId) -> Vec<(u64, Vec<u8>)> {
        let mut found = Vec::new();
        self.frames.retain(|(to, header, payload)| {
            let is_it = *to == peer && header.msg_type == SubmitSolution::TYPE;
            if is_it {
                let message = SubmitSolution::decode(payload).unwrap().0;
                found.push((message.template_id, message.coinbase_tx.as_bytes().to_vec()));
            }
            !is_it
        });
        found
    }

    /// Why this peer's connection was closed, if it was.
    pub(super) fn closed(&self, peer: PeerId) -> Option<&'static str> {
        self.closed.iter().find(|(gone, _)| *gone == peer).map(|(_, reason)| *reason)
    }

    /// Time passes.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now.later(time);
        while self.now.instant < end.instant {
            self.now = self.now.later(Duration::from_millis(100));
            self.engine.tick(self.now, &mut self.out);
            self.settle();
        }
    }

    /// The disk takes everything.
    pub(super) fn store(&mut self) -> usize {
        let (mut shares, mut blocks) = (None, Vec::new());
        let records = std::mem::take(&mut self.records);
        for record in &records {
            match record {
                Record::Share { outcome: ShareOutcome::Accepted { number, .. }, .. } => {
                    shares = Some(*number)
                }
                Record::Share { .. } => {}
                Record::Block(block) => blocks.push(block.hash_bytes()),
            }
        }
        self.engine.stored(shares, &blocks, self.now, &mut self.out);
        self.settle();
        records.len()
    }

    pub(super) fn open(&mut self, link: Link) -> PeerId {
        self.peers += 1;
        let peer = PeerId(self.peers);
        self.event(peer, link, Event::Opened { remote: "192.0.2.1:5555".parse().unwrap() });
        peer
    }

    /// Connects the provider with this index, up to its constraints.
    pub(super) fn provider(&mut self, index: usize) -> PeerId {
        let link = Link::TemplateProvider(index);
        let peer = self.open(link);
        self.heard_only(
            peer,
            "SetupConnection { protocol: 2, min_version: 2, max_version: 2, flags: 0",
        );
        self.send(peer, link, &SetupConnectionSuccess { used_version: 2, flags: 0 });
        let constraints =
            "coinbase_output_max_additional_size: 31, coinbase_output_max_additional_sigops: 0";
        assert!(self.heard(peer)[0].contains(constraints));
        peer
    }

    /// A future template and its tip, as template providers send them at a new block.
    pub(super) fn tip(&mut self, peer: PeerId, index: usize, template_id: u64, tip: u8) {
        self.template(peer, index, template_id, true, template_id as u8);
        self.prev_hash(peer, index, template_id, tip);
    }

    /// The same for a block at this height; templates are at 300 otherwise.
    pub(super) fn tip_at(&mut self, peer: PeerId, index: usize, id: u64, tip: u8, height: u32) {
        self.height = height;
        self.tip(peer, index, id, tip);
    }

    pub(super) fn template(
        &mut self,
        peer: PeerId,
        index: usize,
        template_id: u64,
        future: bool,
        content: u8,
    ) {
        let coinbase_prefix = crate::engine::custom::height_push(self.height);
        let outputs = [&[0; 8][..], &[38, 0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed], &[7; 32]].concat();
        let path = [[content; 32], [9; 32]];
        let message = NewTemplate {
            template_id,
            future_template: future,
            version: 0x2000_0000,
            coinbase_tx_version: 2,
            coinbase_prefix: B0255::new(&coinbase_prefix).unwrap(),
            coinbase_tx_input_sequence: 0xffff_fffe,
            coinbase_tx_value_remaining: 5_000_000_000,
            coinbase_tx_outputs_count: 1,
            coinbase_tx_outputs: B064K::new(&outputs).unwrap(),
            coinbase_tx_locktime: self.height - 1,
            merkle_path: Seq0255::new(&path).unwrap(),
        };
        self.send(peer, Link::TemplateProvider(index), &message);
    }

    pub(super) fn prev_hash(&mut self, peer: PeerId, index: usize, template_id: u64, tip: u8) {
        self.prev_hash_bytes(peer, index, template_id, [tip; 32]);
    }

    pub(super) fn prev_hash_bytes(
        &mut self,
        peer: PeerId,
        index: usize,
        template_id: u64,
        prev_hash: [u8; 32],
    ) {
        let message = SetNewPrevHash {
            template_id,
            prev_hash,
            header_timestamp: self.now.unix_secs(),
            n_bits: self.nbits,
            target: Target::from_nbits(self.nbits).unwrap().to_le_bytes(),
        };
        self.send(peer, Link::TemplateProvider(index), &message);
    }

    /// The pool reads another configuration.
    pub(super) fn reload(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.engine.reload(&self.config, &mut self.out);
        self.settle();
    }

    /// A miner's connection, set up with these flags.
    pub(super) fn miner(&mut self, flags: u32) -> PeerId {
        let peer = self.open(Link::Miner);
        self.send(peer, Link::Miner, &setup_connection(0, 2, 2, flags));
        self.heard_only(peer, "SetupConnection.Success { used_version: 2, flags: 0 }");
        peer
    }

    /// A miner with an extended channel.
    pub(super) fn extended(&mut self, user: &str) -> Rig {
        let peer = self.miner(0);
        self.send(peer, Link::Miner, &open_extended(1, user));
        self.rig(peer)
    }

    /// A miner with a standard channel.
    pub(super) fn standard(&mut self, user: &str) -> Rig {
        let peer = self.miner(1);
        self.send(peer, Link::Miner, &open_standard(1, user));
        self.rig(peer)
    }

    /// For what the driver asks of the engine; to be given back.
    pub(super) fn take_outbox(&mut self) -> Outbox<Effect> {
        std::mem::take(&mut self.out)
    }

    pub(super) fn give_outbox(&mut self, out: Outbox<Effect>) {
        self.out = out;
        self.settle();
    }

    /// Forgets what was said to this peer.
    pub(super) fn drop_frames_of(&mut self, peer: PeerId) {
        self.frames.retain(|(to, ..)| *to != peer);
    }

    /// Forgets everything that was said.
    pub(super) fn drop_frames(&mut self) {
        self.frames.clear();
    }

    /// The first frame that was said to this peer and not looked at yet.
    pub(super) fn take_frame(&mut self, peer: PeerId) -> Option<(Header, Vec<u8>)> {
        let first = self.frames.iter().position(|(to, ..)| *to == peer)?;
        let (_, header, payload) = self.frames.remove(first);
        Some((header, payload))
    }

    /// The channel that was just opened: first the answer, then a future job, then its tip.
    pub(super) fn rig(&mut self, peer: PeerId) -> Rig {
        let (header, payload) = self.take_frame(peer).expect("an answer");
        let client = match Mining::decode(&header, &payload).unwrap().0 {
            Mining::OpenExtendedMiningChannelSuccess(m) => ClientChannel::extended(&m).unwrap(),
            Mining::OpenStandardMiningChannelSuccess(m) => ClientChannel::standard(&m).unwrap(),
            other => panic!("{other}"),
        };
        let mut rig = Rig { peer, client, nonce: 0 };
        for name in ["MiningJob", "SetNewPrevHash"] {
            let (header, payload) = self.take_frame(peer).expect(name);
            let (message, _) = Mining::decode(&header, &payload).unwrap();
            assert!(message.name().ends_with(name), "{message}");
            rig.take(&message);
        }
        rig
    }
}

/// A miner with one channel.
pub(super) struct Rig {
    pub(super) peer: PeerId,
    pub(super) client: ClientChannel,
    nonce: u32,
}

/// What a share should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wanted {
    Share,
    Block,
    TooEasy,
}

impl Rig {
    /// Takes a message that is for it, be it by the group.
    pub(super) fn take(&mut self, message: &Mining<'_>) {
        match message {
            Mining::NewMiningJob(m) => assert!(self.client.new_mining_job(m).is_ok()),
            Mining::NewExtendedMiningJob(m) => {
                assert!(self.client.new_extended_mining_job(m).is_ok())
            }
            Mining::SetNewPrevHash(m) => self.client.set_new_prev_hash(m).unwrap(),
            Mining::SetTarget(m) => self.client.set_target(m).unwrap(),
            Mining::SetExtranoncePrefix(m) => self.client.set_extranonce_prefix(m).unwrap(),
            _ => {}
        }
    }

    /// Takes what was said to it; returns the names.
    pub(super) fn listen(&mut self, sim: &mut Sim) -> Vec<&'static str> {
        let mut names = Vec::new();
        sim.frames.retain(|(to, header, payload)| {
            if *to != self.peer {
                return true;
            }
            let (message, _) = Mining::decode(header, payload).unwrap();
            names.push(message.name());
            self.take(&message);
            false
        });
        names
    }

    /// Searches a nonce; every search goes on where the last one ended. The client's own check is not asked, so that the
    /// pool's is.
    pub(super) fn search(&mut self, wanted: Wanted) -> Found {
        self.search_with(wanted, vec![0x5a; self.client.extranonce_size()], 0)
    }

    /// The same with this extranonce and an nTime so many seconds later than the job's.
    pub(super) fn search_with(&mut self, wanted: Wanted, extranonce: Vec<u8>, later: u32) -> Found {
        let work = self.client.active().expect("work");
        let root = work
            .merkle_root
            .or_else(|| work.job.merkle_root(work.extranonce_prefix, &extranonce))
            .unwrap();
        let (version, ntime) = (work.job.version(), work.min_ntime + later);
        let network = work.tip.network_target;
        let fits = |hash: &BlockHash| match wanted {
            Wanted::Block => network.is_met_by(hash),
            Wanted::Share => work.target.is_met_by(hash) && !network.is_met_by(hash),
            Wanted::TooEasy => !work.target.is_met_by(hash),
        };
        let mut scan = NonceScan::new(&Job::header(work.tip, root, version, ntime, 0));
        let nonce = (self.nonce..).find(|nonce| fits(&scan.hash(*nonce))).unwrap();
        let (job_id, hash) = (work.job_id, scan.hash(nonce));
        self.nonce = nonce + 1;
        Found {
            sequence_number: self.client.next_sequence_number(),
            job_id,
            nonce,
            ntime,
            version,
            extranonce,
            hash,
        }
    }

    /// The frame that submits it.
    pub(super) fn frame(&self, found: &Found) -> Vec<u8> {
        let Found { sequence_number, job_id, nonce, ntime, version, ref extranonce, .. } = *found;
        let channel_id = self.client.id();
        let mut frame = Vec::new();
        if self.client.extranonce_size() == 0 {
            let share =
                SubmitSharesStandard { channel_id, sequence_number, job_id, nonce, ntime, version };
            encode_frame(&share, &mut frame);
        } else {
            let extranonce = B032::new(extranonce).unwrap();
            let share = SubmitSharesExtended {
                channel_id,
                sequence_number,
                job_id,
                nonce,
                ntime,
                version,
                extranonce,
            };
            encode_frame(&share, &mut frame);
        }
        frame
    }

    pub(super) fn submit(&self, sim: &mut Sim, found: &Found) {
        let frame = self.frame(found);
        let (header, payload) = frame.split_first_chunk().unwrap();
        sim.event(self.peer, Link::Miner, Event::Frame(Header::parse(header), payload));
    }

    /// Finds and submits so many shares.
    pub(super) fn mine(&mut self, sim: &mut Sim, shares: usize) {
        for _ in 0..shares {
            let found = self.search(Wanted::Share);
            self.submit(sim, &found);
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) sequence_number: u32,
    pub(super) job_id: u32,
    pub(super) nonce: u32,
    pub(super) ntime: u32,
    pub(super) version: u32,
    pub(super) extranonce: Vec<u8>,
    pub(super) hash: BlockHash,
}

impl Found {
    pub(super) fn share(&self) -> Share<'_> {
        let Self { sequence_number, job_id, nonce, ntime, version, ref extranonce, .. } = *self;
        Share { sequence_number, job_id, nonce, ntime, version, extranonce }
    }
}

pub(super) fn setup_connection(
    protocol: u8,
    min_version: u16,
    max_version: u16,
    flags: u32,
) -> SetupConnection<'static> {
    SetupConnection {
        protocol,
        min_version,
        max_version,
        flags,
        endpoint_host: Str0255::cut("pool"),
        endpoint_port: 34254,
        vendor: Str0255::cut("test"),
        hardware_version: Str0255::default(),
        firmware: Str0255::default(),
        device_id: Str0255::default(),
    }
}

pub(super) fn open_standard(request_id: u32, user: &str) -> OpenStandardMiningChannel<'_> {
    OpenStandardMiningChannel {
        request_id,
        user_identity: Str0255::new(user.as_bytes()).unwrap(),
        nominal_hash_rate: 10.0,
        max_target: [0xff; 32],
    }
}

pub(super) fn open_extended(request_id: u32, user: &str) -> OpenExtendedMiningChannel<'_> {
    OpenExtendedMiningChannel {
        request_id,
        user_identity: Str0255::new(user.as_bytes()).unwrap(),
        nominal_hash_rate: 10.0,
        max_target: [0xff; 32],
        min_extranonce_size: 8,
    }
}
