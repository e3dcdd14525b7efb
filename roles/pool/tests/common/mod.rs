#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test binary uses a part of it"
)]
//! A template provider and a miner to put around a real pool.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adit_mining::{ClientChannel, Job, NonceScan, Target};
use adit_sv2::codec::{B032, B064K, B0255, Seq0255, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::keys::{AuthorityPublicKey, AuthoritySecretKey};
use adit_sv2::messages::AnyMessage;
use adit_sv2::messages::common::{Common, SetupConnection, SetupConnectionSuccess};
use adit_sv2::messages::mining::{Mining, OpenExtendedMiningChannel, SubmitSharesExtended};
use adit_sv2::messages::template_distribution::{
    NewTemplate, SetNewPrevHash, TemplateDistribution,
};
use adit_sv2::noise::Validity;
use adit_transport::{
    DialOptions, DialTarget, Engine, Event, Hub, HubOptions, ListenLimits, NoiseServer, Now,
    Outbox, PeerId, Protocol, TransportMetrics,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// One of 65,536 hashes is a block.
const NBITS: u32 = 0x1f00_ffff;

/// Nothing here takes so long on any machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub fn authority(seed: u8) -> AuthoritySecretKey {
    AuthoritySecretKey::from_entropy([seed; 32]).unwrap()
}

/// A configuration for a pool of this provider, with its store in this folder. The key is that of `authority(1)`.
pub fn config(
    folder: &Path,
    listen: SocketAddr,
    provider: &TemplateProvider,
    more: &str,
) -> String {
    format!(
        "network = \"signet\"\n\
         coinbase.output = \"raw(0014751e76e8199196d454941c45d1b3a323f1433bd6)\"\n\
         authority.secret_key = \"{secret}\"\n\
         listen.address = \"{listen}\"\n\
         shares.ack_interval_ms = 50\nshares.vardiff = false\nshares.min_hashrate = 1\n\
         store.path = \"{store}\"\n{more}\n\
         [[template_provider]]\naddress = \"{address}\"\nauthority_key = \"{key}\"\n",
        secret = *authority(1).to_text(),
        store = folder.join("pool.redb").display(),
        address = provider.address,
        key = authority(2).public(),
    )
}

fn hub<E: Engine>(engine: E) -> (Hub<E>, mpsc::UnboundedReceiver<E::Effect>, CancellationToken) {
    let (sender, effects) = mpsc::unbounded_channel();
    let end = CancellationToken::new();
    let options = HubOptions { cancel: end.clone(), ..HubOptions::default() };
    let on_effect = move |effect| {
        let _ = sender.send(effect);
    };
    (Hub::new(engine, on_effect, Arc::new(TransportMetrics::default()), options), effects, end)
}

/// A template provider with one template, which tells what solutions it gets.
pub struct TemplateProvider {
    pub address: SocketAddr,
    hub: Hub<ProviderEngine>,
    solutions: mpsc::UnboundedReceiver<Solution>,
    end: CancellationToken,
}

impl TemplateProvider {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hub, solutions, end) = hub(ProviderEngine { client: None, template_id: 0 });
        let server = Arc::new(NoiseServer::new(authority(2), Validity::default()).unwrap());
        tokio::spawn(hub.serve_noise(listener, (), server, ListenLimits::default(), end.clone()));
        Self { address, hub, solutions, end }
    }

    /// The next solution.
    pub async fn solution(&mut self) -> Solution {
        tokio::time::timeout(DEADLINE, self.solutions.recv()).await.expect("a solution").unwrap()
    }

    /// Waits for the solution with this nonce; others may come before it.
    pub async fn solution_with(&mut self, nonce: u32) {
        while self.solution().await.nonce != nonce {}
    }

    /// Drops what came already.
    pub fn forget_solutions(&mut self) {
        while self.solutions.try_recv().is_ok() {}
    }

    /// A new tip, told apart by a byte, and a template for it.
    pub fn new_tip(&self, mark: u8) {
        self.hub.with(|engine, now, out| engine.new_tip(mark, now, out));
    }
}

impl Drop for TemplateProvider {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// What a pool submitted.
#[derive(Debug)]
pub struct Solution {
    pub template_id: u64,
    pub nonce: u32,
}

struct ProviderEngine {
    client: Option<PeerId>,
    template_id: u64,
}

impl ProviderEngine {
    fn new_tip(&mut self, mark: u8, now: Now, out: &mut Outbox<Solution>) {
        let client = self.client.expect("a client");
        self.template_id += 1;
        let outputs = [&[0; 8][..], &[38, 0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed], &[7; 32]].concat();
        let template = NewTemplate {
            template_id: self.template_id,
            future_template: true,
            version: 0x2000_0000,
            coinbase_tx_version: 2,
            coinbase_prefix: B0255::new(&[2, 0x2c, 0x01]).unwrap(),
            coinbase_tx_input_sequence: 0xffff_fffe,
            coinbase_tx_value_remaining: 5_000_000_000,
            coinbase_tx_outputs_count: 1,
            coinbase_tx_outputs: B064K::new(&outputs).unwrap(),
            coinbase_tx_locktime: 299,
            merkle_path: Seq0255::default(),
        };
        let prev_hash = SetNewPrevHash {
            template_id: self.template_id,
            prev_hash: [mark; 32],
            header_timestamp: now.unix_secs(),
            n_bits: NBITS,
            target: Target::from_nbits(NBITS).unwrap().to_le_bytes(),
        };
        out.send(client, &template);
        out.send(client, &prev_hash);
    }
}

impl Engine for ProviderEngine {
    type Link = ();
    type Effect = Solution;

    fn handle(
        &mut self,
        peer: PeerId,
        (): (),
        event: Event<'_>,
        now: Now,
        out: &mut Outbox<Solution>,
    ) {
        let Event::Frame(header, payload) = event else { return };
        match AnyMessage::decode(&header, payload).unwrap().0 {
            AnyMessage::Common(Common::SetupConnection(m)) => {
                assert_eq!((m.protocol, m.endpoint_port != 0), (2, true));
                out.send(peer, &SetupConnectionSuccess { used_version: 2, flags: 0 });
            }
            AnyMessage::TemplateDistribution(TemplateDistribution::CoinbaseOutputConstraints(
                m,
            )) => {
                assert_eq!(m.coinbase_output_max_additional_size, 31);
                self.client = Some(peer);
                self.new_tip(1, now, out);
            }
            AnyMessage::TemplateDistribution(TemplateDistribution::SubmitSolution(m)) => {
                out.effect(Solution { template_id: m.template_id, nonce: m.header_nonce })
            }
            other => panic!("{other}"),
        }
    }

    fn tick(&mut self, _: Now, _: &mut Outbox<Solution>) {}
}

/// A miner with one extended channel.
pub struct Miner {
    hub: Hub<MinerEngine>,
    news: mpsc::UnboundedReceiver<News>,
    end: CancellationToken,
}

/// What a miner hears.
#[derive(Debug)]
pub enum News {
    Work,
    Accepted(u32),
    Refused(String),
    SentTo(String, u16),
    Prefix,
    Closed,
}

impl Miner {
    /// A miner that keeps itself connected to this address.
    pub fn start(pool: SocketAddr, key: AuthorityPublicKey) -> Self {
        let (hub, news, end) = hub(MinerEngine { peer: None, client: None, nonce: 0 });
        let target = DialTarget { authority_key: Some(key), ..DialTarget::from(pool) };
        let keep = hub.keep_dialed(
            (),
            Protocol::Noise,
            move || target.clone(),
            DialOptions::default(),
            end.clone(),
            |_| {},
        );
        tokio::spawn(keep);
        Self { hub, news, end }
    }

    pub async fn next(&mut self) -> News {
        tokio::time::timeout(DEADLINE, self.news.recv()).await.expect("news").unwrap()
    }

    pub async fn work(&mut self) {
        while !matches!(self.next().await, News::Work) {}
    }

    /// Submits so many shares.
    pub fn submit(&self, shares: usize) {
        self.hub.with(|engine, _, out| (0..shares).for_each(|_| _ = engine.submit(false, out)));
    }

    /// Submits a share that is a block; returns its nonce.
    pub fn submit_block(&self) -> u32 {
        self.hub.with(|engine, _, out| engine.submit(true, out))
    }

    /// Waits until so many shares are acknowledged.
    pub async fn accepted(&mut self, shares: u32) {
        let mut accepted = 0;
        while accepted < shares {
            match self.next().await {
                News::Accepted(more) => accepted += more,
                News::Work => {}
                other => panic!("{other:?} after {accepted} of {shares}"),
            }
        }
        assert_eq!(accepted, shares);
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

struct MinerEngine {
    peer: Option<PeerId>,
    client: Option<ClientChannel>,
    nonce: u32,
}

impl MinerEngine {
    fn submit(&mut self, block: bool, out: &mut Outbox<News>) -> u32 {
        let client = self.client.as_mut().expect("a channel");
        let sequence_number = client.next_sequence_number();
        let work = client.active().expect("work");
        let extranonce = [0x5a; 8];
        let root = work.job.merkle_root(work.extranonce_prefix, &extranonce).unwrap();
        let (job_id, version, ntime) = (work.job_id, work.job.version(), work.min_ntime);
        let mut scan = NonceScan::new(&Job::header(work.tip, root, version, ntime, 0));
        let (network, target) = (work.tip.network_target, work.target);
        let fits = |hash| target.is_met_by(&hash) && network.is_met_by(&hash) == block;
        let nonce = (self.nonce..).find(|nonce| fits(scan.hash(*nonce))).unwrap();
        self.nonce = nonce + 1;
        let extranonce = B032::new(&extranonce).unwrap();
        let channel_id = client.id();
        let share = SubmitSharesExtended {
            channel_id,
            sequence_number,
            job_id,
            nonce,
            ntime,
            version,
            extranonce,
        };
        out.send(self.peer.expect("a connection"), &share);
        nonce
    }
}

impl Engine for MinerEngine {
    type Link = ();
    type Effect = News;

    fn handle(&mut self, peer: PeerId, (): (), event: Event<'_>, _: Now, out: &mut Outbox<News>) {
        match event {
            Event::Opened { .. } => {
                self.peer = Some(peer);
                let setup = SetupConnection {
                    protocol: 0,
                    min_version: 2,
                    max_version: 2,
                    flags: 0,
                    endpoint_host: Str0255::cut("127.0.0.1"),
                    endpoint_port: 1,
                    vendor: Str0255::cut("test"),
                    hardware_version: Str0255::default(),
                    firmware: Str0255::default(),
                    device_id: Str0255::default(),
                };
                out.send(peer, &setup);
            }
            Event::Frame(header, payload) => self.frame(peer, &header, payload, out),
            Event::Line(_) => panic!("a line"),
            Event::Closed(_) => {
                self.client = None;
                out.effect(News::Closed);
            }
        }
    }

    fn tick(&mut self, _: Now, _: &mut Outbox<News>) {}
}

impl MinerEngine {
    fn frame(&mut self, peer: PeerId, header: &Header, payload: &[u8], out: &mut Outbox<News>) {
        let (message, _) = AnyMessage::decode(header, payload).unwrap();
        if let AnyMessage::Common(Common::SetupConnectionSuccess(_)) = message {
            let open = OpenExtendedMiningChannel {
                request_id: 1,
                user_identity: Str0255::cut("alice.rig"),
                nominal_hash_rate: 10.0,
                max_target: [0xff; 32],
                min_extranonce_size: 8,
            };
            return out.send(peer, &open);
        }
        if let AnyMessage::Common(Common::Reconnect(m)) = message {
            return out.effect(News::SentTo(m.new_host.to_clean_string(), m.new_port));
        }
        let AnyMessage::Mining(message) = message else { panic!("{message}") };
        if let Mining::OpenExtendedMiningChannelSuccess(opened) = message {
            self.client = Some(ClientChannel::extended(&opened).unwrap());
            return;
        }
        let client = self.client.as_mut().expect("a channel");
        match message {
            Mining::NewExtendedMiningJob(m) => {
                client.new_extended_mining_job(&m).unwrap();
            }
            Mining::SetNewPrevHash(m) => {
                client.set_new_prev_hash(&m).unwrap();
                out.effect(News::Work);
            }
            Mining::SetExtranoncePrefix(m) => {
                client.set_extranonce_prefix(&m).unwrap();
                out.effect(News::Prefix);
            }
            Mining::SubmitSharesSuccess(m) => {
                out.effect(News::Accepted(m.new_submits_accepted_count))
            }
            Mining::SubmitSharesError(m) => {
                out.effect(News::Refused(m.error_code.to_clean_string()))
            }
            other => panic!("{other}"),
        }
    }
}
