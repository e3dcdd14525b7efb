//! `DeclareMiningJob` (spec 6.4.4) up to the check, and its answers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_job_declaration::{DeclaredCoinbase, Grant, Token, TokenError, Transaction};
use adit_sv2::codec::{B064K, B0255, Seq064K, Str0255};
use adit_sv2::messages::job_declaration::{
    DeclareMiningJob, DeclareMiningJobError, DeclareMiningJobSuccess, ProvideMissingTransactions,
    ProvideMissingTransactionsSuccess,
};
use adit_transport::{Now, Outbox, PeerId};

use super::status::Refused;
use super::{Effect, Jds, Job, Refusal};

/// A declaration that is not answered yet.
#[derive(Debug)]
pub(super) struct Declaration {
    pub(super) request_id: u32,
    token: Token,
    received: Instant,
    pub(super) version: u32,
    pub(super) prefix: Box<[u8]>,
    pub(super) suffix: Box<[u8]>,
    /// Of the block (BIP34).
    pub(super) height: u32,
    wtxids: Vec<[u8; 32]>,
    /// In the order of `wtxids`; `None` for those that are asked for.
    transactions: Vec<Option<Known>>,
    supplied_bytes: usize,
    pub(super) stage: Stage,
    /// What it waits for, for the answer should it wait too long.
    trouble: Refusal,
    /// Not judged again before, on the same tip.
    retry_at: Instant,
}

/// What a declaration waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// The client, until then.
    Transactions(Instant),
    /// Our node, until then.
    Tip(Instant),
    /// The check of this number.
    Check(u64),
}

/// A transaction of a declaration.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) transaction: Arc<Transaction>,
    /// Satoshis; `None` for one that the client supplied.
    pub(super) fee: Option<u64>,
    /// The mirror does not have it: this client supplied it, or one before.
    pub(super) is_extra: bool,
}

impl Declaration {
    /// Bytes that it takes beside what the mirror holds anyway.
    pub(super) fn held_bytes(&self) -> usize {
        held_bytes(self.wtxids.len(), &self.prefix, &self.suffix) + self.supplied_bytes
    }

    /// The transactions, once all are there.
    pub(super) fn known(&self) -> Option<Vec<Known>> {
        self.transactions.iter().cloned().collect()
    }

    pub(super) fn wtxids(&self) -> &[[u8; 32]] {
        &self.wtxids
    }

    pub(super) fn coinbase(&self) -> Result<DeclaredCoinbase<'_>, Refusal> {
        DeclaredCoinbase::parse(&self.prefix, &self.suffix)
            .map_err(|error| Refusal::new(error.error_code(), error))
    }
}

impl Jds {
    pub(super) fn on_declare(
        &mut self,
        peer: PeerId,
        message: &DeclareMiningJob<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Some(client) = self.clients.get_mut(&peer) else { return };
        if !client.declarations.take(now.instant) {
            client.over_rate += 1;
            if client.over_rate > MAX_OVER_RATE {
                return self.close(peer, "too many declarations", out);
            }
            let refusal = Refusal::new("rate-limited", "declarations come faster than allowed");
            return self.refuse(peer, message.request_id, &refusal, out);
        }
        client.over_rate = 0;
        match self.admit(peer, message, now) {
            Ok(declaration) => self.start(peer, declaration, now, out),
            Err(refusal) => self.refuse(peer, message.request_id, &refusal, out),
        }
    }

    /// What can be said without the transactions.
    fn admit(
        &mut self,
        peer: PeerId,
        message: &DeclareMiningJob<'_>,
        now: Now,
    ) -> Result<Declaration, Refusal> {
        let client = self.clients.get(&peer).filter(|client| client.declares());
        let client = client.ok_or_else(|| {
            Refusal::new("missing-declare-tx-data-flag", "DECLARE_TX_DATA was not negotiated")
        })?;
        if client.pending.iter().any(|other| other.request_id == message.request_id) {
            return Err(Refusal::new("invalid-request-id", "a declaration of this id is pending"));
        }
        if client.pending.len() >= self.settings.pending_per_client {
            return Err(Refusal::new(
                "too-many-declarations",
                format_args!("{} are pending", client.pending.len()),
            ));
        }
        let token = self.spendable(message.mining_job_token.as_bytes(), now)?;
        let (prefix, suffix) =
            (message.coinbase_tx_prefix.as_bytes(), message.coinbase_tx_suffix.as_bytes());
        let coinbase = DeclaredCoinbase::parse(prefix, suffix)
            .map_err(|error| Refusal::new(error.error_code(), error))?;
        let height = coinbase.height().ok_or_else(|| {
            Refusal::new("invalid-coinbase-tx", "the scriptSig does not begin with a height")
        })?;
        if coinbase.outputs.paid_to(&[&self.settings.pool_script]) == 0 {
            return Err(Refusal::new(
                "invalid-coinbase-tx-outputs",
                "nothing is paid to the pool's output",
            ));
        }
        let count = message.wtxid_list.len();
        if count > MAX_TRANSACTIONS {
            return Err(Refusal::new("invalid-job", "more transactions than a block can hold"));
        }
        if self.pending_bytes + held_bytes(count, prefix, suffix) > self.settings.pending_bytes {
            return Err(Refusal::new("server-busy", "too many declarations are pending"));
        }
        let wtxids: Vec<_> = message.wtxid_list.iter().collect();
        // A block cannot hold a transaction twice, and bytes must not be multiplied this way.
        if wtxids.iter().collect::<HashSet<_>>().len() < count {
            return Err(Refusal::new("invalid-job", "a wtxid is listed twice"));
        }
        let known = |wtxid| {
            let (entry, is_extra) = self.mempool.find(wtxid)?;
            Some(Known { transaction: entry.transaction.clone(), fee: Some(entry.fee), is_extra })
        };
        let transactions = wtxids.iter().map(known).collect();
        if !self.used.take(&token, now.unix_secs()) {
            return Err(Refusal::new(TokenError::ERROR_CODE, "the token was used before"));
        }
        Ok(Declaration {
            request_id: message.request_id,
            token,
            received: now.instant,
            version: message.version,
            prefix: prefix.into(),
            suffix: suffix.into(),
            height,
            wtxids,
            transactions,
            supplied_bytes: 0,
            stage: Stage::Tip(now.instant + self.settings.grace),
            trouble: Refusal::new("internal-error", "the node does not answer"),
            retry_at: now.instant,
        })
    }

    fn spendable(&self, token: &[u8], now: Now) -> Result<Token, Refusal> {
        let invalid = |reason: &dyn std::fmt::Display| Refusal::new(TokenError::ERROR_CODE, reason);
        let token = Token::verify(token, &self.keys, now.unix_secs()).map_err(|error| {
            self.metrics.bad_token(error.label());
            invalid(&error)
        })?;
        if matches!(token.grant, Grant::Declared(_)) {
            self.metrics.bad_token("declared");
            return Err(invalid(&"the token is that of an accepted declaration"));
        }
        if self.used.contains(token.id) {
            self.metrics.bad_token("reused");
            return Err(invalid(&"the token was used before"));
        }
        Ok(token)
    }

    /// Asks for what is missing, or goes on.
    fn start(
        &mut self,
        peer: PeerId,
        mut declaration: Declaration,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        self.hold(declaration.held_bytes());
        let unknown = |(at, known): (usize, &Option<Known>)| known.is_none().then_some(at as u16);
        let missing: Vec<u16> =
            declaration.transactions.iter().enumerate().filter_map(unknown).collect();
        if missing.is_empty() {
            return self.advance(peer, declaration, now, out);
        }
        if let Ok(unknown_tx_position_list) = Seq064K::new(&missing) {
            let request_id = declaration.request_id;
            out.send(peer, &ProvideMissingTransactions { request_id, unknown_tx_position_list });
        }
        self.metrics.asked(missing.len());
        declaration.stage = Stage::Transactions(now.instant + self.settings.answer_time);
        self.put_back(peer, declaration);
    }

    pub(super) fn on_transactions(
        &mut self,
        peer: PeerId,
        message: &ProvideMissingTransactionsSuccess<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let waits = |declaration: &Declaration| {
            declaration.request_id == message.request_id
                && matches!(declaration.stage, Stage::Transactions(_))
        };
        // It may have been given up; or it was never asked for, which costs nobody anything.
        let Some(mut declaration) = self.take(peer, waits) else {
            return self.metrics.unasked();
        };
        self.release(declaration.held_bytes());
        match supply(&mut declaration, message) {
            Ok(()) => {
                self.hold(declaration.held_bytes());
                self.advance(peer, declaration, now, out);
            }
            Err(refusal) => {
                self.used.put_back(&declaration.token);
                self.refuse(peer, declaration.request_id, &refusal, out);
            }
        }
    }

    /// A declaration whose transactions are there: to the check, or to wait, or refused.
    pub(super) fn advance(
        &mut self,
        peer: PeerId,
        mut declaration: Declaration,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let next = self.tip.map(|tip| tip.height + 1);
        let behind = next.is_some_and(|next| declaration.height < next);
        let ahead = next.is_some_and(|next| declaration.height > next);
        if behind || ahead {
            let tip = next.unwrap_or_default().saturating_sub(1);
            let details = format!("height {}, our tip is at {tip}", declaration.height);
            declaration.trouble = Refusal::new("stale-chain-tip", details);
        }
        if behind {
            return self.give_up(peer, declaration, out);
        }
        if ahead || next.is_none() {
            let deadline = declaration.received + self.settings.grace;
            // Transactions that came late have used up that time.
            declaration.stage = Stage::Tip(deadline.max(match declaration.stage {
                Stage::Tip(until) => until,
                _ => now.instant + self.settings.grace,
            }));
            return self.put_back(peer, declaration);
        }
        match self.enqueue(peer, &declaration, now, out) {
            Ok(Some(check)) => {
                declaration.stage = Stage::Check(check);
                self.put_back(peer, declaration);
            }
            Ok(None) => self.accept_known(peer, declaration, now, out),
            Err(refusal) => {
                declaration.trouble = refusal;
                self.give_up(peer, declaration, out);
            }
        }
    }

    /// Puts declarations that were in a check through [`advance`](Self::advance) again.
    pub(super) fn advance_all(
        &mut self,
        which: Vec<(PeerId, u32)>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        for (peer, request_id) in which {
            if let Some(declaration) = self.take(peer, |d| d.request_id == request_id) {
                self.advance(peer, declaration, now, out);
            }
        }
    }

    /// Those that wait for the tip which we have now. Where it is `new`, none has been tried on it.
    pub(super) fn advance_waiting_for_tip(
        &mut self,
        new: bool,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Some(next) = self.tip.map(|tip| tip.height + 1) else { return };
        let due = |d: &Declaration| {
            let waits = matches!(d.stage, Stage::Tip(_)) && d.height <= next;
            waits && (new || d.retry_at <= now.instant)
        };
        let mut which = Vec::new();
        for (peer, client) in &self.clients {
            which.extend(client.pending.iter().filter(|d| due(d)).map(|d| (*peer, d.request_id)));
        }
        self.advance_all(which, now, out);
    }

    /// Those that have waited too long.
    pub(super) fn give_up_late(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let late = |declaration: &Declaration| match declaration.stage {
            Stage::Transactions(until) | Stage::Tip(until) => until <= now.instant,
            Stage::Check(_) => false,
        };
        let mut which = Vec::new();
        for (peer, client) in &self.clients {
            which.extend(client.pending.iter().filter(|d| late(d)).map(|d| (*peer, d.request_id)));
        }
        for (peer, request_id) in which {
            let Some(mut declaration) = self.take(peer, |d| d.request_id == request_id) else {
                continue;
            };
            if matches!(declaration.stage, Stage::Transactions(_)) {
                declaration.trouble = Refusal::new("missing-txs", "not provided in time");
            }
            self.give_up(peer, declaration, out);
        }
    }

    /// Back to wait for our node, which is not where it was thought to be or does not answer.
    pub(super) fn wait_for_node(
        &mut self,
        peer: PeerId,
        request_id: u32,
        trouble: Refusal,
        now: Now,
    ) {
        let grace = self.settings.grace;
        let client = self.clients.get_mut(&peer);
        let declaration = client.and_then(|client| {
            client.pending.iter_mut().find(|declaration| declaration.request_id == request_id)
        });
        if let Some(declaration) = declaration {
            declaration.stage = Stage::Tip(declaration.received + grace);
            declaration.trouble = trouble;
            declaration.retry_at = now.instant + RETRY;
        }
    }

    /// The declaration is good: its token, and its job to be solved.
    pub(super) fn accept(
        &mut self,
        peer: PeerId,
        declaration: Declaration,
        job: &Arc<Job>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        self.release(declaration.held_bytes());
        let Declaration { request_id, token, received, .. } = declaration;
        let token = self.token(token.account, Grant::Declared(job.commitment), now);
        if let Ok(new_mining_job_token) = B0255::new(&token) {
            out.send(peer, &DeclareMiningJobSuccess { request_id, new_mining_job_token });
        }
        self.answered.0 += 1;
        self.metrics.accepted(now.instant.saturating_duration_since(received));
        if let Some(client) = self.clients.get_mut(&peer) {
            tracing::debug!(%peer, job = job.serial, height = job.height, "job accepted");
            client.accepted_total += 1;
            client.accepted.push_front(job.clone());
            client.accepted.truncate(KEPT_JOBS_PER_CLIENT);
        }
    }

    /// Ends a declaration with its trouble. A token whose job was never judged may be used again.
    pub(super) fn give_up(
        &mut self,
        peer: PeerId,
        declaration: Declaration,
        out: &mut Outbox<Effect>,
    ) {
        self.release(declaration.held_bytes());
        let Declaration { trouble, token, request_id, .. } = declaration;
        if matches!(trouble.code, "stale-chain-tip" | "internal-error" | "missing-txs") {
            self.used.put_back(&token);
        }
        self.refuse(peer, request_id, &trouble, out);
    }

    pub(super) fn fail(
        &mut self,
        peer: PeerId,
        mut declaration: Declaration,
        refusal: Refusal,
        out: &mut Outbox<Effect>,
    ) {
        declaration.trouble = refusal;
        self.give_up(peer, declaration, out);
    }

    /// Takes a pending declaration out; [`put_back`](Self::put_back) or answer it.
    pub(super) fn take(
        &mut self,
        peer: PeerId,
        which: impl Fn(&Declaration) -> bool,
    ) -> Option<Declaration> {
        let pending = &mut self.clients.get_mut(&peer)?.pending;
        let at = pending.iter().position(which)?;
        Some(pending.remove(at))
    }

    fn put_back(&mut self, peer: PeerId, declaration: Declaration) {
        match self.clients.get_mut(&peer) {
            Some(client) => client.pending.push(declaration),
            None => self.release(declaration.held_bytes()),
        }
    }

    fn refuse(
        &mut self,
        peer: PeerId,
        request_id: u32,
        refusal: &Refusal,
        out: &mut Outbox<Effect>,
    ) {
        let details = refusal.details.as_bytes();
        let message = DeclareMiningJobError {
            request_id,
            error_code: Str0255::cut(refusal.code),
            error_details: B064K::new(&details[..details.len().min(MAX_DETAILS)])
                .unwrap_or_default(),
        };
        out.send(peer, &message);
        tracing::debug!(%peer, request_id, code = refusal.code, details = refusal.details, "job refused");
        self.answered.1 += 1;
        self.metrics.refused(refusal.code);
        if let Some(client) = self.clients.get_mut(&peer) {
            client.refused_total += 1;
            let refused = Refused {
                remote: client.remote,
                code: refusal.code,
                details: refusal.details.clone(),
            };
            self.refusals.push_back(refused);
            if self.refusals.len() > SHOWN_REFUSALS {
                self.refusals.pop_front();
            }
        }
    }

    fn hold(&mut self, bytes: usize) {
        self.pending_bytes += bytes;
        self.metrics.pending(self.pending_bytes);
    }

    fn release(&mut self, bytes: usize) {
        self.pending_bytes -= bytes;
        self.metrics.pending(self.pending_bytes);
    }
}

/// Puts the transactions that a client provides where they belong: exactly those that were asked for, in order.
fn supply(
    declaration: &mut Declaration,
    message: &ProvideMissingTransactionsSuccess<'_>,
) -> Result<(), Refusal> {
    let missing: Vec<usize> = (0..declaration.transactions.len())
        .filter(|at| declaration.transactions[*at].is_none())
        .collect();
    let (given, asked) = (message.transaction_list.len(), missing.len());
    if given != asked {
        return Err(Refusal::new(
            "missing-txs",
            format_args!("{given} transactions provided, {asked} were asked for"),
        ));
    }
    let bytes: usize = message.transaction_list.iter().map(|raw| raw.as_bytes().len()).sum();
    if bytes > MAX_BLOCK_BYTES {
        return Err(Refusal::new("invalid-job", "more transactions than a block can hold"));
    }
    for (at, raw) in missing.into_iter().zip(message.transaction_list.iter()) {
        let (transaction, _) = Transaction::parse(raw.as_bytes())
            .map_err(|error| Refusal::new("missing-txs", format_args!("position {at}: {error}")))?;
        if transaction.wtxid != declaration.wtxids[at] {
            let details = format_args!("position {at}: another transaction than declared");
            return Err(Refusal::new("missing-txs", details));
        }
        declaration.transactions[at] =
            Some(Known { transaction: Arc::new(transaction), fee: None, is_extra: true });
    }
    declaration.supplied_bytes = bytes;
    Ok(())
}

/// Of a list of so many transactions: its hashes and pointers to what the mirror has.
fn held_bytes(transactions: usize, prefix: &[u8], suffix: &[u8]) -> usize {
    transactions * (32 + size_of::<Option<Known>>()) + prefix.len() + suffix.len() + 500
}

/// Between two tries to have the node judge a job that it could not.
const RETRY: Duration = Duration::from_millis(500);
/// The smallest transaction has 60 bytes and no witness.
const MAX_TRANSACTIONS: usize = 4_000_000 / 240;
/// No serialized block is larger.
const MAX_BLOCK_BYTES: usize = 4_000_000;
/// Declarations over the rate that are answered; after that the client is sent away.
const MAX_OVER_RATE: u32 = 100;
/// Accepted jobs of a client whose solutions are taken: it should only solve the last (spec 6.4.9).
const KEPT_JOBS_PER_CLIENT: usize = 4;
/// Of `error_details`.
const MAX_DETAILS: usize = 500;
/// In `/status`.
const SHOWN_REFUSALS: usize = 20;
