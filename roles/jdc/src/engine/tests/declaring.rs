//! From a template to shares on a job that a pool took.

use std::time::Duration;

use adit_mining::{Target, sha256d};
use adit_sv2::codec::Seq064K;
use adit_sv2::messages::Message;
use adit_sv2::messages::job_declaration::*;
use adit_sv2::messages::mining::*;
use adit_sv2::messages::template_distribution as td;

use super::sim::{NBITS, Sim};
use crate::engine::{Effect, Link};
use crate::store::FoundBlock;

const POOL: Link = Link::Pool(0);
const JDS: Link = Link::Jds(0);
const TP: Link = Link::TemplateProvider(0);

#[test]
fn a_template_is_declared_and_set_and_shares_reach_the_pool() {
    let mut sim = Sim::working("", 1);
    // Without a miner there is nothing to declare, but all is ready.
    let asked = ["SetupConnection", "RequestExtensions", "OpenExtendedMiningChannel"];
    assert_eq!(sim.names(POOL, 0), asked);
    assert_eq!(
        sim.names(JDS, 0),
        ["SetupConnection"].into_iter().chain(["AllocateMiningJobToken"; 2]).collect::<Vec<_>>()
    );
    let setup = &sim.heard(JDS, 0)[0];
    assert!(setup.contains("protocol: 1") && setup.contains("flags: 1"), "{setup}");
    assert!(sim.heard(POOL, 0)[0].contains("flags: 2"));
    assert!(sim.heard(POOL, 0)[2].contains("nominal_hash_rate: 0"));
    let from = sim.said.len();
    let mut miner = sim.extended(8);
    assert_eq!(sim.names(TP, from), ["RequestTransactionData"]);
    assert_eq!(sim.names(JDS, from), ["DeclareMiningJob", "AllocateMiningJobToken"],);
    // The pool hears of the miner before it gets the job, so that its target fits.
    assert_eq!(sim.names(POOL, from), ["UpdateChannel", "SetCustomMiningJob"]);
    miner.share(&mut sim);
    let shares = sim.shares(0, from);
    assert_eq!(shares.len(), 1);
    let (job, extranonce) = &shares[0];
    // Five bytes of padding, three that tell the channel, eight of the miner.
    assert_eq!((*job, extranonce.len()), (101, 16));
    assert_eq!(extranonce[..8], [0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(extranonce[8..], [0xee; 8]);
    sim.pass(Duration::from_secs(2));
    assert!(sim.heard(Link::Miner, from).iter().any(|m| m.contains("SubmitShares.Success")));
}

#[test]
fn what_is_declared_is_what_is_mined() {
    let mut sim = Sim::working("coinbase.tag = \"tag\"", 1);
    let mut miner = sim.extended(4);
    let declared = sim.payloads(JDS, DeclareMiningJob::TYPE, 0);
    let declared = DeclareMiningJob::decode(&declared[0]).unwrap().0;
    let wtxids: Vec<_> = sim.transactions.iter().map(|tx| sha256d(tx)).collect();
    assert_eq!(declared.wtxid_list.iter().collect::<Vec<_>>(), wtxids);
    assert_eq!(declared.excess_data.as_bytes(), b"excess");
    assert_eq!(declared.mining_job_token.as_bytes()[0], b'a');
    let custom = sim.payloads(POOL, SetCustomMiningJob::TYPE, 0);
    let custom = SetCustomMiningJob::decode(&custom[0]).unwrap().0;
    assert_eq!((custom.channel_id, custom.mining_job_token.as_bytes()[0]), (7, b'd'));
    assert_eq!((custom.prev_hash, custom.nbits), ([1; 32], NBITS));
    // Height, tag, and the opcode that pushes 20 bytes.
    assert_eq!(custom.coinbase_prefix.as_bytes(), b"\x01\x65\x03tag\x14");
    // Everything to the pool; the template's output last.
    let outputs = custom.coinbase_tx_outputs.as_bytes();
    assert_eq!(outputs[..12], [2, 1, 0xf2, 5, 0x2a, 1, 0, 0, 0, 2, 0x51, 0xa0]);
    let before = sim.said.len();
    miner.block(&mut sim);
    let full = td::SubmitSolution::decode(&sim.payloads(TP, td::SubmitSolution::TYPE, before)[0])
        .unwrap()
        .0
        .coinbase_tx
        .as_bytes()
        .to_vec();
    let extranonce = sim.shares(0, before)[0].1.clone();
    let rebuilt = [
        declared.coinbase_tx_prefix.as_bytes(),
        &[1, 0, 0, 1],
        &extranonce,
        declared.coinbase_tx_suffix.as_bytes(),
    ]
    .concat();
    assert_eq!(full, rebuilt);
    assert_eq!(full[4..6], [0, 1], "with its witness");
}

#[test]
fn in_coinbase_only_mode_no_transaction_is_told() {
    let mut sim = Sim::working("mode = \"coinbase-only\"", 1);
    assert!(sim.heard(JDS, 0)[0].contains("flags: 0"));
    let from = sim.said.len();
    let mut miner = sim.extended(8);
    assert!(sim.names(TP, from).is_empty());
    assert_eq!(sim.names(JDS, from), ["AllocateMiningJobToken"]);
    let custom = sim.payloads(POOL, SetCustomMiningJob::TYPE, from);
    assert_eq!(
        SetCustomMiningJob::decode(&custom[0]).unwrap().0.mining_job_token.as_bytes()[0],
        b'a'
    );
    miner.block(&mut sim);
    assert_eq!(sim.shares(0, from).len(), 1);
    assert_eq!(sim.payloads(TP, td::SubmitSolution::TYPE, from).len(), 1);
    assert!(sim.payloads(JDS, PushSolution::TYPE, from).is_empty());
}

#[test]
fn missing_transactions_are_provided_once_each() {
    let mut sim = Sim::new("", 1);
    sim.manners[0].answers_declarations = false;
    sim.connect(POOL);
    let jds = sim.connect(JDS);
    sim.connect(TP);
    sim.tip(1, 1);
    sim.extended(8);
    let declared = sim.payloads(JDS, DeclareMiningJob::TYPE, 0);
    let request_id = DeclareMiningJob::decode(&declared[0]).unwrap().0.request_id;
    let from = sim.said.len();
    let ask = |sim: &mut Sim, request_id, positions: &[u16]| {
        let unknown_tx_position_list = Seq064K::new(positions).unwrap();
        sim.send(jds, &ProvideMissingTransactions { request_id, unknown_tx_position_list });
    };
    ask(&mut sim, request_id, &[2, 0]);
    let given = sim.payloads(JDS, ProvideMissingTransactionsSuccess::TYPE, from);
    let given = ProvideMissingTransactionsSuccess::decode(&given[0]).unwrap().0;
    let lengths: Vec<_> = given.transaction_list.iter().map(|tx| tx.as_bytes().len()).collect();
    assert_eq!((given.request_id, lengths), (request_id, vec![300, 100]));
    // Of another request nothing is known.
    ask(&mut sim, request_id + 77, &[0]);
    assert!(sim.closed.is_empty());
    // And a JDS that asks for one twice, or for none of ours, is no JDS.
    ask(&mut sim, request_id, &[1, 1]);
    assert_eq!(sim.closed, [(jds, "transactions-that-are-not-there")]);
}

#[test]
fn shares_wait_for_the_pools_word_and_the_best_go_then() {
    let mut sim = Sim::new("declaration.cached_shares_per_job = 5", 1);
    sim.manners[0].answers_declarations = false;
    for link in [POOL, JDS, TP] {
        sim.connect(link);
    }
    sim.tip(1, 1);
    let mut miner = sim.extended(8);
    for _ in 0..8 {
        miner.share(&mut sim);
    }
    assert!(sim.shares(0, 0).is_empty());
    assert_eq!(sim.engine.core.desk.current().unwrap().cache.len(), 5);
    let declared = sim.payloads(JDS, DeclareMiningJob::TYPE, 0);
    let request_id = DeclareMiningJob::decode(&declared[0]).unwrap().0.request_id;
    sim.accept_declaration(0, request_id);
    assert_eq!(sim.shares(0, 0).len(), 5);
    miner.share(&mut sim);
    assert_eq!(sim.shares(0, 0).len(), 6);
    // All eight were acknowledged to the miner, whatever became of them.
    sim.pass(Duration::from_secs(2));
    let heard = sim.heard(Link::Miner, 0);
    let count = |m: &String| m.contains("SubmitShares.Success").then(|| m.contains("count: 9"));
    assert_eq!(heard.iter().filter_map(count).collect::<Vec<_>>(), [true], "{heard:?}");
}

#[test]
fn a_future_template_is_neither_declared_nor_mined_before_its_tip() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(8);
    let from = sim.said.len();
    sim.template(2, true);
    sim.pass(Duration::from_secs(3));
    assert!(!miner.read(&sim));
    assert!(sim.names(JDS, from).is_empty() && sim.names(TP, from).is_empty());
    sim.prev_hash(2, [2; 32]);
    assert!(miner.read(&sim));
    assert_eq!(sim.names(JDS, from), ["DeclareMiningJob", "AllocateMiningJobToken"]);
    assert_eq!(sim.names(POOL, from), ["SetCustomMiningJob"]);
    // Miners first, then the declaration.
    let place = |wanted| sim.said[from..].iter().position(|said| said.to == wanted).unwrap();
    assert!(place(miner.peer) < place(sim.peer(JDS)));
    assert!(sim.engine.core.desk.claims.len() == 1, "work on the former tip is void");
}

#[test]
fn at_a_tip_the_newest_template_goes_first() {
    let mut sim = Sim::new("declaration.tokens = 1", 1);
    for link in [POOL, JDS, TP] {
        sim.connect(link);
    }
    sim.answers_data = false;
    sim.tip(1, 1);
    sim.extended(8);
    sim.template(2, false);
    sim.template(3, false);
    // One token for two templates whose transactions came late.
    let from = sim.said.len();
    sim.manners[0].gives_tokens = false;
    sim.give_data(3);
    assert_eq!(sim.payloads(JDS, DeclareMiningJob::TYPE, from).len(), 1);
    let custom = sim.payloads(POOL, SetCustomMiningJob::TYPE, from);
    let custom = SetCustomMiningJob::decode(&custom[0]).unwrap().0;
    assert_eq!(custom.merkle_path.iter().next(), Some(sha256d(&3u64.to_le_bytes())));
    sim.give_data(2);
    assert_eq!(sim.payloads(JDS, DeclareMiningJob::TYPE, from).len(), 1, "it is overtaken");
}

#[test]
fn a_template_under_another_id_is_no_other_job() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(8);
    let from = sim.said.len();
    sim.template_like(5, 1, false);
    assert!(!miner.read(&sim));
    assert!(sim.names(POOL, from).is_empty() && sim.names(TP, from).is_empty());
    // But blocks are submitted under the newer id.
    miner.block(&mut sim);
    let sent = sim.payloads(TP, td::SubmitSolution::TYPE, from);
    assert_eq!(td::SubmitSolution::decode(&sent[0]).unwrap().0.template_id, 5);
}

#[test]
fn a_provider_that_is_back_is_told_what_we_add_before_it_is_asked_anything() {
    let mut sim = Sim::new("", 1);
    sim.answers_data = false;
    for link in [POOL, JDS, TP] {
        sim.connect(link);
    }
    sim.tip(1, 1);
    let mut miner = sim.extended(8);
    miner.block(&mut sim);
    sim.lose(TP);
    let from = sim.said.len();
    sim.connect(TP);
    sim.pass(Duration::from_millis(200));
    assert_eq!(
        sim.names(TP, from),
        [
            "SetupConnection",
            "CoinbaseOutputConstraints",
            "RequestTransactionData",
            "SubmitSolution"
        ]
    );
    // What it gives then is the same, under another id: that is the one to ask for.
    let from = sim.said.len();
    sim.template_like(7, 1, true);
    sim.prev_hash(7, [1; 32]);
    let asked = sim.payloads(TP, td::RequestTransactionData::TYPE, from);
    assert_eq!(td::RequestTransactionData::decode(&asked[0]).unwrap().0.template_id, 7);
    sim.give_data(7);
    assert_eq!(sim.shares(0, from).len(), 1);
    // One that it has no transactions of is tried again under its next id.
    let tp = sim.peer(TP);
    sim.tip(8, 8);
    let error_code = adit_sv2::codec::Str0255::cut("template-id-not-found");
    sim.send(tp, &td::RequestTransactionDataError { template_id: 8, error_code });
    let from = sim.said.len();
    sim.template_like(9, 8, false);
    sim.give_data(9);
    assert_eq!(sim.payloads(POOL, SetCustomMiningJob::TYPE, from).len(), 1);
}

#[test]
fn a_block_goes_to_everybody_at_once_and_again_until_it_is_in_the_chain() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(8);
    let from = sim.said.len();
    miner.block(&mut sim);
    assert_eq!(sim.names(TP, from), ["SubmitSolution"]);
    assert_eq!(sim.names(JDS, from), ["PushSolution"]);
    assert_eq!(sim.names(POOL, from), ["SubmitSharesExtended"]);
    assert!(sim.said[from..].iter().all(|said| said.at == sim.now.instant));
    let push = sim.payloads(JDS, PushSolution::TYPE, from);
    let push = PushSolution::decode(&push[0]).unwrap().0;
    let whole = [&[1, 0, 0, 1][..], &sim.shares(0, from)[0].1].concat();
    assert_eq!((push.extranonce.as_bytes(), push.prev_hash), (&whole[..], [1; 32]));
    let Some(Effect::Keep(block)) = sim.effects.iter().find(|e| matches!(e, Effect::Keep(_)))
    else {
        panic!("not kept: {:?}", sim.effects)
    };
    let hash: [u8; 32] = block.hash.clone().try_into().unwrap();
    // The provider goes and comes back: it gets the block again, with its own id of the template.
    sim.lose(TP);
    sim.connect(TP);
    sim.pass(Duration::from_millis(200));
    assert_eq!(sim.payloads(TP, td::SubmitSolution::TYPE, from).len(), 2);
    sim.pass(Duration::from_secs(11));
    assert_eq!(sim.payloads(TP, td::SubmitSolution::TYPE, from).len(), 3);
    sim.template(9, true);
    sim.prev_hash(9, hash);
    assert!(sim.effects.iter().any(|effect| matches!(effect, Effect::Settled(h) if *h == hash)));
    let before = sim.said.len();
    sim.pass(Duration::from_secs(30));
    assert!(sim.payloads(TP, td::SubmitSolution::TYPE, before).is_empty());
}

#[test]
fn a_block_on_a_job_that_is_on_its_way_is_lost_nowhere() {
    let mut sim = Sim::new("", 1);
    sim.manners[0].answers_declarations = false;
    for link in [POOL, JDS, TP] {
        sim.connect(link);
    }
    sim.tip(1, 1);
    let mut miner = sim.extended(8);
    let from = sim.said.len();
    miner.block(&mut sim);
    assert_eq!(sim.names(TP, from), ["SubmitSolution"]);
    assert!(sim.names(JDS, from).is_empty() && sim.shares(0, from).is_empty());
    let declared = sim.payloads(JDS, DeclareMiningJob::TYPE, 0);
    let request_id = DeclareMiningJob::decode(&declared[0]).unwrap().0.request_id;
    sim.accept_declaration(0, request_id);
    assert_eq!(sim.payloads(JDS, PushSolution::TYPE, from).len(), 1);
    assert_eq!(sim.shares(0, from).len(), 1);
}

#[test]
fn blocks_of_a_former_run_are_submitted_to_their_provider() {
    let block = FoundBlock {
        hash: vec![5; 32],
        prev_hash: vec![4; 32],
        found_unix_ms: 1,
        identity: String::new(),
        pool: None,
        template_provider: "tp:1".to_owned(),
        template_id: 77,
        version: 1,
        ntime: 2,
        nonce: 3,
        coinbase_tx: vec![1; 60],
    };
    let elsewhere = FoundBlock { template_provider: "other:1".to_owned(), ..block.clone() };
    let mut sim = Sim::with_pending("", 1, vec![block, elsewhere]);
    sim.connect(TP);
    // After it was told what is added to coinbases, which is known when the pool is, or after a second.
    sim.pass(Duration::from_millis(1_200));
    let sent = sim.payloads(TP, td::SubmitSolution::TYPE, 0);
    assert_eq!(sent.len(), 1);
    assert_eq!(td::SubmitSolution::decode(&sent[0]).unwrap().0.template_id, 77);
    // Six other tips later it is overtaken.
    sim.tip(1, 1);
    for tip in 10..16 {
        sim.tip(u64::from(tip), tip);
        let settled = sim.effects.iter().filter(|e| matches!(e, Effect::Settled(_))).count();
        assert_eq!(settled, if tip == 15 { 2 } else { 0 }, "{tip}");
    }
}

#[test]
fn providers_are_told_the_largest_outputs_once_they_are_known() {
    let mut sim = Sim::new("", 2);
    sim.connect(TP);
    assert!(sim.payloads(TP, td::CoinbaseOutputConstraints::TYPE, 0).is_empty());
    sim.connect(POOL);
    sim.connect(JDS);
    assert!(sim.payloads(TP, td::CoinbaseOutputConstraints::TYPE, 0).is_empty());
    sim.manners[1].more_outputs = 2;
    sim.connect(Link::Pool(1));
    sim.connect(Link::Jds(1));
    let told = |sim: &Sim| {
        let told = sim.payloads(TP, td::CoinbaseOutputConstraints::TYPE, 0);
        let size = |payload: &Vec<u8>| {
            td::CoinbaseOutputConstraints::decode(payload)
                .unwrap()
                .0
                .coinbase_output_max_additional_size
        };
        told.iter().map(size).collect::<Vec<_>>()
    };
    // Three outputs of 11 bytes.
    assert_eq!(told(&sim), [33]);
    // The pool wants more from now on.
    sim.manners[0].more_outputs = 4;
    sim.lose(JDS);
    sim.connect(JDS);
    assert_eq!(told(&sim), [33, 55]);
    // Where an upstream cannot be reached, templates do not wait for it.
    let mut sim = Sim::new("", 2);
    sim.connect(TP);
    sim.pass(Duration::from_millis(1_200));
    assert_eq!(told(&sim), [0]);
}

#[test]
fn a_new_target_of_the_pool_counts_for_a_job_that_is_set_again() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(8);
    sim.pass(Duration::from_secs(6));
    let from = sim.said.len();
    let pool = sim.peer(POOL);
    let harder = Target::from_expected_hashes(4_096.0);
    sim.send(pool, &SetTarget { channel_id: 1, maximum_target: harder.to_le_bytes() });
    // What it took before it judges by the former target.
    miner.share(&mut sim);
    assert_eq!(sim.shares(0, from).len(), 1);
    sim.pass(Duration::from_secs(1));
    assert_eq!(sim.payloads(POOL, SetCustomMiningJob::TYPE, from).len(), 1);
    assert_eq!(sim.payloads(JDS, DeclareMiningJob::TYPE, from).len(), 1);
    assert!(sim.payloads(Link::Miner, NewExtendedMiningJob::TYPE, from).len() <= 1);
    let from = sim.said.len();
    miner.submit(&mut sim, Target::from_expected_hashes(64.0), Some(harder));
    assert!(sim.shares(0, from).is_empty(), "too easy for the pool now");
    miner.submit(&mut sim, harder, Target::from_nbits(NBITS));
    assert_eq!(sim.shares(0, from), [(102, sim.shares(0, from)[0].1.clone())]);
    // And no more than that.
    sim.pass(Duration::from_secs(60));
    assert_eq!(sim.payloads(POOL, SetCustomMiningJob::TYPE, from).len(), 0);
}

#[test]
fn a_new_prefix_of_the_pool_is_another_job_for_the_same_extranonces() {
    let mut sim = Sim::working("", 1);
    let mut miner = sim.extended(8);
    let from = sim.said.len();
    let pool = sim.peer(POOL);
    let extranonce_prefix = adit_sv2::codec::B032::new(&[9, 9, 9, 9]).unwrap();
    sim.send(pool, &SetExtranoncePrefix { channel_id: 7, extranonce_prefix });
    assert!(miner.read(&sim));
    assert!(sim.payloads(Link::Miner, SetExtranoncePrefix::TYPE, 0).is_empty());
    assert_eq!(sim.payloads(POOL, SetCustomMiningJob::TYPE, from).len(), 1);
    miner.block(&mut sim);
    let push = sim.payloads(JDS, PushSolution::TYPE, from);
    let push = PushSolution::decode(&push[0]).unwrap().0;
    assert_eq!(push.extranonce.as_bytes()[..4], [9, 9, 9, 9]);
}

#[test]
fn stock_is_kept_and_renewed() {
    let mut sim = Sim::working("declaration.tokens = 3", 1);
    assert_eq!(sim.tokens_asked(0), 3);
    sim.extended(8);
    assert_eq!(sim.tokens_asked(0), 4);
    sim.pass(Duration::from_secs(599));
    assert_eq!(sim.tokens_asked(0), 4);
    sim.pass(Duration::from_secs(2));
    assert_eq!(sim.tokens_asked(0), 7);
}

#[test]
fn a_smaller_extranonce_is_asked_for_where_a_pool_has_no_more() {
    let mut sim = Sim::new("", 1);
    sim.manners[0].room = 8;
    for link in [POOL, JDS, TP] {
        sim.connect(link);
    }
    sim.tip(1, 1);
    let opens = sim.payloads(POOL, OpenExtendedMiningChannel::TYPE, 0);
    let size = |p: &Vec<u8>| OpenExtendedMiningChannel::decode(p).unwrap().0.min_extranonce_size;
    assert_eq!(opens.iter().map(size).collect::<Vec<_>>(), [16, 12, 8]);
    let mut miner = sim.extended(4);
    miner.share(&mut sim);
    assert_eq!(sim.shares(0, 0)[0].1, [0, 0, 0, 1, 0xee, 0xee, 0xee, 0xee]);
    let peer = sim.miner_connection(0);
    let from = sim.said.len();
    sim.open_extended(peer, 6);
    assert!(sim.heard_by(peer, from)[0].contains("min-extranonce-size-too-large"));
}
