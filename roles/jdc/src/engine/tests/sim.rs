//! A job declarator client, its servers and its miners in one thread.

use std::path::Path;
use std::time::{Duration, Instant};

use adit_mining::{ClientChannel, NonceScan, Target, sha256d};
use adit_sv2::codec::{B016M, B032, B064K, B0255, Seq064K, Seq0255, Str0255};
use adit_sv2::frame::{Header, encode_frame};
use adit_sv2::messages::common::{SetupConnection, SetupConnectionSuccess};
use adit_sv2::messages::extensions::*;
use adit_sv2::messages::job_declaration::*;
use adit_sv2::messages::mining::*;
use adit_sv2::messages::template_distribution as td;
use adit_sv2::messages::{AnyMessage, Message};
use adit_transport::{Delivery, Engine, Event, Now, Outbox, PeerId};

use crate::config::Config;
use crate::engine::{Effect, JdcEngine, Link};
use crate::metrics::Metrics;
use crate::store::FoundBlock;

/// One of 65,536 hashes is a block.
pub(super) const NBITS: u32 = 0x1f00_ffff;
/// Seconds since 1970 when a simulation begins.
pub(super) const START: u32 = 1_800_000_000;
/// Where solo rewards go.
pub(super) const SOLO: &str = "0014751e76e8199196d454941c45d1b3a323f1433bd6";

/// How the servers of an upstream behave.
#[derive(Clone, Debug)]
pub(super) struct Manners {
    pub(super) refuses_declarations: Option<&'static str>,
    pub(super) refuses_jobs: Option<&'static str>,
    pub(super) answers_declarations: bool,
    pub(super) opens_channels: bool,
    pub(super) answers_jobs: bool,
    pub(super) gives_tokens: bool,
    pub(super) refuses_shares: Option<&'static str>,
    pub(super) prefix: [u8; 4],
    /// Extensions that it grants; none where it knows of no extensions.
    pub(super) extensions: Option<Vec<u16>>,
    /// Those that it requires.
    pub(super) requires: Vec<u16>,
    /// Expected hashes of a share.
    pub(super) share_work: f64,
    /// Largest extranonce that is granted.
    pub(super) room: u16,
    /// Script of the payout, and how many more outputs there are.
    pub(super) payout: u8,
    pub(super) more_outputs: u8,
}

impl Manners {
    fn of(index: usize) -> Self {
        Self {
            refuses_declarations: None,
            refuses_jobs: None,
            answers_declarations: true,
            opens_channels: true,
            answers_jobs: true,
            gives_tokens: true,
            refuses_shares: None,
            prefix: [1, 0, 0, index as u8 + 1],
            share_work: 64.0,
            extensions: Some(Vec::new()),
            requires: Vec::new(),
            room: 16,
            payout: 0xa0 + index as u8,
            more_outputs: 0,
        }
    }
}

pub(super) struct Said {
    pub(super) to: PeerId,
    pub(super) at: Instant,
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
}

pub(super) struct Sim {
    pub(super) engine: JdcEngine,
    pub(super) now: Now,
    out: Outbox<Effect>,
    /// Everything that was said, in order.
    pub(super) said: Vec<Said>,
    pub(super) effects: Vec<Effect>,
    pub(super) closed: Vec<(PeerId, &'static str)>,
    links: Vec<Link>,
    pub(super) manners: Vec<Manners>,
    /// Transactions of every template.
    pub(super) transactions: Vec<Vec<u8>>,
    pub(super) answers_data: bool,
    /// Of the block that templates are for.
    pub(super) height: u8,
    next_job_id: u32,
    next_token: u8,
}

/// A miner with one channel.
pub(super) struct Miner {
    /// What its shares carry behind their fields.
    pub(super) tlv: Option<Vec<u8>>,
    pub(super) peer: PeerId,
    pub(super) channel: ClientChannel,
    read: usize,
    /// Where the next search begins.
    pub(super) nonce: u32,
}

impl Sim {
    /// `upstreams` pools with their JDSs, one template provider, nobody connected.
    pub(super) fn new(more: &str, upstreams: usize) -> Self {
        Self::with_pending(more, upstreams, Vec::new())
    }

    pub(super) fn with_pending(more: &str, upstreams: usize, pending: Vec<FoundBlock>) -> Self {
        let mut text = format!(
            "network = \"signet\"\nshares.min_hashrate = 1.0\nshares.start_hashrate = 20.0\n{more}\n"
        );
        for index in 0..upstreams {
            text += &format!(
                "[[upstreams]]\npool = \"stratum2+tcp://pool{index}:1\"\n\
                 jds = \"stratum2+tcp://jds{index}:1\"\nuser_identity = \"farm.{index}\"\n"
            );
        }
        text += "[[template_provider]]\naddress = \"tp:1\"\n";
        let config: Config = adit_service::parse_config(&text, Path::new("")).unwrap();
        Self {
            engine: JdcEngine::new(&config, Metrics::default(), pending, [9, 9, 9, 9]).unwrap(),
            now: Now { instant: Instant::now(), unix_ms: u64::from(START) * 1_000 },
            out: Outbox::default(),
            said: Vec::new(),
            effects: Vec::new(),
            closed: Vec::new(),
            links: Vec::new(),
            manners: (0..upstreams).map(Manners::of).collect(),
            transactions: vec![vec![1; 100], vec![2; 200], vec![3; 300]],
            answers_data: true,
            height: 101,
            next_job_id: 100,
            next_token: 0,
        }
    }

    /// All connected, template 1 on tip 1.
    pub(super) fn working(more: &str, upstreams: usize) -> Self {
        let mut sim = Self::new(more, upstreams);
        for index in 0..upstreams {
            sim.connect(Link::Pool(index));
            sim.connect(Link::Jds(index));
        }
        sim.connect(Link::TemplateProvider(0));
        sim.tip(1, 1);
        sim
    }

    pub(super) fn connect(&mut self, link: Link) -> PeerId {
        let peer = PeerId(self.links.len() as u64);
        self.links.push(link);
        self.event(peer, Event::Opened { remote: "127.0.0.1:1".parse().unwrap() });
        peer
    }

    /// The last connection of a link.
    pub(super) fn peer(&self, link: Link) -> PeerId {
        PeerId(self.links.iter().rposition(|its| *its == link).unwrap() as u64)
    }

    /// A connection ends.
    pub(super) fn lose(&mut self, link: Link) {
        let peer = self.peer(link);
        self.event(peer, Event::Closed("gone"));
        self.closed.push((peer, "gone"));
    }

    pub(super) fn event(&mut self, peer: PeerId, event: Event<'_>) {
        let link = self.links[peer.0 as usize];
        self.engine.handle(peer, link, event, self.now, &mut self.out);
        self.settle();
    }

    pub(super) fn send<'m, M: Message<'m>>(&mut self, peer: PeerId, message: &M) {
        let mut frame = Vec::new();
        encode_frame(message, &mut frame);
        let (header, payload) = frame.split_first_chunk().unwrap();
        self.event(peer, Event::Frame(Header::parse(header), payload));
    }

    /// Records what was said and lets the servers answer.
    fn settle(&mut self) {
        let from = self.said.len();
        let Self { out, said, closed, now, .. } = self;
        out.deliver(|delivery| match delivery {
            Delivery::Close(peer, reason) => closed.push((peer, reason)),
            Delivery::Bytes(to, mut bytes) => {
                assert!(closed.iter().all(|(gone, _)| *gone != to), "{to} is closed and spoken to");
                while let Some((header, rest)) = bytes.split_first_chunk() {
                    let header = Header::parse(header);
                    let (payload, rest) = rest.split_at(header.msg_length as usize);
                    said.push(Said { to, at: now.instant, header, payload: payload.to_vec() });
                    bytes = rest;
                }
            }
        });
        self.effects.extend(self.out.take_effects());
        for at in from..self.said.len() {
            let Said { to, header, payload, .. } = &self.said[at];
            let (to, header, payload) = (*to, *header, payload.clone());
            match self.links[to.0 as usize] {
                Link::Miner => {}
                Link::TemplateProvider(_) => self.provider_answers(to, &header, &payload),
                Link::Pool(index) => self.pool_answers(index, to, &header, &payload),
                Link::Jds(index) => self.jds_answers(index, to, &header, &payload),
            }
        }
    }

    fn set_up(&mut self, peer: PeerId) {
        self.send(peer, &SetupConnectionSuccess { used_version: 2, flags: 0 });
    }

    fn provider_answers(&mut self, peer: PeerId, header: &Header, payload: &[u8]) {
        match header.msg_type {
            SetupConnection::TYPE => self.set_up(peer),
            td::RequestTransactionData::TYPE if self.answers_data => {
                let asked = td::RequestTransactionData::decode(payload).unwrap().0;
                self.give_data(asked.template_id);
            }
            _ => {}
        }
    }

    pub(super) fn give_data(&mut self, template_id: u64) {
        let peer = self.peer(Link::TemplateProvider(0));
        let transactions = self.transactions.clone();
        let list: Vec<_> = transactions.iter().map(|tx| B016M::new(tx).unwrap()).collect();
        let answer = td::RequestTransactionDataSuccess {
            template_id,
            excess_data: B064K::new(b"excess").unwrap(),
            transaction_list: Seq064K::new(&list).unwrap(),
        };
        self.send(peer, &answer);
    }

    fn pool_answers(&mut self, index: usize, peer: PeerId, header: &Header, payload: &[u8]) {
        let manners = self.manners[index].clone();
        match header.msg_type {
            RequestExtensions::TYPE if header.extension_type == 1 => {
                let m = RequestExtensions::decode(payload).unwrap().0;
                self.grant_extensions(peer, &m, &manners);
            }
            _ if header.extension_type != 0 => {}
            SetupConnection::TYPE => self.set_up(peer),
            OpenExtendedMiningChannel::TYPE if manners.opens_channels => {
                let m = OpenExtendedMiningChannel::decode(payload).unwrap().0;
                if m.min_extranonce_size > manners.room {
                    let error_code = Str0255::cut("min-extranonce-size-too-large");
                    let request_id = m.request_id;
                    return self.send(peer, &OpenMiningChannelError { request_id, error_code });
                }
                let opened = OpenExtendedMiningChannelSuccess {
                    request_id: m.request_id,
                    channel_id: 7,
                    target: Target::from_expected_hashes(manners.share_work).to_le_bytes(),
                    extranonce_size: m.min_extranonce_size,
                    extranonce_prefix: B032::new(&manners.prefix).unwrap(),
                    group_channel_id: 1,
                };
                self.send(peer, &opened);
            }
            SetCustomMiningJob::TYPE => {
                let m = SetCustomMiningJob::decode(payload).unwrap().0;
                let (channel_id, request_id) = (m.channel_id, m.request_id);
                if let Some(code) = manners.refuses_jobs {
                    let error_code = Str0255::cut(code);
                    let refusal = SetCustomMiningJobError { channel_id, request_id, error_code };
                    self.send(peer, &refusal);
                } else if manners.answers_jobs {
                    self.accept_job(index, request_id);
                }
            }
            SubmitSharesExtended::TYPE => {
                let m = SubmitSharesExtended::decode(payload).unwrap().0;
                let (channel_id, sequence_number) = (m.channel_id, m.sequence_number);
                if let Some(code) = manners.refuses_shares {
                    let error_code = Str0255::cut(code);
                    let refusal = SubmitSharesError { channel_id, sequence_number, error_code };
                    return self.send(peer, &refusal);
                }
                let accepted = SubmitSharesSuccess {
                    channel_id,
                    last_sequence_number: sequence_number,
                    new_submits_accepted_count: 1,
                    new_shares_sum: 1,
                };
                self.send(peer, &accepted);
            }
            _ => {}
        }
    }

    fn grant_extensions(&mut self, peer: PeerId, m: &RequestExtensions<'_>, manners: &Manners) {
        let Some(known) = &manners.extensions else { return };
        let request_id = m.request_id;
        let (granted, unsupported): (Vec<u16>, Vec<u16>) =
            m.requested_extensions.iter().partition(|id| known.contains(id));
        if granted.is_empty() || !manners.requires.is_empty() {
            let unsupported_extensions = Seq064K::new(&unsupported).unwrap();
            let required_extensions = Seq064K::new(&manners.requires).unwrap();
            let refused =
                RequestExtensionsError { request_id, unsupported_extensions, required_extensions };
            return self.send(peer, &refused);
        }
        let supported_extensions = Seq064K::new(&granted).unwrap();
        self.send(peer, &RequestExtensionsSuccess { request_id, supported_extensions });
    }

    pub(super) fn accept_job(&mut self, index: usize, request_id: u32) {
        let peer = self.peer(Link::Pool(index));
        self.next_job_id += 1;
        let job_id = self.next_job_id;
        self.send(peer, &SetCustomMiningJobSuccess { channel_id: 7, request_id, job_id });
    }

    fn jds_answers(&mut self, index: usize, peer: PeerId, header: &Header, payload: &[u8]) {
        let manners = self.manners[index].clone();
        match header.msg_type {
            SetupConnection::TYPE => self.set_up(peer),
            AllocateMiningJobToken::TYPE if manners.gives_tokens => {
                let request_id = AllocateMiningJobToken::decode(payload).unwrap().0.request_id;
                self.next_token += 1;
                let token = [b'a', index as u8, self.next_token];
                let mut outputs = vec![1 + manners.more_outputs];
                for output in 0..=manners.more_outputs {
                    outputs.extend([0; 8]);
                    outputs.extend([2, 0x51, manners.payout.wrapping_add(output)]);
                }
                let answer = AllocateMiningJobTokenSuccess {
                    request_id,
                    mining_job_token: B0255::new(&token).unwrap(),
                    coinbase_tx_outputs: B064K::new(&outputs).unwrap(),
                };
                self.send(peer, &answer);
            }
            DeclareMiningJob::TYPE => {
                let m = DeclareMiningJob::decode(payload).unwrap().0;
                let request_id = m.request_id;
                if let Some(code) = manners.refuses_declarations {
                    let refusal = DeclareMiningJobError {
                        request_id,
                        error_code: Str0255::cut(code),
                        error_details: B064K::new(b"").unwrap(),
                    };
                    self.send(peer, &refusal);
                } else if manners.answers_declarations {
                    self.accept_declaration(index, request_id);
                }
            }
            _ => {}
        }
    }

    pub(super) fn accept_declaration(&mut self, index: usize, request_id: u32) {
        let peer = self.peer(Link::Jds(index));
        self.next_token += 1;
        let token = [b'd', index as u8, self.next_token];
        let new_mining_job_token = B0255::new(&token).unwrap();
        self.send(peer, &DeclareMiningJobSuccess { request_id, new_mining_job_token });
    }

    /// A template, of which nothing but its id and value differs from others.
    pub(super) fn template(&mut self, id: u64, future: bool) {
        self.template_like(id, id, future);
    }

    /// A template with the content of another.
    pub(super) fn template_like(&mut self, id: u64, content: u64, future: bool) {
        let peer = self.peer(Link::TemplateProvider(0));
        // A witness commitment, so that the coinbase has a witness.
        let mut outputs = vec![0; 8];
        outputs.extend([38, 0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed]);
        outputs.extend([0x5c; 32]);
        let path = [sha256d(&content.to_le_bytes())];
        let coinbase_prefix = [0x01, self.height];
        let message = td::NewTemplate {
            template_id: id,
            future_template: future,
            version: 0x2000_0000,
            coinbase_tx_version: 2,
            coinbase_prefix: B0255::new(&coinbase_prefix).unwrap(),
            coinbase_tx_input_sequence: 0xffff_fffe,
            coinbase_tx_value_remaining: 5_000_000_000 + content,
            coinbase_tx_outputs_count: 1,
            coinbase_tx_outputs: B064K::new(&outputs).unwrap(),
            coinbase_tx_locktime: 0,
            merkle_path: Seq0255::new(&path).unwrap(),
        };
        self.send(peer, &message);
    }

    /// A future template and its tip.
    pub(super) fn tip(&mut self, id: u64, tip: u8) {
        self.template(id, true);
        self.prev_hash(id, [tip; 32]);
    }

    pub(super) fn prev_hash(&mut self, template_id: u64, prev_hash: [u8; 32]) {
        let peer = self.peer(Link::TemplateProvider(0));
        let message = td::SetNewPrevHash {
            template_id,
            prev_hash,
            header_timestamp: self.now.unix_secs(),
            n_bits: NBITS,
            target: Target::from_nbits(NBITS).unwrap().to_le_bytes(),
        };
        self.send(peer, &message);
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

    /// Messages to the last connection of a link, as logs show them, since a place in `said`.
    pub(super) fn heard(&self, link: Link, from: usize) -> Vec<String> {
        self.heard_by(self.peer(link), from)
    }

    pub(super) fn heard_by(&self, peer: PeerId, from: usize) -> Vec<String> {
        let to = self.said[from..].iter().filter(|said| said.to == peer);
        to.map(|said| AnyMessage::decode(&said.header, &said.payload).unwrap().0.to_string())
            .collect()
    }

    /// Their names.
    pub(super) fn names(&self, link: Link, from: usize) -> Vec<String> {
        let name = |text: String| text.split(" {").next().unwrap().to_owned();
        self.heard(link, from).into_iter().map(name).collect()
    }

    /// Payloads of one type of message to a link, on any of its connections, since a place in `said`.
    pub(super) fn payloads(&self, link: Link, msg_type: u8, from: usize) -> Vec<Vec<u8>> {
        let wanted = |said: &&Said| {
            self.links[said.to.0 as usize] == link && said.header.msg_type == msg_type
        };
        self.said[from..].iter().filter(wanted).map(|said| said.payload.clone()).collect()
    }

    pub(super) fn source(&self) -> &'static str {
        self.engine.core.source.map_or("none", |source| source.label())
    }

    pub(super) fn upstream(&self) -> Option<usize> {
        self.engine.core.source.and_then(|source| source.upstream())
    }

    /// A miner's connection, set up.
    pub(super) fn miner_connection(&mut self, flags: u32) -> PeerId {
        let peer = self.connect(Link::Miner);
        let setup = SetupConnection {
            protocol: 0,
            min_version: 2,
            max_version: 2,
            flags,
            endpoint_host: Str0255::cut("jdc"),
            endpoint_port: 1,
            vendor: Str0255::cut("test"),
            hardware_version: Str0255::default(),
            firmware: Str0255::default(),
            device_id: Str0255::default(),
        };
        self.send(peer, &setup);
        peer
    }

    /// A miner with an extended channel that has work.
    pub(super) fn extended(&mut self, extranonce_size: u16) -> Miner {
        let peer = self.miner_connection(0);
        self.open_extended(peer, extranonce_size);
        self.opened(peer)
    }

    pub(super) fn open_extended(&mut self, peer: PeerId, min_extranonce_size: u16) {
        self.open_as(peer, "worker", min_extranonce_size);
    }

    pub(super) fn open_as(&mut self, peer: PeerId, user: &str, min_extranonce_size: u16) {
        let open = OpenExtendedMiningChannel {
            request_id: 5,
            user_identity: Str0255::cut(user),
            nominal_hash_rate: 10.0,
            max_target: [0xff; 32],
            min_extranonce_size,
        };
        self.send(peer, &open);
    }

    pub(super) fn open_standard(&mut self, peer: PeerId) {
        let open = OpenStandardMiningChannel {
            request_id: 5,
            user_identity: Str0255::cut("worker"),
            nominal_hash_rate: 10.0,
            max_target: [0xff; 32],
        };
        self.send(peer, &open);
    }

    /// The channel that was opened last on a connection.
    pub(super) fn opened(&mut self, peer: PeerId) -> Miner {
        let opened = self.said.iter().enumerate().rev().find_map(|(at, said)| {
            let channel = match said.header.msg_type {
                _ if said.to != peer => return None,
                OpenExtendedMiningChannelSuccess::TYPE => {
                    let m = OpenExtendedMiningChannelSuccess::decode(&said.payload).unwrap().0;
                    ClientChannel::extended(&m).unwrap()
                }
                OpenStandardMiningChannelSuccess::TYPE => {
                    let m = OpenStandardMiningChannelSuccess::decode(&said.payload).unwrap().0;
                    ClientChannel::standard(&m).unwrap()
                }
                _ => return None,
            };
            Some((at, channel))
        });
        let (read, channel) = opened.expect("no channel was opened");
        let mut miner = Miner { tlv: None, peer, channel, read, nonce: 0 };
        miner.read(self);
        miner
    }

    /// Shares that pools were sent since a place in `said`: pool, job, extranonce.
    pub(super) fn shares(&self, index: usize, from: usize) -> Vec<(u32, Vec<u8>)> {
        let payloads = self.payloads(Link::Pool(index), SubmitSharesExtended::TYPE, from);
        let each = payloads.iter().map(|payload| {
            let m = SubmitSharesExtended::decode(payload).unwrap().0;
            (m.job_id, m.extranonce.as_bytes().to_vec())
        });
        each.collect()
    }

    /// Whose they are, where they say so.
    pub(super) fn names_of_shares(&self, index: usize, from: usize) -> Vec<Option<String>> {
        let payloads = self.payloads(Link::Pool(index), SubmitSharesExtended::TYPE, from);
        let each = payloads.iter().map(|payload| {
            let tlvs = SubmitSharesExtended::decode(payload).unwrap().1;
            let name = tlvs.user_identity().unwrap();
            name.map(|name| String::from_utf8(name.to_vec()).unwrap())
        });
        each.collect()
    }

    pub(super) fn status(&self) -> serde_json::Value {
        self.engine.status(self.now)
    }

    pub(super) fn tokens_asked(&self, index: usize) -> usize {
        self.payloads(Link::Jds(index), AllocateMiningJobToken::TYPE, 0).len()
    }
}

impl Miner {
    /// Follows what was said since the last time; returns whether there was a job among it.
    pub(super) fn read(&mut self, sim: &Sim) -> bool {
        let mut job = false;
        for said in sim.said[self.read..].iter().filter(|said| said.to == self.peer) {
            if said.header.extension_type != 0 {
                continue;
            }
            match Mining::decode(&said.header, &said.payload) {
                Ok((Mining::NewMiningJob(m), _)) if m.channel_id == self.channel.id() => {
                    self.channel.new_mining_job(&m).unwrap();
                    job = true;
                }
                Ok((Mining::NewExtendedMiningJob(m), _))
                    if self.channel.is_addressed_by(m.channel_id) =>
                {
                    self.channel.new_extended_mining_job(&m).unwrap();
                    job = true;
                }
                Ok((Mining::SetNewPrevHash(m), _))
                    if self.channel.is_addressed_by(m.channel_id) =>
                {
                    self.channel.set_new_prev_hash(&m).unwrap();
                }
                Ok((Mining::SetTarget(m), _)) if self.channel.is_addressed_by(m.channel_id) => {
                    self.channel.set_target(&m).unwrap();
                }
                _ => {}
            }
        }
        self.read = sim.said.len();
        job
    }

    /// Looks for a share whose hash meets the target, and not `but`, and submits it.
    pub(super) fn submit(&mut self, sim: &mut Sim, target: Target, but: Option<Target>) {
        self.read(sim);
        let extended = self.channel.extranonce_size() > 0;
        let extranonce = vec![0xee; self.channel.extranonce_size()];
        let work = self.channel.active().expect("no work");
        let root = work
            .merkle_root
            .or_else(|| work.job.merkle_root(work.extranonce_prefix, &extranonce))
            .unwrap();
        let (job_id, version, ntime) = (work.job_id, work.job.version(), work.min_ntime);
        let header = adit_mining::Job::header(work.tip, root, version, ntime, 0);
        let mut scan = NonceScan::new(&header);
        let nonce = (self.nonce..)
            .find(|nonce| {
                let hash = scan.hash(*nonce);
                target.is_met_by(&hash) && but.is_none_or(|but| !but.is_met_by(&hash))
            })
            .unwrap();
        self.nonce = nonce + 1;
        let (channel_id, sequence_number) =
            (self.channel.id(), self.channel.next_sequence_number());
        if extended {
            let extranonce = B032::new(&extranonce).unwrap();
            let share = SubmitSharesExtended {
                channel_id,
                sequence_number,
                job_id,
                nonce,
                ntime,
                version,
                extranonce,
            };
            let mut frame = Vec::new();
            encode_frame(&share, &mut frame);
            frame.extend(self.tlv.iter().flatten());
            let (header, payload) = frame.split_first_chunk().unwrap();
            let header = Header { msg_length: payload.len() as u32, ..Header::parse(header) };
            sim.event(self.peer, Event::Frame(header, payload));
        } else {
            let share =
                SubmitSharesStandard { channel_id, sequence_number, job_id, nonce, ntime, version };
            sim.send(self.peer, &share);
        }
    }

    /// A share that is good enough for itself and the pool, and no block.
    pub(super) fn share(&mut self, sim: &mut Sim) {
        let target = Target::from_expected_hashes(64.0).min(self.channel.target());
        self.submit(sim, target, Target::from_nbits(NBITS));
    }

    pub(super) fn block(&mut self, sim: &mut Sim) {
        self.submit(sim, Target::from_nbits(NBITS).unwrap(), None);
    }
}
