//! What bad input gets: any messages, and well-formed ones of any content.

use std::time::Duration;

use adit_mining::Target;
use adit_sv2::codec::{B032, B064K, B0255, Seq064K, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::messages::job_declaration::*;
use adit_sv2::messages::mining::*;
use adit_sv2::messages::template_distribution as td;
use adit_transport::Event;
use proptest::prelude::*;

use super::sim::Sim;
use crate::engine::Link;

/// A server's message with fields of any value.
#[derive(Clone, Debug)]
enum Odd {
    Opened { size: u16, prefix: Vec<u8>, target: [u8; 32] },
    Target([u8; 32]),
    Prefix(Vec<u8>),
    OwnJob { min_ntime: Option<u32>, prefix: Vec<u8>, suffix: Vec<u8>, id: u32 },
    OwnTip { id: u32, nbits: u32 },
    Accepted(u32),
    Refused(u32, String),
    ShareRefused(String),
    Token { outputs: Vec<u8>, request: u32 },
    Declared { request: u32, token: Vec<u8> },
    DeclarationRefused { request: u32, code: String },
    Missing { request: u32, positions: Vec<u16> },
    Template { prefix: Vec<u8>, outputs: Vec<u8>, count: u32, future: bool, id: u64, value: u64 },
    Tip { id: u64, nbits: u32, target: [u8; 32] },
    NoData { id: u64 },
    Time(u8),
}

fn odd() -> impl Strategy<Value = Odd> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    let target = || prop_oneof![Just([0; 32]), Just([0xff; 32]), any::<[u8; 32]>()];
    let code = || {
        prop_oneof![
            Just("stale-chain-tip".to_owned()),
            Just("invalid-mining-job-token".to_owned()),
            Just("server-busy".to_owned()),
            "[a-z-]{0,12}"
        ]
    };
    let outputs = || {
        prop_oneof![
            bytes(60),
            Just(vec![0; 1]),
            Just([vec![1], vec![0; 8], vec![2, 0x51, 0xa0]].concat()),
            Just([vec![2], vec![0; 8], vec![2, 0x51, 0xa0], vec![9; 8], vec![0]].concat()),
        ]
    };
    prop_oneof![
        (0u16..40, bytes(33), target()).prop_map(|(size, prefix, target)| Odd::Opened {
            size,
            prefix,
            target
        }),
        target().prop_map(Odd::Target),
        bytes(33).prop_map(Odd::Prefix),
        (any::<Option<u32>>(), bytes(120), bytes(60), 0u32..4).prop_map(
            |(min_ntime, prefix, suffix, id)| Odd::OwnJob { min_ntime, prefix, suffix, id }
        ),
        (0u32..4, any::<u32>()).prop_map(|(id, nbits)| Odd::OwnTip { id, nbits }),
        (0u32..20).prop_map(Odd::Accepted),
        (0u32..20, code()).prop_map(|(request, code)| Odd::Refused(request, code)),
        code().prop_map(Odd::ShareRefused),
        (outputs(), 0u32..20).prop_map(|(outputs, request)| Odd::Token { outputs, request }),
        (0u32..20, bytes(256)).prop_map(|(request, token)| Odd::Declared { request, token }),
        (0u32..20, code()).prop_map(|(request, code)| Odd::DeclarationRefused { request, code }),
        (0u32..20, prop::collection::vec(0u16..5, 0..6))
            .prop_map(|(request, positions)| Odd::Missing { request, positions }),
        (bytes(110), outputs(), 0u32..3, any::<bool>(), 0u64..4, any::<u64>()).prop_map(
            |(prefix, outputs, count, future, id, value)| Odd::Template {
                prefix,
                outputs,
                count,
                future,
                id,
                value
            }
        ),
        (0u64..4, any::<u32>(), target()).prop_map(|(id, nbits, target)| Odd::Tip {
            id,
            nbits,
            target
        }),
        (0u64..4).prop_map(|id| Odd::NoData { id }),
        (1u8..30).prop_map(Odd::Time),
    ]
}

impl Odd {
    fn happen(&self, sim: &mut Sim) {
        let link = |sim: &mut Sim, link| {
            let peer = sim.peer(link);
            match sim.closed.iter().any(|(gone, _)| *gone == peer) {
                true => sim.connect(link),
                false => peer,
            }
        };
        let pool = link(sim, Link::Pool(0));
        let jds = link(sim, Link::Jds(0));
        let tp = link(sim, Link::TemplateProvider(0));
        match self {
            Self::Opened { size, prefix, target } => {
                let Ok(extranonce_prefix) = B032::new(prefix) else { return };
                let m = OpenExtendedMiningChannelSuccess {
                    request_id: 1,
                    channel_id: 7,
                    target: *target,
                    extranonce_size: *size,
                    extranonce_prefix,
                    group_channel_id: 1,
                };
                sim.manners[0].opens_channels = false;
                sim.lose(Link::Pool(0));
                let pool = sim.connect(Link::Pool(0));
                sim.manners[0].opens_channels = true;
                sim.send(pool, &m);
            }
            Self::Target(maximum_target) => {
                sim.send(pool, &SetTarget { channel_id: 7, maximum_target: *maximum_target });
            }
            Self::Prefix(prefix) => {
                let Ok(extranonce_prefix) = B032::new(prefix) else { return };
                sim.send(pool, &SetExtranoncePrefix { channel_id: 7, extranonce_prefix });
            }
            Self::OwnJob { min_ntime, prefix, suffix, id } => {
                let m = NewExtendedMiningJob {
                    channel_id: 1,
                    job_id: *id,
                    min_ntime: *min_ntime,
                    version: 1,
                    version_rolling_allowed: true,
                    merkle_path: Default::default(),
                    coinbase_tx_prefix: B064K::new(prefix).unwrap(),
                    coinbase_tx_suffix: B064K::new(suffix).unwrap(),
                };
                sim.send(pool, &m);
            }
            Self::OwnTip { id, nbits } => {
                let m = SetNewPrevHash {
                    channel_id: 7,
                    job_id: *id,
                    prev_hash: [7; 32],
                    min_ntime: 0,
                    nbits: *nbits,
                };
                sim.send(pool, &m);
            }
            Self::Accepted(request_id) => sim.send(
                pool,
                &SetCustomMiningJobSuccess { channel_id: 7, request_id: *request_id, job_id: 3 },
            ),
            Self::Refused(request_id, code) => {
                let (request_id, error_code) = (*request_id, Str0255::cut(code));
                sim.send(pool, &SetCustomMiningJobError { channel_id: 7, request_id, error_code });
            }
            Self::ShareRefused(code) => {
                let error_code = Str0255::cut(code);
                sim.send(
                    pool,
                    &SubmitSharesError { channel_id: 7, sequence_number: 0, error_code },
                );
            }
            Self::Token { outputs, request } => {
                let m = AllocateMiningJobTokenSuccess {
                    request_id: *request,
                    mining_job_token: B0255::new(&[1, 2]).unwrap(),
                    coinbase_tx_outputs: B064K::new(outputs).unwrap(),
                };
                sim.send(jds, &m);
            }
            Self::Declared { request, token } => {
                let Ok(new_mining_job_token) = B0255::new(token) else { return };
                sim.send(
                    jds,
                    &DeclareMiningJobSuccess { request_id: *request, new_mining_job_token },
                );
            }
            Self::DeclarationRefused { request, code } => {
                let m = DeclareMiningJobError {
                    request_id: *request,
                    error_code: Str0255::cut(code),
                    error_details: B064K::new(b"details\n\xff").unwrap(),
                };
                sim.send(jds, &m);
            }
            Self::Missing { request, positions } => {
                let unknown_tx_position_list = Seq064K::new(positions).unwrap();
                let request_id = *request;
                sim.send(jds, &ProvideMissingTransactions { request_id, unknown_tx_position_list });
            }
            Self::Template { prefix, outputs, count, future, id, value } => {
                let m = td::NewTemplate {
                    template_id: *id,
                    future_template: *future,
                    version: 1,
                    coinbase_tx_version: 2,
                    coinbase_prefix: B0255::new(prefix).unwrap(),
                    coinbase_tx_input_sequence: 0,
                    coinbase_tx_value_remaining: *value,
                    coinbase_tx_outputs_count: *count,
                    coinbase_tx_outputs: B064K::new(outputs).unwrap(),
                    coinbase_tx_locktime: 0,
                    merkle_path: Default::default(),
                };
                sim.send(tp, &m);
            }
            Self::Tip { id, nbits, target } => {
                let m = td::SetNewPrevHash {
                    template_id: *id,
                    prev_hash: [*id as u8; 32],
                    header_timestamp: 0,
                    n_bits: *nbits,
                    target: *target,
                };
                sim.send(tp, &m);
            }
            Self::NoData { id } => {
                let error_code = Str0255::cut("stale-template-id");
                sim.send(tp, &td::RequestTransactionDataError { template_id: *id, error_code });
            }
            Self::Time(tenths) => sim.pass(Duration::from_millis(u64::from(*tenths) * 100)),
        }
    }
}

/// Groups as the pool may use them: our channel hears its own, the one that it is in.
#[test]
fn messages_to_a_group_are_for_its_channel() {
    let mut sim = Sim::working("", 2);
    let pool = sim.peer(Link::Pool(0));
    let target = |sim: &Sim| sim.engine.core.upstreams[0].pool.channel.as_ref().unwrap().target;
    let set = |sim: &mut Sim, channel_id: u32, hashes: f64| {
        let maximum_target = Target::from_expected_hashes(hashes).to_le_bytes();
        sim.send(pool, &SetTarget { channel_id, maximum_target });
        target(sim) == Target::from_expected_hashes(hashes)
    };
    assert!(set(&mut sim, 1, 300.0) && set(&mut sim, 7, 400.0));
    let regroup = |sim: &mut Sim, group_channel_id: u32, ids: &[u32]| {
        let channel_ids = Seq064K::new(ids).unwrap();
        sim.send(pool, &SetGroupChannel { group_channel_id, channel_ids });
    };
    regroup(&mut sim, 50, &[8, 9]);
    assert!(set(&mut sim, 1, 500.0), "others were moved");
    regroup(&mut sim, 55, &[6, 7]);
    assert!(!set(&mut sim, 1, 600.0) && set(&mut sim, 55, 600.0) && set(&mut sim, 7, 700.0));
    for (channel_id, upstream) in [(1, 0), (50, 0), (55, 1)] {
        sim.send(pool, &CloseChannel { channel_id, reason_code: Str0255::cut("because") });
        assert_eq!(sim.upstream(), Some(upstream), "{channel_id}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Well-formed messages of any content in any order: no panic, no lost miner, and work in the end.
    #[test]
    fn servers_may_say_anything(odds in prop::collection::vec(odd(), 0..25)) {
        let mut sim = Sim::working("declaration.timeout_ms = 500\nfallback.well_after_ms = 200", 2);
        // One that every pool has room for.
        let peer = sim.miner_connection(REQUIRES_STANDARD_JOBS);
        sim.open_standard(peer);
        let miner = sim.opened(peer);
        for odd in odds {
            odd.happen(&mut sim);
        }
        for link in [Link::Pool(0), Link::Jds(0), Link::TemplateProvider(0)] {
            let peer = sim.peer(link);
            if sim.closed.iter().any(|(gone, _)| *gone == peer) {
                sim.connect(link);
            }
        }
        sim.tip(1_000_000, 0x77);
        sim.pass(Duration::from_secs(1));
        let current = sim.engine.core.desk.current().unwrap();
        prop_assert!(current.tip.prev_hash == [0x77; 32] || sim.source() == "pool-jobs");
        prop_assert!(sim.closed.iter().all(|(peer, _)| *peer != miner.peer));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever any peer sends, and in whatever order connections come and go: no panic, and a miner that behaves has
    /// work in the end.
    #[test]
    fn nothing_that_is_sent_panics(
        frames in prop::collection::vec(
            (0usize..5, 0u16..2, any::<bool>(), 0u8..0x78, prop::collection::vec(any::<u8>(), 0..120)),
            0..25,
        ),
        losses in prop::collection::vec(0usize..4, 0..4),
    ) {
        let links =
            [Link::Pool(0), Link::Jds(0), Link::TemplateProvider(0), Link::Miner, Link::Pool(1)];
        let mut sim = Sim::working("", 2);
        let miner = sim.extended(8);
        for (link, extension_type, channel_msg, msg_type, payload) in frames {
            let peer = sim.peer(links[link]);
            if sim.closed.iter().any(|(gone, _)| *gone == peer) || peer == miner.peer {
                continue;
            }
            let msg_length = payload.len() as u32;
            let header = Header { extension_type, channel_msg, msg_type, msg_length };
            sim.event(peer, Event::Frame(header, &payload));
        }
        for link in losses {
            let peer = sim.peer(links[link]);
            if !sim.closed.iter().any(|(gone, _)| *gone == peer) && peer != miner.peer {
                sim.lose(links[link]);
            }
        }
        sim.pass(Duration::from_secs(1));
        for link in [Link::Pool(0), Link::Jds(0), Link::TemplateProvider(0)] {
            let peer = sim.peer(link);
            if sim.closed.iter().any(|(gone, _)| *gone == peer) {
                sim.connect(link);
            }
        }
        sim.tip(1_000_000, 0x77);
        prop_assert!(sim.engine.core.desk.current().is_some());
        prop_assert!(sim.closed.iter().all(|(peer, _)| *peer != miner.peer));
    }
}
