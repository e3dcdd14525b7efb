//! Jobs that clients choose themselves.

mod grouped;
mod paid_once;
mod tips;

use std::sync::Arc;
use std::time::Duration;

use adit_job_declaration::{AccountTag, Commitment, Grant, Token, TokenId, outputs_hash};
use adit_mining::{BlockHash, CustomJob, Job, NonceScan, Target, Tip};
use adit_sv2::codec::B0255;
use adit_sv2::frame::Header;
use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::messages::Message;
use adit_sv2::messages::mining::{
    Mining, OpenExtendedMiningChannel, OpenExtendedMiningChannelSuccess, SetCustomMiningJob,
    SetCustomMiningJobSuccess,
};
use adit_transport::{Event, PeerId};
use bitcoin::{Amount, TxOut};
use proptest::prelude::*;

use super::sim::{
    Found, NBITS, Rig, START, Sim, Wanted, open_extended, open_standard, setup_connection,
};
use crate::engine::Link;
use crate::engine::custom::height_push;
use crate::engine::prefixes;
use crate::store::{BlockState, FoundBlock, JobOrigin, Record, ShareOutcome};

const POOL_SCRIPT: &str = "0014751e76e8199196d454941c45d1b3a323f1433bd6";
const COIN: u64 = 100_000_000;

fn key(seed: u8) -> AuthoritySecretKey {
    AuthoritySecretKey::from_entropy([seed; 32]).unwrap()
}

/// A pool that takes custom jobs, on tip 1 at height 300.
pub(super) fn working(more: &str) -> (Sim, PeerId) {
    Sim::working(&format!(
        "job_declaration.token_keys = [\"{}\", \"{}\"]\nshares.vardiff = false\n{more}",
        key(9).public(),
        key(1).public()
    ))
}

/// A connection that chooses its own work.
pub(super) fn connect(sim: &mut Sim) -> PeerId {
    let peer = sim.open(Link::Miner);
    sim.send(peer, Link::Miner, &setup_connection(0, 2, 2, 0b010));
    sim.heard_only(peer, "SetupConnection.Success { used_version: 2, flags: 2 }");
    peer
}

/// The same with a channel of alice's.
fn client(sim: &mut Sim) -> Rig {
    let peer = connect(sim);
    sim.send(peer, Link::Miner, &open_extended(1, "alice.farm"));
    sim.rig(peer)
}

fn outputs(outputs: &[(u64, &str)]) -> Vec<u8> {
    let output = |(value, script): &(u64, &str)| TxOut {
        value: Amount::from_sat(*value),
        script_pubkey: bitcoin::ScriptBuf::from_hex(script).unwrap(),
    };
    bitcoin::consensus::serialize(&outputs.iter().map(output).collect::<Vec<_>>())
}

const COMMITMENT: (u64, &str) =
    (0, "6a24aa21a9ed0707070707070707070707070707070707070707070707070707070707070707");

/// A job on this tip that is good for a pool at this height.
fn job(tip: u8, height: u32) -> CustomJob {
    let mut coinbase_prefix = height_push(height);
    coinbase_prefix.extend([3, b'j', b'd', b'c', 12]);
    CustomJob {
        version: 0x2000_0000,
        prev_hash: [tip; 32],
        min_ntime: START,
        nbits: NBITS,
        coinbase_tx_version: 2,
        coinbase_prefix,
        coinbase_tx_input_sequence: 0xffff_fffe,
        coinbase_tx_outputs: outputs(&[(50 * COIN + 7, POOL_SCRIPT), COMMITMENT]),
        coinbase_tx_locktime: height - 1,
        merkle_path: vec![[3; 32], [4; 32]],
    }
}

fn token(id: u8, grant: Grant) -> Token {
    Token { expiry: START + 7_200, id: TokenId([id; 8]), account: AccountTag::of(b"alice"), grant }
}

fn declared(job: &CustomJob) -> Grant {
    Grant::Declared(Commitment::of(&job.message(0, 0, B0255::default()).unwrap()))
}

fn allocated() -> Grant {
    Grant::Allocated { outputs: outputs_hash(&outputs(&[(0, POOL_SCRIPT)])) }
}

fn ask(sim: &mut Sim, peer: PeerId, channel_id: u32, job: &CustomJob, token: &[u8]) {
    let message = job.message(channel_id, 8, B0255::new(token).unwrap()).unwrap();
    sim.send(peer, Link::Miner, &message);
}

fn refused(sim: &mut Sim, rig: &Rig, job: &CustomJob, token: &[u8], code: &str) {
    let id = rig.client.id();
    ask(sim, rig.peer, id, job, token);
    sim.heard_only(
        rig.peer,
        &format!(
            "SetCustomMiningJob.Error {{ channel_id: {id}, request_id: 8, error_code: \"{code}\" }}"
        ),
    );
}

/// Sets a job with this token; returns its id.
fn set(sim: &mut Sim, rig: &Rig, job: &CustomJob, token: &[u8]) -> u32 {
    let id = rig.client.id();
    ask(sim, rig.peer, id, job, token);
    job_id(sim, rig.peer, id)
}

fn job_id(sim: &mut Sim, peer: PeerId, channel_id: u32) -> u32 {
    let (header, payload) = sim.take_frame(peer).expect("an answer");
    match Mining::decode(&header, &payload).unwrap().0 {
        Mining::SetCustomMiningJobSuccess(SetCustomMiningJobSuccess {
            channel_id: id,
            request_id: 8,
            job_id,
        }) if id == channel_id => job_id,
        other => panic!("{other}"),
    }
}

/// Sets a declared job with a fresh token.
fn declare(sim: &mut Sim, rig: &Rig, job: &CustomJob, id: u8) -> u32 {
    let token = token(id, declared(job)).sign(&key(1), &[0; 32]);
    set(sim, rig, job, &token)
}

/// Searches a share on a custom job from this nonce on.
fn search(rig: &mut Rig, job: &CustomJob, job_id: u32, wanted: Wanted, from: u32) -> Found {
    let extranonce = vec![0x5a; rig.client.extranonce_size()];
    let size = rig.client.full_extranonce_size();
    let made: Job = job.job(job_id, size, true).unwrap();
    let tip: Arc<Tip> = Arc::new(job.tip().unwrap());
    let root = made.merkle_root(rig.client.extranonce_prefix(), &extranonce).unwrap();
    let (target, network) = (rig.client.target(), tip.network_target);
    let fits = |hash: &BlockHash| match wanted {
        Wanted::Block => network.is_met_by(hash),
        Wanted::Share => target.is_met_by(hash) && !network.is_met_by(hash),
        Wanted::TooEasy => !target.is_met_by(hash),
    };
    let mut scan = NonceScan::new(&Job::header(&tip, root, job.version, job.min_ntime, 0));
    let nonce = (from..).find(|nonce| fits(&scan.hash(*nonce))).unwrap();
    Found {
        sequence_number: rig.client.next_sequence_number(),
        job_id,
        nonce,
        ntime: job.min_ntime,
        version: job.version,
        extranonce,
        hash: scan.hash(nonce),
    }
}

/// Submits a share on a custom job; returns how it was refused, if it was.
fn share(sim: &mut Sim, rig: &mut Rig, job: &CustomJob, job_id: u32, from: u32) -> Option<String> {
    let found = search(rig, job, job_id, Wanted::Share, from);
    rig.submit(sim, &found);
    sim.heard(rig.peer).pop()
}

fn last_credit(sim: &Sim) -> u128 {
    match sim.records.last() {
        Some(Record::Share { outcome: ShareOutcome::Accepted { work, .. }, .. }) => *work,
        other => panic!("{other:?}"),
    }
}

fn results(sim: &Sim) -> serde_json::Value {
    sim.engine.status(sim.now)["custom_jobs"]["results"].clone()
}

#[test]
fn work_selection_is_for_extended_channels() {
    let (mut sim, _) = working("");
    let peer = connect(&mut sim);
    sim.send(peer, Link::Miner, &open_standard(3, "alice"));
    sim.heard_only(
        peer,
        "OpenMiningChannel.Error { request_id: 3, error_code: \"standard-channels-not-supported-for-custom-work\" }",
    );
    for flags in [0b011, 0b111] {
        let peer = sim.open(Link::Miner);
        sim.send(peer, Link::Miner, &setup_connection(0, 2, 2, flags));
        sim.heard_only(peer, "flags: 0, error_code: \"work-selection-needs-extended-channels\"");
        assert_eq!(sim.closed(peer), Some("setup-connection-refused"));
    }
    // The full set of flags is asked for by setting them all.
    let peer = sim.open(Link::Miner);
    sim.send(peer, Link::Miner, &setup_connection(0, 2, 2, u32::MAX));
    sim.heard_only(peer, &format!("flags: {}, error_code: \"unsupported-feature-flags\"", !7u32));
    // Without the flag there are no custom jobs.
    let rig = sim.extended("alice");
    let job = job(1, 300);
    let token = token(1, declared(&job)).sign(&key(1), &[0; 32]);
    refused(&mut sim, &rig, &job, &token, "work-selection-not-negotiated");
    // And without a key none at all.
    let (mut sim, _) = Sim::working("");
    let rig = sim.extended("alice");
    refused(&mut sim, &rig, &job, &token, "jd-not-supported");
}

#[test]
fn a_declared_job_is_taken_and_its_shares_count() {
    let (mut sim, tp) = working("");
    let mut rig = client(&mut sim);
    let job = job(1, 300);
    let signed = token(1, declared(&job)).sign(&key(1), &[0; 32]);
    // The bytes of a peer: channel bit, type 0x22.
    let mut payload = Vec::new();
    payload.extend(rig.client.id().to_le_bytes());
    payload.extend(8u32.to_le_bytes());
    payload.push(signed.len() as u8);
    payload.extend(&signed);
    payload.extend(0x2000_0000u32.to_le_bytes());
    payload.extend([1; 32]);
    payload.extend(START.to_le_bytes());
    payload.extend(NBITS.to_le_bytes());
    payload.extend(2u32.to_le_bytes());
    payload.extend([8, 2, 0x2c, 0x01, 3, b'j', b'd', b'c', 12]);
    payload.extend(0xffff_fffeu32.to_le_bytes());
    payload.extend((job.coinbase_tx_outputs.len() as u16).to_le_bytes());
    payload.extend(&job.coinbase_tx_outputs);
    payload.extend(299u32.to_le_bytes());
    payload.push(2);
    payload.extend([[3u8; 32], [4; 32]].as_flattened());
    let frame = [&[0, 0x80, 0x22], &(payload.len() as u32).to_le_bytes()[..3]].concat();
    let header = Header::parse(&frame.try_into().unwrap());
    sim.event(rig.peer, Link::Miner, Event::Frame(header, &payload));
    let id = job_id(&mut sim, rig.peer, rig.client.id());
    assert_eq!(share(&mut sim, &mut rig, &job, id, 0), None);
    assert_eq!(last_credit(&sim), 100);
    let found = search(&mut rig, &job, id, Wanted::Share, 0);
    rig.submit(&mut sim, &found);
    assert!(sim.heard(rig.peer)[0].contains("duplicate-share"));
    let bad = search(&mut rig, &job, id, Wanted::TooEasy, 0);
    rig.submit(&mut sim, &bad);
    assert!(sim.heard(rig.peer)[0].contains("difficulty-too-low"));
    // Our own job is good as long as it is not replaced, and no other comes.
    rig.mine(&mut sim, 1);
    sim.template(tp, 0, 2, false, 2);
    sim.tip(tp, 0, 3, 2);
    assert!(rig.listen(&mut sim).is_empty());
    assert_eq!(results(&sim)["accepted"], 1);
}

#[test]
fn a_job_that_is_another_than_the_declared_one_is_refused_by_its_field() {
    let (mut sim, _) = working("");
    let rig = client(&mut sim);
    let good = job(1, 300);
    let signed = token(1, declared(&good)).sign(&key(1), &[0; 32]);
    let other = [0x52; 32];
    let cases: [(CustomJob, &str); 10] = [
        (CustomJob { version: 0x2000_0001, ..good.clone() }, "invalid-version"),
        (CustomJob { nbits: NBITS - 1, ..good.clone() }, "invalid-nbits"),
        (CustomJob { nbits: 0, ..good.clone() }, "invalid-nbits"),
        (CustomJob { coinbase_tx_version: 1, ..good.clone() }, "invalid-coinbase-tx-version"),
        (CustomJob { coinbase_prefix: vec![], ..good.clone() }, "invalid-coinbase-prefix"),
        (
            CustomJob { coinbase_tx_input_sequence: 0, ..good.clone() },
            "invalid-coinbase-tx-input-n-sequence",
        ),
        (
            CustomJob { coinbase_tx_outputs: outputs(&[(50 * COIN, POOL_SCRIPT)]), ..good.clone() },
            "invalid-coinbase-tx-outputs",
        ),
        (CustomJob { coinbase_tx_locktime: 0, ..good.clone() }, "invalid-coinbase-tx-locktime"),
        (CustomJob { merkle_path: vec![[3; 32], other], ..good.clone() }, "invalid-merkle-path"),
        (CustomJob { min_ntime: START + 7_200, ..good.clone() }, "invalid-min-ntime"),
    ];
    for (job, code) in &cases {
        refused(&mut sim, &rig, job, &signed, code);
    }
    refused(
        &mut sim,
        &rig,
        &CustomJob { min_ntime: 0, ..good.clone() },
        &signed,
        "invalid-min-ntime",
    );
    // The pool's tip is not what was declared against.
    let elsewhere = CustomJob { prev_hash: [9; 32], ..good.clone() };
    refused(&mut sim, &rig, &elsewhere, &signed, "stale-chain-tip");
    for channel in [rig.client.group_channel_id() + 50, 0] {
        ask(&mut sim, rig.peer, channel, &good, &signed);
        sim.heard_only(
            rig.peer,
            &format!("channel_id: {channel}, request_id: 8, error_code: \"invalid-channel-id\""),
        );
    }
    // Bits that are for rolling, and the least time, are not bound. And nothing of this used the token up.
    let rolled = CustomJob { version: 0x2000_0020, min_ntime: START + 5, ..good.clone() };
    set(&mut sim, &rig, &rolled, &signed);
    refused(&mut sim, &rig, &good, &signed, "invalid-mining-job-token");
}

#[test]
fn a_token_is_real_the_accounts_own_and_used_once() {
    let (mut sim, _) = working("");
    let rig = client(&mut sim);
    let good = job(1, 300);
    let code = "invalid-mining-job-token";
    let base = token(1, declared(&good));
    let sign = |token: &Token, seed: u8| token.sign(&key(seed), &[0; 32]);
    for garbage in [&[][..], &[1], &[0; 8], &[1; 255], &sign(&base, 1)[1..]] {
        refused(&mut sim, &rig, &good, garbage, code);
    }
    refused(&mut sim, &rig, &good, &sign(&base, 2), code);
    refused(&mut sim, &rig, &good, &sign(&Token { expiry: START - 1, ..base }, 1), code);
    let bobs = Token { account: AccountTag::of(b"bob"), ..base };
    refused(&mut sim, &rig, &good, &sign(&bobs, 1), code);
    set(&mut sim, &rig, &good, &sign(&base, 1));
    refused(&mut sim, &rig, &good, &sign(&base, 1), code);
    // Under another key that counts it is the same token still.
    refused(&mut sim, &rig, &good, &sign(&base, 9), code);
    let results = results(&sim);
    for (label, count) in [
        ("token-malformed", 5),
        ("token-unknown-key", 1),
        ("token-expired", 1),
        ("token-foreign", 1),
        ("token-reused", 2),
        ("accepted", 1),
    ] {
        assert_eq!(results[label], count, "{label}: {results}");
    }
    // Another connection of the account cannot use it again either, nor may somebody else.
    let second = client(&mut sim);
    refused(&mut sim, &second, &good, &sign(&base, 1), code);
    let peer = connect(&mut sim);
    sim.send(peer, Link::Miner, &open_extended(1, "bob"));
    let bob = sim.rig(peer);
    refused(&mut sim, &bob, &good, &sign(&token(2, declared(&good)), 1), code);
    let bobs = Token { id: TokenId([3; 8]), ..bobs };
    set(&mut sim, &bob, &good, &sign(&bobs, 1));
}

#[test]
fn a_coinbase_is_judged_where_nothing_was_declared() {
    let (mut sim, _) = working("job_declaration.coinbase_only = true");
    let mut rig = client(&mut sim);
    let good = job(1, 300);
    let signed = token(1, allocated()).sign(&key(1), &[0; 32]);
    let with = |change: fn(&mut CustomJob)| {
        let mut job = good.clone();
        change(&mut job);
        job
    };
    let cases = [
        (with(|job| job.version = 1), "invalid-version"),
        (with(|job| job.coinbase_prefix[0] = 3), "invalid-coinbase-prefix"),
        (with(|job| job.coinbase_prefix[1] += 1), "invalid-coinbase-prefix"),
        (with(|job| job.coinbase_prefix.extend([0; 100])), "invalid-coinbase-prefix"),
        (with(|job| job.coinbase_tx_locktime = 300), "invalid-coinbase-tx-locktime"),
        (with(|job| job.coinbase_tx_locktime = START + 9), "invalid-coinbase-tx-locktime"),
        (with(|job| job.merkle_path = vec![[1; 32]; 33]), "invalid-merkle-path"),
        (with(|job| job.coinbase_tx_outputs = vec![]), "invalid-coinbase-tx-outputs"),
        (with(|job| job.coinbase_tx_outputs = vec![0]), "invalid-coinbase-tx-outputs"),
        (with(|job| job.coinbase_tx_outputs.push(0)), "invalid-coinbase-tx-outputs"),
        (with(|job| job.coinbase_tx_outputs[0] = 0xff), "invalid-coinbase-tx-outputs"),
        (
            with(|job| job.coinbase_tx_outputs = outputs(&[(50 * COIN, "51"), (0, POOL_SCRIPT)])),
            "invalid-coinbase-tx-outputs",
        ),
        (with(|job| job.prev_hash = [0; 32]), "invalid-coinbase-prefix"),
    ];
    for (job, code) in &cases {
        refused(&mut sim, &rig, job, &signed, code);
    }
    let final_anyway = with(|job| {
        job.coinbase_tx_input_sequence = u32::MAX;
        job.coinbase_tx_locktime = 300;
    });
    let id = set(&mut sim, &rig, &final_anyway, &signed);
    assert_eq!(share(&mut sim, &mut rig, &final_anyway, id, 0), None);
    // Only where that is configured.
    let (mut sim, _) = working("");
    let rig = client(&mut sim);
    refused(&mut sim, &rig, &good, &signed, "job-not-yet-validated");
}

#[test]
fn credit_is_the_part_that_the_pool_is_paid() {
    let (mut sim, _) = working("");
    let mut rig = client(&mut sim);
    for (id, outs, credit) in [
        (1, vec![(50 * COIN, POOL_SCRIPT)], 100),
        (2, vec![(51 * COIN, POOL_SCRIPT)], 100),
        (3, vec![(25 * COIN, "51"), (25 * COIN, POOL_SCRIPT)], 50),
        (4, vec![(10 * COIN, POOL_SCRIPT), (30 * COIN, "52"), (10 * COIN, POOL_SCRIPT)], 40),
        // Burnt: of the subsidy of 50 coins nobody gets the rest.
        (5, vec![(5 * COIN, POOL_SCRIPT)], 10),
        (6, vec![(1, POOL_SCRIPT), (50 * COIN, "51")], 0),
    ] {
        let job = CustomJob { coinbase_tx_outputs: outputs(&outs), ..job(1, 300) };
        let job_id = declare(&mut sim, &rig, &job, id);
        assert_eq!(share(&mut sim, &mut rig, &job, job_id, 0), None);
        assert!(
            (credit - 1..=credit).contains(&(last_credit(&sim) as i64)),
            "{id}: {}",
            last_credit(&sim)
        );
    }
    let live = sim.engine.status(sim.now)["custom_jobs"]["live"][0].clone();
    assert_eq!(
        (&live["paid_to_pool_sats"], &live["value_sats"]),
        (&1.into(), &(50 * COIN + 1).into())
    );
    assert_eq!(live["mode"], "full-template");
}

#[test]
fn a_block_on_a_custom_job_is_kept_and_left_to_its_finder() {
    let (mut sim, tp) = working("");
    let mut rig = client(&mut sim);
    let job = job(1, 300);
    let id = declare(&mut sim, &rig, &job, 1);
    let found = search(&mut rig, &job, id, Wanted::Block, 0);
    rig.submit(&mut sim, &found);
    let blocks = |sim: &Sim| -> Vec<FoundBlock> {
        let block = |record: &Record| match record {
            Record::Block(block) => Some((**block).clone()),
            Record::Share { .. } => None,
        };
        sim.records.iter().filter_map(block).collect()
    };
    let [block] = &blocks(&sim)[..] else { panic!("one block") };
    assert_eq!((block.job, block.state), (JobOrigin::Custom, BlockState::Pending));
    assert_eq!((block.hash_bytes(), block.height), (found.hash.0, Some(300)));
    assert_eq!((block.account.as_str(), block.template_provider.as_str()), ("alice", ""));
    assert_eq!(sim.store(), 2);
    sim.pass(Duration::from_secs(30));
    assert!(sim.solutions(tp).is_empty());
    sim.template(tp, 0, 2, true, 2);
    sim.prev_hash_bytes(tp, 0, 2, found.hash.0);
    assert_eq!(blocks(&sim)[0].state, BlockState::Accepted);
    // On its own block it mines on.
    sim.heard(rig.peer);
    let next = CustomJob { prev_hash: found.hash.0, ..self::job(0, 300) };
    let next_id = declare(&mut sim, &rig, &next, 2);
    assert_eq!(share(&mut sim, &mut rig, &next, next_id, 0), None);
}

#[test]
fn forged_tokens_cost_more_than_others() {
    let (mut sim, _) = working("job_declaration.max_per_minute = 50");
    let rig = client(&mut sim);
    let good = job(1, 300);
    let forged = token(1, declared(&good)).sign(&key(2), &[0; 32]);
    for _ in 0..3 {
        refused(&mut sim, &rig, &good, &forged, "invalid-mining-job-token");
    }
    refused(&mut sim, &rig, &good, &forged, "too-many-requests");
}

#[test]
fn requests_are_limited_before_they_cost_anything() {
    let (mut sim, _) = working("job_declaration.max_per_minute = 6");
    let rig = client(&mut sim);
    let good = job(1, 300);
    for _ in 0..6 {
        refused(&mut sim, &rig, &good, &[1], "invalid-mining-job-token");
    }
    let signed = token(1, declared(&good)).sign(&key(1), &[0; 32]);
    refused(&mut sim, &rig, &good, &signed, "too-many-requests");
    sim.pass(Duration::from_secs(10));
    set(&mut sim, &rig, &good, &signed);
    refused(&mut sim, &rig, &good, &signed, "too-many-requests");
}

#[test]
fn a_request_on_a_connection_with_many_channels_costs_more() {
    let (mut sim, _) = working("job_declaration.max_per_minute = 30");
    let peer = connect(&mut sim);
    sim.send(peer, Link::Miner, &open_extended(1, "alice.farm"));
    let rig = sim.rig(peer);
    for _ in 1..640 {
        sim.send(peer, Link::Miner, &open_extended(1, "alice.farm"));
        sim.drop_frames();
    }
    let good = job(1, 300);
    for channel in [rig.client.id(), rig.client.group_channel_id(), rig.client.id()] {
        ask(&mut sim, peer, channel, &good, &[1]);
        sim.heard_only(peer, "error_code: \"invalid-mining-job-token\"");
    }
    // Of 30 three times 11 are gone.
    refused(&mut sim, &rig, &good, &[1], "too-many-requests");
    let alone = client(&mut sim);
    for _ in 0..30 {
        refused(&mut sim, &alone, &good, &[1], "invalid-mining-job-token");
    }
    refused(&mut sim, &alone, &good, &[1], "too-many-requests");
}

/// They may come as fast as the line allows: what they leave undone the clock does.
#[test]
fn too_many_requests_cost_an_answer_each_and_nothing_else() {
    let (mut sim, tp) =
        working("job_declaration.max_per_minute = 1\njob_declaration.grace_secs = 2");
    let mut rig = client(&mut sim);
    declare(&mut sim, &rig, &job(1, 300), 1);
    sim.tip_at(tp, 0, 2, 2, 301);
    for _ in 0..1_000 {
        refused(&mut sim, &rig, &job(2, 301), &[1], "too-many-requests");
    }
    sim.pass(Duration::from_secs(4));
    assert_eq!(rig.listen(&mut sim), ["NewExtendedMiningJob", "SetNewPrevHash"]);
    rig.mine(&mut sim, 1);
}

#[test]
fn heights_are_pushed_as_consensus_does() {
    for height in [0, 1, 16, 17, 127, 128, 255, 256, 32_767, 32_768, 840_000, 8_388_608] {
        let script = bitcoin::script::Builder::new().push_int(height.into()).into_script();
        assert_eq!(height_push(height), script.as_bytes(), "{height}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Any change of a good request is either refused, or of no weight; the pool works on.
    #[test]
    fn changed_requests(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        declare_it: bool,
    ) {
        let (mut sim, _) = working("job_declaration.coinbase_only = true");
        let mut rig = client(&mut sim);
        let good = job(1, 300);
        let grant = if declare_it { declared(&good) } else { allocated() };
        let signed = token(1, grant).sign(&key(1), &[0; 32]);
        let message = good.message(rig.client.id(), 8, B0255::new(&signed).unwrap()).unwrap();
        let mut frame = Vec::new();
        adit_sv2::frame::encode_frame(&message, &mut frame);
        let mut payload = frame.split_off(Header::LEN);
        for (at, byte) in changes {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        if let Some(cut) = cut {
            payload.truncate(cut.index(payload.len()));
        }
        let header = Header { msg_length: payload.len() as u32, ..Header::parse(&frame.try_into().unwrap()) };
        sim.event(rig.peer, Link::Miner, Event::Frame(header, &payload));
        if sim.closed(rig.peer).is_some() {
            prop_assert!(SetCustomMiningJob::decode(&payload).is_err());
            rig = client(&mut sim);
        } else {
            prop_assert_eq!(sim.heard(rig.peer).len(), 1);
        }
        let id = declare(&mut sim, &rig, &good, 2);
        prop_assert_eq!(share(&mut sim, &mut rig, &good, id, 0), None);
    }

    #[test]
    fn random_tokens(bytes in prop::collection::vec(any::<u8>(), 0..255), kind in 0..4u8) {
        let (mut sim, _) = working("job_declaration.coinbase_only = true");
        let rig = client(&mut sim);
        let bytes = [&[1, kind][..], &bytes].concat();
        refused(&mut sim, &rig, &job(1, 300), &bytes[..bytes.len().min(255)], "invalid-mining-job-token");
    }
}

#[test]
fn an_opened_channel_of_such_a_connection_starts_with_our_work() {
    let (mut sim, _) = working("");
    let peer = connect(&mut sim);
    sim.send(peer, Link::Miner, &open_extended(1, "alice"));
    let (header, payload) = sim.take_frame(peer).unwrap();
    let opened = Mining::decode(&header, &payload).unwrap().0;
    assert!(matches!(
        opened,
        Mining::OpenExtendedMiningChannelSuccess(OpenExtendedMiningChannelSuccess {
            extranonce_size: 8,
            ..
        })
    ));
    assert_eq!(sim.heard_names(peer), ["NewExtendedMiningJob", "SetNewPrevHash"]);
}
