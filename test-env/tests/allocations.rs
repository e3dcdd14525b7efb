//! The steady-state share path allocates nothing: from a miner's sealed bytes, through opening, decoding and the check,
//! to the sealed acknowledgement.
//!
//! Steady state is what a second tip is like: buffers have grown to what they need, and the memory for telling duplicates
//! was set aside when the job came, for as many shares as the last job saw. The counting allocator looks at the
//! calling thread alone.

#![allow(clippy::unwrap_used)] // a test's helpers may panic as the test itself may

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_mining::channel::ChannelOptions;
use adit_mining::{
    ChannelKind, ClientChannel, Extranonce, Job, JobFactory, NonceScan, Payouts, ServerChannel,
    Share, Target, Template, Tip,
};
use adit_pool::config::Config;
use adit_pool::engine::{Effect, Link, PoolEngine};
use adit_pool::metrics::Metrics;
use adit_pool::store::{Record, ShareOutcome};
use adit_sv2::codec::{B032, B064K, B0255, Seq0255, Str0255};
use adit_sv2::frame::{self, Header, encode_frame};
use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::messages::Message;
use adit_sv2::messages::common::{SetupConnection, SetupConnectionSuccess};
use adit_sv2::messages::mining::{
    Mining, OpenExtendedMiningChannel, SubmitSharesExtended, SubmitSharesStandard,
    SubmitSharesSuccess,
};
use adit_sv2::messages::template_distribution::{NewTemplate, SetNewPrevHash};
use adit_sv2::noise::{Initiator, Opened, Opener, Responder, ResponderIdentity, Sealer, Validity};
use adit_transport::{Delivery, Engine, Event, Now, Outbox, PeerId};
use allocation_counter::measure;

/// Seconds since 1970 at which everything happens.
const START: u32 = 1_800_000_000;
/// As hard as mainnet: no share is a block.
const NBITS: u32 = 0x1702_3a04;
/// Shares on each tip.
const SHARES: u32 = 200;
/// The last tip, on which allocations are counted.
const STEADY: u8 = 2;

#[test]
fn the_counter_counts() {
    assert_eq!(measure(|| drop(std::hint::black_box(vec![1u8; 100]))).count_total, 1);
}

/// The protocol crates alone, extended and standard.
#[test]
fn a_share_on_a_channel() {
    for kind in [ChannelKind::Extended, ChannelKind::Standard] {
        let mut wires = Wires::new();
        let extranonce_size = if kind == ChannelKind::Extended { 8 } else { 0 };
        let mut channel = ServerChannel::new(ChannelOptions {
            id: 3,
            kind,
            extranonce_prefix: Extranonce::new(&[7, 0, 0, 1]).unwrap(),
            extranonce_size,
            target: Target::MAX,
            max_target: Target::MAX,
            max_shares_per_job: 1 << 20,
        });
        let (mut out, mut plain) = (Vec::new(), Vec::new());
        for tip in 1..=STEADY {
            new_tip(&mut channel, tip);
            let mut inbound = Vec::new();
            for sequence_number in 0..SHARES {
                let mut frame = Vec::new();
                let nonce = sequence_number * 7;
                let share = SubmitSharesExtended {
                    channel_id: 3,
                    sequence_number,
                    job_id: tip.into(),
                    nonce,
                    ntime: START,
                    version: 0x2000_0000,
                    extranonce: B032::new(&[0x5a; 8]).unwrap(),
                };
                match kind {
                    ChannelKind::Extended => encode_frame(&share, &mut frame),
                    ChannelKind::Standard => encode_frame(&standard(&share), &mut frame),
                }
                wires.miner_says.seal(&frame, &mut inbound).unwrap();
            }
            out.clear();
            let mut accepted = 0;
            let counted = measure(|| {
                let mut rest = &mut inbound[..];
                while !rest.is_empty() {
                    let consumed = match wires.pool_hears.next(rest, frame::payload_limit).unwrap()
                    {
                        Opened::Incomplete { need } => panic!("{need} bytes are missing"),
                        Opened::Frame { header, payload, consumed } => {
                            let message = Mining::decode(&header, payload).unwrap().0;
                            let share = match &message {
                                Mining::SubmitSharesExtended(message) => Share::from(message),
                                Mining::SubmitSharesStandard(message) => Share::from(message),
                                other => panic!("{other}"),
                            };
                            let credit = channel.check_share(&share, START).unwrap();
                            channel.credit(share.sequence_number, credit.work);
                            accepted += 1;
                            consumed
                        }
                    };
                    if channel.unacknowledged() == 10 {
                        plain.clear();
                        encode_frame(&channel.take_success().unwrap(), &mut plain);
                        wires.pool_says.seal(&plain, &mut out).unwrap();
                    }
                    rest = &mut rest[consumed..];
                }
            });
            assert_eq!(accepted, SHARES);
            assert_eq!(wires.acknowledged(&mut out), SHARES);
            if tip == STEADY {
                assert_eq!(counted.count_total, 0, "{kind:?}: {counted:?}");
            }
        }
    }
}

/// The pool's engine: a sealed share in, a record for the store out; the store's word in, a sealed acknowledgement out.
#[test]
fn a_share_in_the_pool() {
    let mut wires = Wires::new();
    let mut pool = Pool::new();
    let mut miner = pool.open_channel();
    let mut out = Vec::new();
    for tip in 1..=STEADY {
        if tip > 1 {
            pool.work(tip);
            miner.listen(&mut pool);
            // What would be acknowledged by time has been acknowledged by count.
            pool.now = pool.now.later(Duration::from_millis(1_500));
            pool.engine.tick(pool.now, &mut pool.out);
            pool.out.deliver(|delivery| panic!("{delivery:?}"));
        }
        let mut inbound = Vec::new();
        for _ in 0..SHARES {
            wires.miner_says.seal(&miner.share(), &mut inbound).unwrap();
        }
        out.clear();
        let (mut records, mut last) = (0, 0);
        let counted = measure(|| {
            let mut rest = &mut inbound[..];
            while !rest.is_empty() {
                let consumed = match wires.pool_hears.next(rest, frame::payload_limit).unwrap() {
                    Opened::Incomplete { need } => panic!("{need} bytes are missing"),
                    Opened::Frame { header, payload, consumed } => {
                        let event = Event::Frame(header, payload);
                        pool.engine.handle(MINER, Link::Miner, event, pool.now, &mut pool.out);
                        consumed
                    }
                };
                for effect in pool.out.take_effects() {
                    let Effect::Store(Record::Share { outcome, .. }) = effect else {
                        panic!("{effect:?}");
                    };
                    let ShareOutcome::Accepted { number, .. } = outcome else {
                        panic!("a share was refused");
                    };
                    records += 1;
                    last = number;
                }
                if records % 25 == 0 {
                    pool.engine.stored(Some(last), &[], pool.now, &mut pool.out);
                }
                pool.out.deliver(|delivery| match delivery {
                    Delivery::Bytes(MINER, frames) => {
                        wires.pool_says.seal_all(frames, &mut out).unwrap()
                    }
                    other => panic!("{other:?}"),
                });
                rest = &mut rest[consumed..];
            }
        });
        assert_eq!(records, SHARES);
        assert_eq!(wires.acknowledged(&mut out), SHARES);
        if tip == STEADY {
            assert_eq!(counted.count_total, 0, "{counted:?}");
        }
    }
}

/// Both ends of a miner's encrypted connection.
struct Wires {
    miner_says: Sealer,
    pool_hears: Opener,
    pool_says: Sealer,
    miner_hears: Opener,
}

impl Wires {
    fn new() -> Self {
        let authority = AuthoritySecretKey::from_entropy([1; 32]).unwrap();
        let public = authority.public();
        let identity = ResponderIdentity::new(
            authority,
            Validity::default(),
            START,
            [[2; 32], [3; 32], [4; 32]],
        );
        let (initiator, act1) = Initiator::new(Some(public), [[5; 32], [6; 32]]);
        let (act2, pool_says, pool_hears) =
            Responder::respond(&identity, &act1, [[7; 32], [8; 32]]).unwrap();
        let (miner_says, miner_hears, _) = initiator.finish(&act2, START, 10).unwrap();
        Self { miner_says, pool_hears, pool_says, miner_hears }
    }

    /// The shares that these sealed frames acknowledge; there is nothing else in them.
    fn acknowledged(&mut self, wire: &mut [u8]) -> u32 {
        let (mut rest, mut count) = (wire, 0);
        while !rest.is_empty() {
            let Opened::Frame { payload, consumed, .. } =
                self.miner_hears.next(rest, frame::payload_limit).unwrap()
            else {
                panic!("half a frame");
            };
            count += SubmitSharesSuccess::decode(payload).unwrap().0.new_submits_accepted_count;
            rest = &mut rest[consumed..];
        }
        count
    }
}

fn standard(share: &SubmitSharesExtended<'_>) -> SubmitSharesStandard {
    SubmitSharesStandard {
        channel_id: share.channel_id,
        sequence_number: share.sequence_number,
        job_id: share.job_id,
        nonce: share.nonce,
        ntime: share.ntime,
        version: share.version,
    }
}

/// A job on a new tip, with the tip's number as its id.
fn new_tip(channel: &mut ServerChannel, number: u8) {
    let factory = JobFactory {
        tag: b"adit".to_vec(),
        payouts: Payouts::single(vec![0x51; 22]),
        version_rolling_allowed: true,
    };
    let (template, tip) = (new_template(number), set_new_prev_hash(number));
    let size = channel.full_extranonce_size();
    let path = path(number);
    let template =
        Template::from(&NewTemplate { merkle_path: Seq0255::new(&path).unwrap(), ..template });
    let job: Arc<Job> = Arc::new(factory.job(number.into(), &template, size).unwrap());
    channel.add_future_job(number.into(), job).unwrap();
    channel.set_new_prev_hash(number.into(), &Arc::new(Tip::from(&tip))).unwrap();
}

fn path(number: u8) -> [[u8; 32]; 12] {
    [[number; 32]; 12]
}

/// A future template without a merkle path.
fn new_template(number: u8) -> NewTemplate<'static> {
    NewTemplate {
        template_id: number.into(),
        future_template: true,
        version: 0x2000_0000,
        coinbase_tx_version: 2,
        coinbase_prefix: B0255::new(&[2, 0x2c, 0x01]).unwrap(),
        coinbase_tx_input_sequence: 0xffff_fffe,
        coinbase_tx_value_remaining: 5_000_000_000,
        coinbase_tx_outputs_count: 0,
        coinbase_tx_outputs: B064K::new(&[]).unwrap(),
        coinbase_tx_locktime: 299,
        merkle_path: Seq0255::new(&[]).unwrap(),
    }
}

fn set_new_prev_hash(number: u8) -> SetNewPrevHash {
    SetNewPrevHash {
        template_id: number.into(),
        prev_hash: [number; 32],
        header_timestamp: START,
        n_bits: NBITS,
        target: Target::from_nbits(NBITS).unwrap().to_le_bytes(),
    }
}

const PROVIDER: PeerId = PeerId(1);
const MINER: PeerId = PeerId(2);

/// A pool with a template provider that speaks by hand.
struct Pool {
    engine: PoolEngine,
    now: Now,
    out: Outbox<Effect>,
}

impl Pool {
    /// With work on tip 1.
    fn new() -> Self {
        let text = "network = \"signet\"\n\
            coinbase.output = \"raw(0014751e76e8199196d454941c45d1b3a323f1433bd6)\"\n\
            shares.min_hashrate = 1.0\nshares.vardiff = false\n\
            [[template_provider]]\naddress = \"tp:1\"\n";
        let config: Config = adit_service::parse_config(text, Path::new("")).unwrap();
        let mut pool = Self {
            engine: PoolEngine::new(&config, Metrics::default(), Vec::new(), 0).unwrap(),
            now: Now { instant: Instant::now(), unix_ms: u64::from(START) * 1_000 },
            out: Outbox::default(),
        };
        pool.opened(PROVIDER, Link::TemplateProvider(0));
        let success = SetupConnectionSuccess { used_version: 2, flags: 0 };
        pool.hear(PROVIDER, Link::TemplateProvider(0), &success);
        pool.work(1);
        pool
    }

    fn opened(&mut self, peer: PeerId, link: Link) {
        let event = Event::Opened { remote: "192.0.2.1:5555".parse().unwrap() };
        self.engine.handle(peer, link, event, self.now, &mut self.out);
    }

    fn hear<'m, M: Message<'m>>(&mut self, peer: PeerId, link: Link, message: &M) {
        let mut frame = Vec::new();
        encode_frame(message, &mut frame);
        let (header, payload) = frame.split_first_chunk().unwrap();
        let event = Event::Frame(Header::parse(header), payload);
        self.engine.handle(peer, link, event, self.now, &mut self.out);
    }

    /// A template and its tip.
    fn work(&mut self, number: u8) {
        let path = path(number);
        let merkle_path = Seq0255::new(&path).unwrap();
        let template = NewTemplate { merkle_path, ..new_template(number) };
        self.hear(PROVIDER, Link::TemplateProvider(0), &template);
        self.hear(PROVIDER, Link::TemplateProvider(0), &set_new_prev_hash(number));
    }

    /// A miner of 10 hashes a second with an extended channel.
    fn open_channel(&mut self) -> Miner {
        self.opened(MINER, Link::Miner);
        let text = |text| Str0255::new(text).unwrap();
        let setup = SetupConnection {
            protocol: 0,
            min_version: 2,
            max_version: 2,
            flags: 0,
            endpoint_host: text(b"pool"),
            endpoint_port: 34254,
            vendor: text(b"test"),
            hardware_version: text(b""),
            firmware: text(b""),
            device_id: text(b""),
        };
        self.hear(MINER, Link::Miner, &setup);
        let open = OpenExtendedMiningChannel {
            request_id: 1,
            user_identity: text(b"alice.rig"),
            nominal_hash_rate: 10.0,
            max_target: [0xff; 32],
            min_extranonce_size: 8,
        };
        self.hear(MINER, Link::Miner, &open);
        let mut miner = Miner { client: None, nonce: 0 };
        miner.listen(self);
        miner
    }
}

/// A miner that finds shares by searching.
struct Miner {
    client: Option<ClientChannel>,
    nonce: u32,
}

impl Miner {
    /// Takes what the pool said to it; what else the pool said or asked is forgotten.
    fn listen(&mut self, pool: &mut Pool) {
        pool.out.deliver(|delivery| {
            let Delivery::Bytes(MINER, mut frames) = delivery else { return };
            while let Some((header, rest)) = frames.split_first_chunk() {
                let header = Header::parse(header);
                let (payload, rest) = rest.split_at(header.msg_length as usize);
                frames = rest;
                // Only the answer to SetupConnection is not of this protocol.
                let Ok((message, _)) = Mining::decode(&header, payload) else { continue };
                match (message, &mut self.client) {
                    (Mining::OpenExtendedMiningChannelSuccess(message), client) => {
                        *client = Some(ClientChannel::extended(&message).unwrap());
                    }
                    (Mining::NewExtendedMiningJob(message), Some(client)) => {
                        client.new_extended_mining_job(&message).unwrap();
                    }
                    (Mining::SetNewPrevHash(message), Some(client)) => {
                        client.set_new_prev_hash(&message).unwrap();
                    }
                    (other, _) => panic!("{other}"),
                }
            }
        });
        pool.out.take_effects().for_each(drop);
    }

    /// The frame of the next share.
    fn share(&mut self) -> Vec<u8> {
        let client = self.client.as_mut().expect("an open channel");
        let extranonce = [0x5a; 8];
        let work = client.active().expect("work");
        let root = work.job.merkle_root(work.extranonce_prefix, &extranonce).unwrap();
        let (job_id, version, ntime) = (work.job_id, work.job.version(), work.min_ntime);
        let mut scan = NonceScan::new(&Job::header(work.tip, root, version, ntime, 0));
        let target = work.target;
        let nonce = (self.nonce..).find(|nonce| target.is_met_by(&scan.hash(*nonce))).unwrap();
        self.nonce = nonce + 1;
        let mut frame = Vec::new();
        let share = SubmitSharesExtended {
            channel_id: client.id(),
            sequence_number: client.next_sequence_number(),
            job_id,
            nonce,
            ntime,
            version,
            extranonce: B032::new(&extranonce).unwrap(),
        };
        encode_frame(&share, &mut frame);
        frame
    }
}
