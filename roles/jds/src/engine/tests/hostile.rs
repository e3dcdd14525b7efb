use std::sync::Arc;
use std::time::Duration;

use adit_job_declaration::{AccountTag, Grant, Token, TokenId, Transaction};
use adit_node::ProposalResult::Valid;
use adit_sv2::keys::AuthoritySecretKey;
use adit_transport::{Engine, Event, PeerId};
use proptest::prelude::*;

use super::sim::*;
use crate::engine::{Declarator, Settings};

fn refused(sim: &mut Sim, job: &Job) -> (String, String) {
    sim.declare(1, job);
    match sim.only_said(1) {
        Said::Error { code, details, .. } => (code, details),
        other => panic!("{other:?}"),
    }
}

#[test]
fn unknown_reused_expired_and_foreign_tokens() {
    let mut sim = Sim::new();
    sim.client(1);
    let good = sim.job(1, 1, &[]);
    let with = |token: Vec<u8>| Job { token, ..good.clone() };
    let details = |sim: &mut Sim, token: Vec<u8>| {
        let (code, details) = refused(sim, &with(token));
        assert_eq!(code, "invalid-mining-job-token");
        details
    };
    assert!(details(&mut sim, vec![]).starts_with("not a token"));
    assert!(details(&mut sim, vec![0xff; 255]).starts_with("token format"));
    let foreign = AuthoritySecretKey::from_entropy([9; 32]).unwrap();
    let token = Token {
        expiry: u32::MAX,
        id: TokenId([1; 8]),
        account: AccountTag::of(b"alice"),
        grant: Grant::Allocated { outputs: [0; 32] },
    };
    assert_eq!(details(&mut sim, token.sign(&foreign, &[0; 32])), "not signed by a known key");
    let expired = Token { expiry: 1_799_999_999, ..token };
    assert_eq!(details(&mut sim, expired.sign(&key(), &[0; 32])), "expired 1 s ago");
    let declared = sim.accepted(1, &good);
    assert_eq!(details(&mut sim, good.token.clone()), "the token was used before");
    assert_eq!(details(&mut sim, declared), "the token is that of an accepted declaration");
    assert_eq!(sim.count("jds_bad_tokens_total{fault=\"unknown\"}"), 1);
    assert_eq!(sim.count("jds_bad_tokens_total{fault=\"expired\"}"), 1);
    assert_eq!(sim.count("jds_bad_tokens_total{fault=\"reused\"}"), 1);
    assert_eq!(sim.count("jds_bad_tokens_total{fault=\"malformed\"}"), 2);
}

#[test]
fn malformed_coinbases() {
    let mut sim = Sim::with(Settings {
        declarations: crate::engine::Rate { burst: 100, per_second: 1.0 },
        ..settings()
    });
    sim.client(1);
    let job = sim.job(1, 1, &[]);
    let (prefix, suffix) = job.parts();
    let mut refused = |change: &dyn Fn(&mut Vec<u8>, &mut Vec<u8>)| {
        let (mut prefix, mut suffix) = (prefix.clone(), suffix.clone());
        change(&mut prefix, &mut suffix);
        sim.declare_parts(1, &job, &prefix, &suffix);
        assert!(sim.check().is_none());
        sim.only_said(1).code().to_owned()
    };
    assert_eq!(refused(&|prefix, _| prefix[6] = 0), "invalid-coinbase-tx-input");
    assert_eq!(refused(&|prefix, _| prefix[6] = 2), "invalid-coinbase-tx-input");
    assert_eq!(refused(&|prefix, _| prefix[7] = 1), "invalid-coinbase-tx-input");
    assert_eq!(refused(&|prefix, _| prefix.truncate(20)), "invalid-coinbase-tx");
    assert_eq!(refused(&|prefix, _| prefix.clear()), "invalid-coinbase-tx");
    assert_eq!(refused(&|prefix, _| prefix[43] = 0xff), "invalid-coinbase-tx");
    assert_eq!(refused(&|prefix, _| prefix[44] = 0x4c), "invalid-coinbase-tx");
    assert_eq!(refused(&|_, suffix| suffix.truncate(9)), "invalid-coinbase-tx");
    assert_eq!(refused(&|_, suffix| suffix.push(0)), "invalid-coinbase-tx");
    assert_eq!(refused(&|_, suffix| suffix[4] = 0xff), "invalid-coinbase-tx");
    assert_eq!(refused(&|_, suffix| suffix[13] = 0xfe), "invalid-coinbase-tx");
    // None of them used the token up, nor is anything kept.
    assert_eq!(sim.count("jds_pending_bytes"), 0);
    sim.accepted(1, &job);
}

#[test]
fn wrong_transactions() {
    let mut sim = Sim::with(Settings {
        declarations: crate::engine::Rate { burst: 100, per_second: 1.0 },
        ..settings()
    });
    sim.client(1);
    let asked = [transaction(1), transaction(2)];
    let raw = |n: u32| transaction(n).raw.to_vec();
    let mut request_id = 0;
    for given in [
        vec![],
        vec![raw(1)],
        vec![raw(1), raw(2), raw(3)],
        vec![raw(2), raw(1)],
        vec![raw(1), raw(3)],
        vec![raw(1), raw(2)[..10].to_vec()],
        vec![raw(1), [raw(2), vec![0]].concat()],
        vec![raw(1), vec![]],
    ] {
        request_id += 1;
        let job = sim.job(1, request_id, &asked);
        sim.declare(1, &job);
        assert!(matches!(sim.only_said(1), Said::Missing { .. }));
        let given: Vec<&[u8]> = given.iter().map(|raw| &raw[..]).collect();
        sim.provide(1, request_id, &given);
        assert_eq!(sim.only_said(1).code(), "missing-txs");
        assert!(sim.check().is_none());
        sim.pass(Duration::from_secs(1));
    }
    assert_eq!(sim.count("jds_pending_bytes"), 0);
    assert_eq!(sim.engine.mempool.supplied(), (0, 0));
    // A block that the node refuses leaves nothing either.
    let job = sim.job(1, 50, &asked);
    sim.declare(1, &job);
    sim.provide(1, 50, &[&raw(1), &raw(2)]);
    sim.judge(adit_node::ProposalResult::Rejected("no".to_owned()));
    assert_eq!(sim.engine.mempool.supplied(), (0, 0));
    // Twice the same.
    let twice = sim.job(1, 51, &[transaction(1), transaction(1)]);
    sim.said(1);
    assert_eq!(refused(&mut sim, &twice).0, "invalid-job");
}

#[test]
fn floods_are_counted_and_end_with_the_client() {
    let mut sim = Sim::new();
    sim.client(1);
    sim.client(2);
    let job = sim.job(1, 1, &[]);
    for _ in 0..10 {
        sim.declare(1, &Job { token: vec![1], ..job.clone() });
    }
    assert!(sim.said(1).iter().all(|said| said.code() == "invalid-mining-job-token"));
    assert_eq!(refused(&mut sim, &job).0, "rate-limited");
    for _ in 0..100 {
        sim.declare(1, &job);
    }
    assert_eq!(sim.said(1).last(), Some(&Said::Close("too many declarations")));
    assert_eq!(sim.count("jds_declarations_total{result=\"rate-limited\"}"), 100);
    assert_eq!(sim.count("jds_clients_refused_total{reason=\"too many declarations\"}"), 1);
    let job = sim.job(2, 1, &[]);
    sim.accepted(2, &job);
}

#[test]
fn memory_of_pending_declarations_is_bounded() {
    let mut sim = Sim::with(Settings { pending_bytes: 4000, ..settings() });
    let mut jobs = Vec::new();
    for peer in 1..=5 {
        sim.client(peer);
        for request_id in 0..5 {
            jobs.push((peer, sim.job(peer, request_id, &[transaction(request_id)])));
        }
    }
    jobs.iter().for_each(|(peer, job)| sim.declare(*peer, job));
    let said: Vec<_> = (1..=5).flat_map(|peer| sim.said(peer)).collect();
    let count = |code: &str| {
        said.iter().filter(|said| matches!(said, Said::Error { code: c, .. } if c == code)).count()
    };
    let asked = said.iter().filter(|said| matches!(said, Said::Missing { .. })).count();
    assert_eq!(count("too-many-declarations"), 1, "{said:?}");
    assert!((4..8).contains(&asked) && asked + count("server-busy") == 24, "{asked} {said:?}");
    assert!(sim.count("jds_pending_bytes") <= 4000);
    // A request id that is in use.
    let mut sim = Sim::new();
    sim.client(1);
    let job = sim.job(1, 1, &[transaction(1)]);
    sim.declare(1, &job);
    sim.said(1);
    let same = sim.job(1, 1, &[]);
    assert_eq!(refused(&mut sim, &same).0, "invalid-request-id");
}

#[test]
fn a_coinbase_only_client_declares_nothing() {
    let mut sim = Sim::new();
    sim.open(1);
    sim.say(1, &setup(1, 2, 2, 0));
    sim.said(1);
    let job = sim.job(1, 1, &[]);
    assert_eq!(refused(&mut sim, &job).0, "missing-declare-tx-data-flag");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// No bytes of a client end in a panic, nor leave anything behind once it has gone.
    #[test]
    fn any_frames(frames in prop::collection::vec((0x4fu8..0x62, prop::collection::vec(any::<u8>(), 0..60)), 0..12)) {
        let mut sim = Sim::new();
        sim.client(1);
        for (message_type, payload) in frames {
            let header = adit_sv2::frame::Header {
                extension_type: 0,
                channel_msg: false,
                msg_type: message_type,
                msg_length: payload.len() as u32,
            };
            let event = Event::Frame(header, &payload);
            sim.engine.handle(PeerId(1), Declarator, event, sim.now, &mut sim.out);
        }
        sim.pass(Duration::from_secs(20));
        sim.said(1);
        sim.leave(1);
        prop_assert_eq!(sim.engine.pending_bytes, 0);
    }

    /// A declaration with some bytes changed is answered, and nothing stays.
    #[test]
    fn any_coinbase(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5), in_suffix: bool) {
        let mut sim = Sim::new();
        sim.client(1);
        let job = sim.job(1, 1, &[]);
        let (mut prefix, mut suffix) = job.parts();
        for (index, byte) in changes {
            let part = if in_suffix { &mut suffix } else { &mut prefix };
            let at = index.index(part.len());
            part[at] = byte;
        }
        sim.declare_parts(1, &job, &prefix, &suffix);
        if let Some(check) = sim.check() {
            sim.answer(&check, Valid);
        }
        sim.pass(Duration::from_secs(11));
        prop_assert_eq!(sim.said(1).len(), 1);
        prop_assert_eq!(sim.engine.pending_bytes, 0);
    }
}

/// One that spends a coin with as many bytes of witness, and others for each `n`.
fn large(n: u32, bytes: usize) -> Arc<Transaction> {
    let mut witness = vec![0; bytes];
    witness[..4].copy_from_slice(&n.to_le_bytes());
    let mut transaction: bitcoin::Transaction =
        bitcoin::consensus::deserialize(&transaction(1).raw).unwrap();
    transaction.input[0].witness = bitcoin::Witness::from_slice(&[witness]);
    let raw = bitcoin::consensus::serialize(&transaction);
    Arc::new(Transaction::parse(&raw).unwrap().0)
}

#[test]
fn what_accepted_jobs_hold_beyond_the_mirror_is_bounded() {
    let mut sim = Sim::new();
    let known = transaction(1_000_000);
    sim.mempool(std::slice::from_ref(&known));
    sim.client(1);
    sim.client(2);
    let job = sim.job(2, 1, &[known]);
    sim.accepted(2, &job);
    let mut kept = Vec::new();
    let mut last = None;
    for n in 0..60 {
        sim.pass(Duration::from_secs(1));
        // Every other one is there already, from the job before.
        let transaction = large(n / 2, 100_000);
        let job = Job { tag: n as u8, ..sim.job(1, n, std::slice::from_ref(&transaction)) };
        sim.declare(1, &job);
        let missing = sim.said(1);
        assert_eq!(missing.len(), usize::from(n % 2 == 0));
        if !missing.is_empty() {
            sim.provide(1, n, &[&transaction.raw]);
        }
        sim.judge(Valid);
        assert!(matches!(sim.only_said(1), Said::Success { .. }));
        kept.push(Arc::downgrade(&transaction_of(&sim)));
        last = Some(job);
    }
    let held: usize = kept.iter().filter_map(|kept| kept.upgrade()).map(|t| t.raw.len()).sum();
    let bound = 3 * settings().supplied_bytes;
    assert!(held <= bound, "{held}");
    // What needs nothing beyond the mirror stays, and so does the newest.
    assert!(
        sim.engine
            .jobs
            .iter()
            .any(|job| job.declared.transactions().len() == 1 && job.extra_bytes == 0)
    );
    let client = &sim.engine.clients[&PeerId(1)];
    assert_eq!(client.accepted.len(), 4);
    let newest = client.accepted[0].clone();
    assert!(sim.engine.jobs.iter().any(|job| Arc::ptr_eq(job, &newest)));
    // That is known where it is declared again.
    sim.pass(Duration::from_secs(1));
    let token = sim.token(1);
    sim.declare(1, &Job { token, request_id: 100, ..last.unwrap() });
    assert!(matches!(sim.only_said(1), Said::Success { .. }));
}

/// Of the job that was accepted last.
fn transaction_of(sim: &Sim) -> Arc<Transaction> {
    sim.engine.jobs.back().unwrap().declared.transactions()[0].clone()
}

#[test]
fn a_job_larger_than_the_bound_is_kept_while_it_is_the_newest() {
    let mut sim = Sim::with(Settings { supplied_bytes: 1_000, ..settings() });
    sim.client(1);
    for n in 0..3 {
        sim.pass(Duration::from_secs(1));
        let transaction = large(n, 5_000);
        let job = sim.job(1, n, std::slice::from_ref(&transaction));
        sim.declare(1, &job);
        sim.said(1);
        sim.provide(1, n, &[&transaction.raw]);
        sim.judge(Valid);
        assert!(matches!(sim.only_said(1), Said::Success { .. }));
        assert_eq!(sim.engine.jobs.len(), 1);
        assert_eq!(sim.engine.clients[&PeerId(1)].accepted.len(), 1);
    }
}
