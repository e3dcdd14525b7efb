//! The way of a claim: its transactions, a token, `DeclareMiningJob`, `SetCustomMiningJob`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_sv2::codec::{B032, B064K, B0255, Seq064K};
use adit_sv2::messages::job_declaration::{DeclareMiningJob, PushSolution};
use adit_sv2::messages::template_distribution::{
    RequestTransactionData, RequestTransactionDataSuccess,
};
use adit_transport::{Now, Outbox};

use super::claim::{Accepted, Claim, ForWhom, Step, TxData};
use super::shares::Onward;
use super::source::Source;
use super::upstream::Upstream;
use super::{Core, Effect};
use crate::config::Mode;

/// A claim that is refused because the other end is on another tip is tried again after this time.
const STALE_RETRY: Duration = Duration::from_millis(250);
/// So often it is tried again, and where a token is refused.
const MAX_RETRIES: u32 = 20;
const MAX_TOKEN_RETRIES: u32 = 2;
/// One that comes too soon for the other end.
const BUSY_RETRY: Duration = Duration::from_secs(1);
const MAX_BUSY_RETRIES: u32 = 5;
/// Declarations of which a JDS has not answered one yet: what is older waits, and is overtaken by what is newer.
const MAX_UNANSWERED: usize = 3;
/// A pool's new target counts for jobs set after it (spec 5.3.21): a job is set again so long after it, ...
const RENEW_AFTER: Duration = Duration::from_millis(500);
/// ... but not sooner than this after it was accepted, ...
const RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// ... and only where the target moved by this factor.
const RENEW_FACTOR: f64 = 1.1;

impl Core {
    /// Whom claims are declared to.
    pub(super) fn declares_to(&self) -> Option<usize> {
        match self.source {
            Some(Source::Declared(index) | Source::Kept(index)) => Some(index),
            _ => None,
        }
    }

    /// Takes every claim as far as it can go now, the newest first.
    pub(super) fn advance(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let Some(index) = self.declares_to() else { return };
        self.give_up_outdated(index);
        self.renew(index, now);
        if self.upstreams[index].trouble.is_some() {
            return;
        }
        for at in (0..self.desk.claims.len()).rev() {
            let asked = |claim: &&Claim| matches!(claim.step, Step::Declared { .. });
            let unanswered = self.desk.claims.iter().filter(asked).count();
            let claim = &self.desk.claims[at];
            if matches!(claim.step, Step::Token { .. }) && unanswered >= MAX_UNANSWERED {
                continue;
            }
            if claim.key.for_whom.upstream() == Some(index) && claim.is_on_its_way() {
                self.advance_claim(index, at, now, out);
            }
        }
        self.restock(index, now, out);
    }

    fn advance_claim(&mut self, index: usize, at: usize, now: Now, out: &mut Outbox<Effect>) {
        let Self { desk, providers, upstreams, settings, .. } = self;
        let (Some(claim), Some(upstream)) = (desk.claims.get_mut(at), upstreams.get_mut(index))
        else {
            return;
        };
        let full = settings.mode == Mode::FullTemplate;
        if full && claim.data.is_none() && matches!(claim.step, Step::Token { .. }) {
            claim.step = Step::Data { asked: false };
        }
        if let Step::Data { asked } = &mut claim.step {
            if claim.data.is_none() {
                if let (false, Some((provider, template_id))) = (*asked, claim.key.template)
                    && let Some(peer) = providers.get(provider).and_then(|p| p.ready())
                {
                    *asked = true;
                    out.send(peer, &RequestTransactionData { template_id });
                }
                return;
            }
            claim.step = Step::Token { not_before: None };
        }
        if let Step::Token { not_before } = claim.step
            && not_before.is_none_or(|time| now.instant >= time)
            && upstream.jds.state.ready().is_some()
        {
            // Its outputs are those of the claim, or there would be another generation.
            let Some(token) = upstream.jds.tokens.pop_front() else { return };
            if full {
                declare(claim, upstream, &token.bytes, out);
            } else {
                claim.step = Step::Pool { token: token.bytes };
            }
        }
        if let Step::Pool { token } = &claim.step
            && let Some(request_id) = propose(claim, upstream, token, out)
        {
            claim.step = Step::Proposed { request_id };
        }
    }

    /// Gives up claims for other outputs or another prefix than the upstream has now: none of them can be set there any
    /// more, unless that was asked for already.
    fn give_up_outdated(&mut self, index: usize) {
        let present = ForWhom::Upstream { index, generation: self.upstreams[index].generation };
        let mut lost = 0;
        for claim in self.desk.of_upstream(index) {
            let asked = matches!(claim.step, Step::Proposed { .. });
            if claim.key.for_whom != present && claim.is_on_its_way() && !asked {
                lost += claim.abandon();
            }
        }
        self.metrics.onward("lost", lost as u64);
    }

    /// Sets the newest job again where the pool's target moved since it was accepted, which takes a JDS.
    fn renew(&mut self, index: usize, now: Now) {
        if self.upstreams[index].jds.state.ready().is_none() {
            return;
        }
        let Some(channel) = &mut self.upstreams[index].pool.channel else { return };
        let Some(claim) = self.desk.claims.back_mut() else { return };
        let (Some(since), Some(accepted)) = (channel.retargeted, claim.accepted) else { return };
        let ready = now.instant.duration_since(since) >= RENEW_AFTER
            && now.instant.duration_since(accepted.at) >= RENEW_INTERVAL
            && claim.step == Step::Rest;
        if !ready || claim.key.for_whom.upstream() != Some(index) || claim.custom.is_none() {
            return;
        }
        channel.retargeted = None;
        let moved = channel.target.to_f64() / accepted.target.to_f64();
        if !(1.0 / RENEW_FACTOR..=RENEW_FACTOR).contains(&moved) {
            claim.step = Step::Token { not_before: None };
            claim.since = now.instant;
        }
    }

    /// A claim that takes too long is a failure of the upstream.
    pub(super) fn check_declarations(&mut self, now: Now) {
        let Some(index) = self.declares_to() else { return };
        // What waits for a JDS that is away waits for its return: whether that is missed the choice of the source says.
        if self.upstreams[index].jds.state.ready().is_none() {
            for claim in self.desk.of_upstream(index) {
                if matches!(claim.step, Step::Token { .. }) {
                    claim.since = now.instant;
                }
            }
        }
        let timeout = self.settings.answer_timeout;
        let late = |claim: &Claim| {
            let ours = claim.key.for_whom.upstream() == Some(index);
            let asked = !matches!(claim.step, Step::Rest | Step::Data { .. });
            ours && asked && now.instant.duration_since(claim.since) >= timeout
        };
        let Some(claim) = self.desk.claims.iter().find(|claim| late(claim)) else { return };
        let reason = match claim.step {
            Step::Declared { .. } => "its JDS does not answer a declaration",
            Step::Proposed { .. } => "it does not answer a custom job",
            _ => "no token or no channel for too long",
        };
        if matches!(self.source, Some(Source::Declared(_))) {
            self.metrics.declaration("timeout");
            self.fail_upstream(index, reason, now);
        }
    }

    /// The template provider's answer.
    pub(super) fn transaction_data(
        &mut self,
        provider: usize,
        message: &RequestTransactionDataSuccess<'_>,
    ) {
        let wanted = Some((provider, message.template_id));
        let mut data = None;
        for claim in &mut self.desk.claims {
            if matches!(claim.step, Step::Data { .. }) && claim.key.template == wanted {
                let data = data.get_or_insert_with(|| Arc::new(TxData::new(message)));
                claim.data = Some(data.clone());
            }
        }
    }

    /// It has them no more. A newer template, which it has, is on its way.
    pub(super) fn no_transaction_data(&mut self, provider: usize, template_id: u64, code: &str) {
        tracing::warn!(template_id, code, "no transactions of a template");
        for claim in &mut self.desk.claims {
            let wanted = matches!(claim.step, Step::Data { .. });
            if wanted && claim.key.template == Some((provider, template_id)) {
                self.metrics.declaration("no-transactions");
                let lost = claim.abandon();
                self.metrics.onward("lost", lost as u64);
            }
        }
    }

    /// A provider is back that was asked and cannot answer any more.
    pub(super) fn ask_for_data_again(&mut self, provider: usize, out: &mut Outbox<Effect>) {
        let Some(peer) = self.providers[provider].ready() else { return };
        for claim in &self.desk.claims {
            if claim.step == (Step::Data { asked: true })
                && let Some((its, template_id)) = claim.key.template
                && its == provider
            {
                out.send(peer, &RequestTransactionData { template_id });
            }
        }
    }

    /// `DeclareMiningJob.Success`.
    pub(super) fn declared(
        &mut self,
        index: usize,
        request_id: u32,
        token: &[u8],
        out: &mut Outbox<Effect>,
    ) {
        let Some(claim) = self.desk.declaring(index, request_id) else { return };
        claim.step = Step::Pool { token: token.to_vec() };
        claim.declared = true;
        self.metrics.declaration("declared");
        let pushes = std::mem::take(&mut claim.pushes);
        pushes.iter().for_each(|share| push(claim, &self.upstreams[index], share, out));
    }

    /// `DeclareMiningJob.Error`.
    pub(super) fn declaration_refused(
        &mut self,
        index: usize,
        request_id: u32,
        code: &str,
        details: &str,
        now: Now,
    ) {
        let Some(claim) = self.desk.declaring(index, request_id) else { return };
        let id = claim.id;
        tracing::warn!(code, details, "declaration refused by the JDS");
        self.refused(index, id, code, "its JDS refuses a declaration", now);
    }

    /// `SetCustomMiningJob.Success`: shares that waited for it go to the pool.
    pub(super) fn custom_job_accepted(
        &mut self,
        index: usize,
        request_id: u32,
        job_id: u32,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let upstream = &mut self.upstreams[index];
        let Some(channel) = &mut upstream.pool.channel else { return };
        let (session, target) = (channel.session, channel.target);
        // From now on the pool has none for us: what it gave before gets old.
        channel.own = None;
        let Some(claim) = self.desk.proposing(index, request_id) else { return };
        upstream.proved_well();
        claim.step = Step::Rest;
        let first = claim.accepted.is_none();
        claim.accepted = Some(Accepted { session, job_id, target, at: now.instant });
        if first {
            self.metrics.accepted_after(now.instant.duration_since(claim.made));
        }
        self.metrics.declaration("accepted");
        for share in claim.cache.take() {
            if share.is_block || target.is_met_by(&share.hash) {
                self.send_share(index, job_id, &share, now, out);
            } else {
                self.metrics.onward("below-target", 1);
            }
        }
    }

    /// A job of the pool's own needs no word of it.
    pub(super) fn accept_own(&mut self, index: usize, session: u64, job_id: u32, now: Now) {
        let Some(channel) = &self.upstreams[index].pool.channel else { return };
        let target = channel.target;
        if let Some(claim) = self.desk.claims.back_mut() {
            claim.accepted = Some(Accepted { session, job_id, target, at: now.instant });
        }
    }

    /// `SetCustomMiningJob.Error`.
    pub(super) fn custom_job_refused(
        &mut self,
        index: usize,
        request_id: u32,
        code: &str,
        now: Now,
    ) {
        let Some(claim) = self.desk.proposing(index, request_id) else { return };
        let id = claim.id;
        tracing::warn!(code, "custom job refused by the pool");
        self.refused(index, id, code, "it refuses a custom job", now);
    }

    /// What may be our own lateness, or theirs, is tried again; anything else is a failure of the upstream.
    fn refused(&mut self, index: usize, id: u32, code: &str, what: &str, now: Now) {
        self.metrics.declaration_refused(code);
        let Self { desk, upstreams, .. } = self;
        let Some(claim) = desk.get_mut(id) else { return };
        claim.retries += 1;
        let (most, delay) = match code {
            "stale-chain-tip" => (MAX_RETRIES, STALE_RETRY),
            "invalid-mining-job-token" => {
                // The others are as old.
                upstreams[index].jds.tokens.clear();
                (MAX_TOKEN_RETRIES, Duration::ZERO)
            }
            "server-busy" | "too-many-declarations" | "too-many-requests" => {
                (MAX_BUSY_RETRIES, BUSY_RETRY)
            }
            _ => (0, Duration::ZERO),
        };
        if claim.retries <= most {
            claim.step = Step::Token { not_before: Some(now.instant + delay) };
            return;
        }
        // Shares wait on: where there is nobody else to work for, it is tried again.
        claim.step = Step::Token { not_before: None };
        self.fail_upstream(index, &format!("{what}: {code}"), now);
    }

    /// An upstream that failed and that is still worked for, for want of another, is asked again.
    pub(super) fn restart_claims(&mut self, index: usize, now: Instant) {
        for claim in self.desk.of_upstream(index).filter(|claim| claim.is_on_its_way()) {
            claim.step = claim.restart();
            (claim.since, claim.retries) = (now, 0);
        }
    }

    /// A block for the JDS: now, and where the JDS may not have the job yet once it has.
    pub(super) fn push_solution(
        &mut self,
        claim_id: u32,
        share: &Onward,
        out: &mut Outbox<Effect>,
    ) {
        if self.settings.mode != Mode::FullTemplate {
            return;
        }
        let Some(claim) = self.desk.get_mut(claim_id) else { return };
        let Some(index) = claim.key.for_whom.upstream().filter(|_| claim.custom.is_some()) else {
            return;
        };
        if claim.declared {
            push(claim, &self.upstreams[index], share, out);
        } else if claim.pushes.len() < MAX_PUSHES {
            claim.pushes.push(share.clone());
        }
    }
}

/// Blocks that wait for a declaration: more than one only on a chain whose blocks are easier than shares.
const MAX_PUSHES: usize = 16;

fn declare(claim: &mut Claim, upstream: &mut Upstream, token: &[u8], out: &mut Outbox<Effect>) {
    let (Some(peer), Some(data)) = (upstream.jds.state.ready(), claim.data.clone()) else {
        claim.step = Step::Data { asked: false };
        return;
    };
    let (prefix, suffix) = (claim.coinbase.declared_prefix(), claim.coinbase.declared_suffix());
    let request_id = upstream.jds.next_request_id();
    let message = || {
        Some(DeclareMiningJob {
            request_id,
            mining_job_token: B0255::new(token).ok()?,
            version: claim.custom.as_ref()?.version,
            coinbase_tx_prefix: B064K::new(&prefix).ok()?,
            coinbase_tx_suffix: B064K::new(&suffix).ok()?,
            wtxid_list: Seq064K::new(&data.wtxids).ok()?,
            excess_data: B064K::new(&data.excess_data).ok()?,
        })
    };
    match message() {
        Some(message) => {
            out.send(peer, &message);
            claim.step = Step::Declared { request_id };
            tracing::debug!(claim = claim.id, request_id, jds = upstream.jds.name, "declared");
        }
        None => {
            tracing::error!("a template that cannot be declared");
            claim.abandon();
        }
    }
}

/// Sets a job at the pool; returns the request's id.
fn propose(
    claim: &Claim,
    upstream: &mut Upstream,
    token: &[u8],
    out: &mut Outbox<Effect>,
) -> Option<u32> {
    let peer = upstream.pool.state.ready()?;
    // Made for a channel with another prefix or size, it would be another job there.
    let channel = upstream.pool.channel.as_ref()?;
    if upstream.pool.layout != Some(claim.layout) {
        return None;
    }
    let request_id = upstream.jds.next_request_id();
    let message =
        claim.custom.as_ref()?.message(channel.id, request_id, B0255::new(token).ok()?)?;
    out.send(peer, &message);
    Some(request_id)
}

/// To the JDS, which publishes the block as well (spec 6.4.9).
fn push(claim: &Claim, upstream: &Upstream, share: &Onward, out: &mut Outbox<Effect>) {
    let Some(peer) = upstream.jds.state.ready() else { return };
    let full = [claim.layout.prefix.as_bytes(), share.extranonce.as_bytes()].concat();
    let Ok(extranonce) = B032::new(&full) else { return };
    let message = PushSolution {
        extranonce,
        prev_hash: claim.tip.prev_hash,
        nonce: share.nonce,
        ntime: share.ntime,
        nbits: claim.tip.nbits,
        version: share.version,
    };
    out.send(peer, &message);
    tracing::info!(hash = %share.hash, jds = upstream.jds.name, "block pushed");
}
