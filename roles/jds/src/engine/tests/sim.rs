//! The engine on simulated time, with the test in the place of clients and node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_job_declaration::{Token, Transaction};
use adit_mining::BlockHash;
use adit_node::{Network, ProposalResult};
use adit_sv2::codec::{B016M, B032, B064K, B0255, Seq064K, Str0255};
use adit_sv2::frame::{Header, encode_frame};
use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::messages::common::SetupConnection;
use adit_sv2::messages::job_declaration::{
    AllocateMiningJobToken, DeclareMiningJob, JobDeclaration, ProvideMissingTransactionsSuccess,
    PushSolution,
};
use adit_sv2::messages::{AnyMessage, Message};
use adit_transport::{Delivery, Engine, Event, Now, Outbox, PeerId};
use bitcoin::hashes::Hash;

use crate::engine::{
    CheckAnswer, CheckRequest, Declarator, Effect, Entry, Jds, Rate, Settings, Tip,
};
use crate::metrics::Metrics;

pub(super) const EASY: u32 = 0x207f_ffff;
pub(super) const POOL_SCRIPT: [u8; 3] = [0x51, 0x52, 0x53];
/// Of the first tip's successor on regtest.
pub(super) const SUBSIDY: u64 = 50 * 100_000_000;
/// Height of the first tip.
pub(super) const HEIGHT: u32 = 100;
/// What each transaction of a test pays.
pub(super) const FEE: u64 = 1000;

/// What came out, decoded, in order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Said {
    Token { request_id: u32, token: Vec<u8>, outputs: Vec<u8> },
    Missing { request_id: u32, positions: Vec<u16> },
    Success { request_id: u32, token: Vec<u8> },
    Error { request_id: u32, code: String, details: String },
    Other(String),
    Close(&'static str),
}

impl Said {
    pub(super) fn code(&self) -> &str {
        match self {
            Self::Error { code, .. } => code,
            other => panic!("{other:?} is no error"),
        }
    }
}

pub(super) struct Sim {
    pub(super) engine: Jds,
    pub(super) out: Outbox<Effect>,
    pub(super) now: Now,
    pub(super) metrics: Metrics,
    heard: BTreeMap<u64, Vec<Said>>,
}

pub(super) fn key() -> AuthoritySecretKey {
    AuthoritySecretKey::from_entropy([1; 32]).unwrap()
}

pub(super) fn settings() -> Settings {
    Settings {
        network: Network::Signet,
        key: key(),
        seed: [2; 32],
        token_lifetime: 7200,
        pool_script: POOL_SCRIPT.to_vec(),
        min_pool_percent: 0,
        coinbase_only: true,
        grace: Duration::from_secs(10),
        answer_time: Duration::from_secs(5),
        tokens: Rate { burst: 10, per_second: 2.0 },
        declarations: Rate { burst: 10, per_second: 2.0 },
        pending_per_client: 4,
        pending_bytes: 10 << 20,
        supplied_bytes: 1 << 20,
        mempool_bytes: 10 << 20,
    }
}

pub(super) fn tip(height: u32, id: u8) -> Tip {
    Tip { hash: BlockHash([id; 32]), height, nbits: EASY, min_time: 1_700_000_000 }
}

/// A transaction that pays [`FEE`] of a coin named by `n`.
pub(super) fn transaction(n: u32) -> Arc<Transaction> {
    child(bitcoin::Txid::from_byte_array([0xcc; 32]), n, 100_000 - FEE)
}

pub(super) fn child(parent: bitcoin::Txid, vout: u32, value: u64) -> Arc<Transaction> {
    let transaction = bitcoin::Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: vec![bitcoin::TxIn {
            previous_output: bitcoin::OutPoint::new(parent, vout),
            witness: bitcoin::Witness::from_slice(&[[vout as u8; 3]]),
            ..Default::default()
        }],
        output: vec![bitcoin::TxOut {
            value: bitcoin::Amount::from_sat(value),
            script_pubkey: bitcoin::ScriptBuf::from_bytes(vec![0x51]),
        }],
    };
    let raw = bitcoin::consensus::serialize(&transaction);
    Arc::new(Transaction::parse(&raw).unwrap().0)
}

/// What a client declares.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) request_id: u32,
    pub(super) token: Vec<u8>,
    pub(super) height: u32,
    /// Of the coinbase: value and script.
    pub(super) outputs: Vec<(u64, Vec<u8>)>,
    pub(super) transactions: Vec<Arc<Transaction>>,
    /// Tells coinbases apart.
    pub(super) tag: u8,
}

impl Job {
    pub(super) fn value(&self) -> u64 {
        SUBSIDY + FEE * self.transactions.len() as u64
    }

    pub(super) fn parts(&self) -> (Vec<u8>, Vec<u8>) {
        let mut script = bitcoin::script::Builder::new()
            .push_int(i64::from(self.height))
            .push_slice([self.tag])
            .into_bytes();
        script.push(8);
        let mut prefix = 2u32.to_le_bytes().to_vec();
        prefix.extend([0, 1, 1]);
        prefix.extend([0; 32]);
        prefix.extend([0xff; 4]);
        prefix.push(script.len() as u8 + 8);
        prefix.extend(script);
        let mut suffix = vec![0xff; 4];
        suffix.push(self.outputs.len() as u8);
        for (value, script) in &self.outputs {
            suffix.extend(value.to_le_bytes());
            suffix.push(script.len() as u8);
            suffix.extend(script);
        }
        suffix.extend([1, 32]);
        suffix.extend([0; 36]);
        (prefix, suffix)
    }
}

impl Sim {
    pub(super) fn new() -> Self {
        Self::with(settings())
    }

    /// On the first tip.
    pub(super) fn with(settings: Settings) -> Self {
        let metrics = Metrics::default();
        let mut sim = Self {
            engine: Jds::new(settings, metrics.clone()),
            out: Outbox::default(),
            now: Now { instant: Instant::now(), unix_ms: 1_800_000_000_000 },
            metrics,
            heard: BTreeMap::new(),
        };
        sim.set_tip(tip(HEIGHT, 1));
        sim
    }

    pub(super) fn set_tip(&mut self, tip: Tip) {
        self.engine.set_tip(tip, self.now, &mut self.out);
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now.instant + time;
        while self.now.instant < end {
            self.now = self.now.later(Duration::from_millis(100));
            self.engine.tick(self.now, &mut self.out);
        }
    }

    pub(super) fn open(&mut self, peer: u64) {
        let remote = ([127, 0, 0, 1], 9).into();
        let event = Event::Opened { remote };
        self.engine.handle(PeerId(peer), Declarator, event, self.now, &mut self.out);
    }

    pub(super) fn leave(&mut self, peer: u64) {
        self.engine.handle(
            PeerId(peer),
            Declarator,
            Event::Closed("gone"),
            self.now,
            &mut self.out,
        );
    }

    pub(super) fn say<'m, M: Message<'m>>(&mut self, peer: u64, message: &M) {
        let mut frame = Vec::new();
        encode_frame(message, &mut frame);
        self.frame(peer, &frame);
    }

    pub(super) fn frame(&mut self, peer: u64, frame: &[u8]) {
        let (header, payload) = frame.split_first_chunk().unwrap();
        let event = Event::Frame(Header::parse(header), payload);
        self.engine.handle(PeerId(peer), Declarator, event, self.now, &mut self.out);
    }

    /// A client in full-template mode.
    pub(super) fn client(&mut self, peer: u64) {
        self.open(peer);
        self.say(peer, &setup(1, 2, 2, 1));
        self.said(peer);
    }

    pub(super) fn token(&mut self, peer: u64) -> Vec<u8> {
        let user_identifier = Str0255::new(b"alice.rig").unwrap();
        self.say(peer, &AllocateMiningJobToken { user_identifier, request_id: 7 });
        match self.said(peer).pop() {
            Some(Said::Token { token, .. }) => token,
            other => panic!("{other:?}"),
        }
    }

    /// A job on the next block that pays the pool everything, with a fresh token.
    pub(super) fn job(
        &mut self,
        peer: u64,
        request_id: u32,
        transactions: &[Arc<Transaction>],
    ) -> Job {
        let token = self.token(peer);
        let mut job = Job {
            request_id,
            token,
            height: self.engine.tip().unwrap().height + 1,
            outputs: Vec::new(),
            transactions: transactions.to_vec(),
            tag: 0,
        };
        job.outputs.push((job.value(), POOL_SCRIPT.to_vec()));
        job
    }

    pub(super) fn declare(&mut self, peer: u64, job: &Job) {
        let (prefix, suffix) = job.parts();
        self.declare_parts(peer, job, &prefix, &suffix);
    }

    pub(super) fn declare_parts(&mut self, peer: u64, job: &Job, prefix: &[u8], suffix: &[u8]) {
        let wtxids: Vec<_> = job.transactions.iter().map(|t| t.wtxid).collect();
        let message = DeclareMiningJob {
            request_id: job.request_id,
            mining_job_token: B0255::new(&job.token).unwrap(),
            version: 0x2000_0000,
            coinbase_tx_prefix: B064K::new(prefix).unwrap(),
            coinbase_tx_suffix: B064K::new(suffix).unwrap(),
            wtxid_list: Seq064K::new(&wtxids).unwrap(),
            excess_data: B064K::default(),
        };
        self.say(peer, &message);
    }

    pub(super) fn provide(&mut self, peer: u64, request_id: u32, raw: &[&[u8]]) {
        let list: Vec<_> = raw.iter().map(|raw| B016M::new(raw).unwrap()).collect();
        let transaction_list = Seq064K::new(&list).unwrap();
        self.say(peer, &ProvideMissingTransactionsSuccess { request_id, transaction_list });
    }

    pub(super) fn mempool(&mut self, transactions: &[Arc<Transaction>]) {
        let entry =
            |transaction: &Arc<Transaction>| Entry { transaction: transaction.clone(), fee: FEE };
        self.engine.update_mempool(transactions.iter().map(entry).collect(), &[]);
    }

    /// The next check, if there is one.
    pub(super) fn check(&mut self) -> Option<CheckRequest> {
        self.engine.take_check(self.now)
    }

    pub(super) fn answer(&mut self, check: &CheckRequest, verdict: ProposalResult) {
        let values = vec![Some(100_000); check.lookups.len()];
        let answer = CheckAnswer { verdict: Ok(verdict), values };
        self.engine.checked(check.id, answer, self.now, &mut self.out);
    }

    /// Answers the next check; there must be one.
    pub(super) fn judge(&mut self, verdict: ProposalResult) -> CheckRequest {
        let check = self.check().expect("a check");
        self.answer(&check, verdict);
        check
    }

    /// Declares and has it accepted.
    pub(super) fn accepted(&mut self, peer: u64, job: &Job) -> Vec<u8> {
        self.declare(peer, job);
        self.judge(ProposalResult::Valid);
        match self.said(peer).pop() {
            Some(Said::Success { token, request_id }) if request_id == job.request_id => token,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn push(&mut self, peer: u64, prev: u8, nonce: u32) {
        self.say(peer, &solution(prev, nonce, &[5; 8]));
    }

    /// What was said to `peer` since the last call.
    pub(super) fn said(&mut self, peer: u64) -> Vec<Said> {
        let heard = &mut self.heard;
        self.out.deliver(|delivery| match delivery {
            Delivery::Close(peer, reason) => {
                heard.entry(peer.0).or_default().push(Said::Close(reason))
            }
            Delivery::Bytes(peer, mut bytes) => {
                while let Some((header, rest)) = bytes.split_first_chunk() {
                    let header = Header::parse(header);
                    let (payload, rest) = rest.split_at(header.msg_length as usize);
                    heard.entry(peer.0).or_default().push(decode(&header, payload));
                    bytes = rest;
                }
            }
        });
        self.heard.remove(&peer).unwrap_or_default()
    }

    pub(super) fn only_said(&mut self, peer: u64) -> Said {
        let mut said = self.said(peer);
        assert_eq!(said.len(), 1, "{said:?}");
        said.remove(0)
    }

    pub(super) fn count(&self, name: &str) -> u64 {
        let mut registry = prometheus_client::registry::Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }
}

pub(super) fn setup(protocol: u8, min: u16, max: u16, flags: u32) -> SetupConnection<'static> {
    SetupConnection {
        protocol,
        min_version: min,
        max_version: max,
        flags,
        endpoint_host: Str0255::default(),
        endpoint_port: 0,
        vendor: Str0255::cut("test"),
        hardware_version: Str0255::default(),
        firmware: Str0255::default(),
        device_id: Str0255::default(),
    }
}

pub(super) fn solution(prev: u8, nonce: u32, extranonce: &[u8]) -> PushSolution<'_> {
    PushSolution {
        extranonce: B032::new(extranonce).unwrap(),
        prev_hash: [prev; 32],
        nonce,
        ntime: 1_800_000_000,
        nbits: EASY,
        version: 0x2000_0000,
    }
}

/// What the token of a `Success` says.
pub(super) fn read_token(token: &[u8]) -> Token {
    Token::verify(token, &[key().public()], 1_800_000_000).unwrap()
}

fn decode(header: &Header, payload: &[u8]) -> Said {
    let (message, _) = AnyMessage::decode(header, payload).unwrap();
    let AnyMessage::JobDeclaration(message) = message else {
        return Said::Other(message.to_string());
    };
    match message {
        JobDeclaration::AllocateMiningJobTokenSuccess(m) => Said::Token {
            request_id: m.request_id,
            token: m.mining_job_token.as_bytes().to_vec(),
            outputs: m.coinbase_tx_outputs.as_bytes().to_vec(),
        },
        JobDeclaration::ProvideMissingTransactions(m) => Said::Missing {
            request_id: m.request_id,
            positions: m.unknown_tx_position_list.iter().collect(),
        },
        JobDeclaration::DeclareMiningJobSuccess(m) => Said::Success {
            request_id: m.request_id,
            token: m.new_mining_job_token.as_bytes().to_vec(),
        },
        JobDeclaration::DeclareMiningJobError(m) => Said::Error {
            request_id: m.request_id,
            code: m.error_code.to_clean_string(),
            details: String::from_utf8(m.error_details.as_bytes().to_vec()).unwrap(),
        },
        other => Said::Other(other.to_string()),
    }
}
