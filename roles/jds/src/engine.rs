//! The Job Declarator Server's logic (spec 6), without sockets, node, clock or random numbers.
//!
//! What arrives: frames of clients, the tip ([`Jds::set_tip`]), the node's mempool ([`Jds::update_mempool`]), answers to
//! checks ([`Jds::checked`]). What is asked of the driver: to have a block judged by the node ([`Jds::take_check`]) and
//! to bring solved blocks into the chain ([`Jds::take_found`]).
//!
//! A declaration goes through these stages: its transactions are looked up, those unknown are asked for once; it waits
//! for its tip if it is ahead of ours; the node judges it, one block at a time, identical ones once, clients in turn;
//! then it is accepted with a token that commits to it, or refused with a code and the reason.

mod bucket;
mod checks;
mod client;
mod declare;
mod fees;
mod mempool;
mod solutions;
mod status;
mod tokens;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use adit_job_declaration::{DeclaredJob, UsedTokens};
use adit_mining::BlockHash;
use adit_node::Network;
use adit_sv2::frame::Header;
use adit_sv2::keys::{AuthorityPublicKey, AuthoritySecretKey};
use adit_transport::{Engine, Event, Now, Outbox, PeerId};

pub use bucket::Rate;
pub use checks::{CheckAnswer, CheckRequest};
pub use mempool::Entry;
pub use solutions::Found;
pub use status::Summary;

use checks::Checks;
use client::Client;
use mempool::Mempool;

use crate::metrics::Metrics;

/// What connections are for: there is one kind.
#[derive(Clone, Copy, Debug)]
pub struct Declarator;

/// What the driver is asked to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// [`Jds::take_check`] may have something.
    Check,
    /// [`Jds::take_found`] has something.
    Found,
}

/// What an operator chose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The chain, for subsidies.
    pub network: Network,
    /// Signs tokens.
    pub key: AuthoritySecretKey,
    /// Secret and random: ids of tokens come of it.
    pub seed: [u8; 32],
    /// Seconds that a token holds.
    pub token_lifetime: u32,
    /// The pool's payout output, as `scriptPubKey`.
    pub pool_script: Vec<u8>,
    /// Least part of a block's value that goes to it, percent. Something has to in any case.
    pub min_pool_percent: u8,
    /// Clients that do not reveal their transactions are served.
    pub coinbase_only: bool,
    /// How long a declaration may be ahead of our tip, or wait for the node.
    pub grace: Duration,
    /// How long a client may take to provide transactions.
    pub answer_time: Duration,
    /// Tokens per client.
    pub tokens: Rate,
    /// Declarations per client.
    pub declarations: Rate,
    /// Declarations of one client that are not answered yet.
    pub pending_per_client: usize,
    /// Bytes that all declarations not answered yet may take.
    pub pending_bytes: usize,
    /// Bytes of transactions that clients supplied and that are kept for the next declaration.
    pub supplied_bytes: usize,
    /// Bytes of the node's mempool that are kept.
    pub mempool_bytes: usize,
}

/// What a block is declared upon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tip {
    /// Hash of the best block.
    pub hash: BlockHash,
    /// Its height.
    pub height: u32,
    /// nBits of the next block.
    pub nbits: u32,
    /// Least nTime of the next block, unix seconds.
    pub min_time: u32,
}

/// A declared job on a tip, shared by all who declared it.
#[derive(Debug)]
pub struct Job {
    /// What becomes a block.
    pub declared: DeclaredJob,
    /// Height of that block.
    pub height: u32,
    /// Counted from 1 over the life of the process, for logs.
    pub serial: u64,
    /// Bytes of its transactions that the mirror did not have.
    extra_bytes: usize,
    /// What tokens say of it.
    commitment: adit_job_declaration::Commitment,
}

/// Why a declaration is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Refusal {
    /// `error_code`, printable.
    code: &'static str,
    /// `error_details`, printable.
    details: String,
}

impl Refusal {
    fn new(code: &'static str, details: impl std::fmt::Display) -> Self {
        Self { code, details: details.to_string() }
    }
}

/// The engine.
pub struct Jds {
    settings: Settings,
    keys: [AuthorityPublicKey; 1],
    /// `coinbase_tx_outputs` of all tokens, and what tokens say of them.
    outputs: Vec<u8>,
    outputs_hash: [u8; 32],
    clients: BTreeMap<PeerId, Client>,
    mempool: Mempool,
    tip: Option<Tip>,
    checks: Checks,
    /// Of all clients, newest last: for solutions whose client has gone and come back.
    jobs: VecDeque<Arc<Job>>,
    /// Those that are kept anywhere with transactions beyond the mirror's, newest last.
    extra: VecDeque<Weak<Job>>,
    last_serial: u64,
    used: UsedTokens,
    tokens_made: u64,
    /// Bytes of declarations not answered yet.
    pending_bytes: usize,
    found: VecDeque<Found>,
    /// Declarations accepted and refused so far.
    answered: (u64, u64),
    /// For `/status`, newest last.
    refusals: VecDeque<status::Refused>,
    metrics: Metrics,
}

impl Jds {
    /// Knows no tip yet and nobody.
    pub fn new(settings: Settings, metrics: Metrics) -> Self {
        let outputs = tokens::pool_outputs(&settings.pool_script);
        Self {
            keys: [settings.key.public()],
            outputs_hash: adit_job_declaration::outputs_hash(&outputs),
            outputs,
            clients: BTreeMap::new(),
            mempool: Mempool::new(settings.mempool_bytes, settings.supplied_bytes),
            tip: None,
            checks: Checks::default(),
            jobs: VecDeque::new(),
            extra: VecDeque::new(),
            last_serial: 0,
            used: UsedTokens::new(MAX_USED_TOKENS),
            tokens_made: 0,
            pending_bytes: 0,
            found: VecDeque::new(),
            answered: (0, 0),
            refusals: VecDeque::new(),
            metrics,
            settings,
        }
    }

    /// There is a new tip, or the same with another least nTime.
    pub fn set_tip(&mut self, tip: Tip, now: Now, out: &mut Outbox<Effect>) {
        if self.tip.replace(tip) == Some(tip) {
            return;
        }
        // Of older tips no block will win.
        let kept = |job: &Arc<Job>| job.height + KEPT_TIPS > tip.height + 1;
        self.jobs.retain(kept);
        self.clients.values_mut().for_each(|client| client.accepted.retain(kept));
        self.checks.forget_results();
        let waiting = self.checks.withdraw_queued();
        self.advance_all(waiting, now, out);
        self.advance_waiting_for_tip(true, now, out);
    }

    /// Transactions that entered and left (by txid) the node's mempool.
    pub fn update_mempool(&mut self, added: Vec<Entry>, removed: &[[u8; 32]]) {
        self.mempool.update(added, removed);
        self.metrics.mempool(self.mempool.len(), self.mempool.bytes());
    }

    /// The node is another one, or it was started anew: what was known of its mempool is not true any more.
    pub fn clear_mempool(&mut self) {
        self.mempool.clear();
        self.metrics.mempool(0, 0);
    }

    /// The tip that declarations are held against.
    pub fn tip(&self) -> Option<&Tip> {
        self.tip.as_ref()
    }

    fn close(&mut self, peer: PeerId, reason: &'static str, out: &mut Outbox<Effect>) {
        if let Some(client) = self.clients.get(&peer) {
            tracing::info!(%peer, remote = %client.remote, reason, "client refused");
            self.metrics.refused_client(reason);
        }
        self.remove(peer);
        out.close(peer, reason);
    }

    fn remove(&mut self, peer: PeerId) {
        if let Some(client) = self.clients.remove(&peer) {
            for declaration in &client.pending {
                self.pending_bytes -= declaration.held_bytes();
            }
            self.checks.forget_client(peer);
        }
        self.metrics.clients(self.clients.len());
        self.metrics.pending(self.pending_bytes);
    }

    fn open(&mut self, peer: PeerId, remote: SocketAddr, now: Instant) {
        self.clients.insert(peer, Client::new(remote, now, &self.settings));
        self.metrics.clients(self.clients.len());
    }
}

impl Engine for Jds {
    type Link = Declarator;
    type Effect = Effect;

    fn handle(
        &mut self,
        peer: PeerId,
        _: Declarator,
        event: Event<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        match event {
            Event::Opened { remote } => self.open(peer, remote, now.instant),
            Event::Frame(header, payload) => self.on_frame(peer, header, payload, now, out),
            Event::Line(_) => self.close(peer, client::UNDECODABLE, out),
            Event::Closed(_) => self.remove(peer),
        }
    }

    fn tick(&mut self, now: Now, out: &mut Outbox<Effect>) {
        self.close_silent(now, out);
        self.hand_out_delayed_tokens(now, out);
        self.give_up_late(now, out);
        self.advance_waiting_for_tip(false, now, out);
        self.forget_solutions(now);
    }
}

impl Jds {
    fn on_frame(
        &mut self,
        peer: PeerId,
        header: Header,
        payload: &[u8],
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Some(client) = self.clients.get(&peer) else { return };
        if client.flags.is_none() {
            return self.on_setup_frame(peer, &header, payload, out);
        }
        match header.extension_type {
            0 => self.on_declaration_frame(peer, &header, payload, now, out),
            1 => self.on_extensions_frame(peer, &header, payload, out),
            // Of an extension that was not negotiated: to be ignored (spec 3.4).
            _ => {}
        }
    }
}

/// Jobs on this tip and on the two before are kept: their solutions are blocks that may still win.
pub const KEPT_TIPS: u32 = 3;
/// Tokens that are remembered as used, at about 50 bytes.
const MAX_USED_TOKENS: usize = 100_000;

#[cfg(test)]
mod tests;
