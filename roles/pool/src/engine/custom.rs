//! Jobs that clients choose themselves (`SetCustomMiningJob`, spec 5.3.18).
//!
//! A token of a Job Declarator Server says what its holder may mine on. One for a declared job binds every field that
//! decides which blocks can come of it, and the server has looked at its transactions; one that was merely allocated
//! binds nothing, so the coinbase itself is looked at, and what it claims about fees is believed.
//!
//! A channel whose client has brought a job is sent none of ours. It is again where its own has had its time and no
//! other came, or where one is refused and there is none on the tip: so the miners behind it never stand still. Where
//! other channels of its group work on ours, it leaves the group for another one meanwhile (`SetGroupChannel`).

mod unseen;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_job_declaration::{CoinbaseOutputs, Commitment, Grant, Token, TokenError, UsedTokens};
use adit_mining::channel::CustomError;
use adit_mining::{
    ChannelKind, CoinbaseError, CustomJob, JobError, JobTableError, Portion, Target, Tip,
    share::MAX_NTIME_AHEAD,
};
use adit_sv2::codec::Str0255;
use adit_sv2::keys::AuthorityPublicKey;
use adit_sv2::messages::mining::{
    SetCustomMiningJob, SetCustomMiningJobError, SetCustomMiningJobSuccess,
};
use adit_transport::{Now, Outbox, PeerId};

use super::channel::Channel;
use super::downstream::Miner;
use super::work::Base;
use super::{Core, Effect};
use crate::config::{self, Network};
use unseen::Unseen;

/// What the pool needs to judge custom jobs.
#[derive(Debug)]
pub(super) struct Declarations {
    keys: Vec<AuthorityPublicKey>,
    coinbase_only: bool,
    pub(super) grace: Duration,
    per_minute: u32,
    /// The scripts that a job must pay.
    scripts: Vec<Vec<u8>>,
    /// Blocks between two halvings of the subsidy.
    halving: u32,
    used: UsedTokens,
    unseen: Unseen,
    /// Since the start, by result.
    pub(super) results: BTreeMap<&'static str, u64>,
}

/// Tokens that are remembered until they expire: 18 a second at the default lifetime of two hours; 7 MiB.
const MAX_USED_TOKENS: usize = 1 << 17;
/// Previous hashes that the pool has not seen and one connection may have jobs on at a time: against a client that makes
/// them up.
const MAX_AHEAD: usize = 8;
/// What was paid on a previous hash that was given its time and did not come is known for so long ...
const REMEMBERED: Duration = Duration::from_secs(600);
/// ... or until so many others.
const MAX_REMEMBERED: usize = 64;
/// A token that nobody signed costs as much as so many requests: its check is what is dear.
const FORGED: f64 = 20.0;
/// What is done for a request may be done for each channel of the connection: so many more cost another request, up to all
/// that a minute has.
const CHANNELS_PER_REQUEST: usize = 64;
/// How far below the tip's a job's least nTime may be, in seconds: both are some node's clock or median time.
const MAX_NTIME_BEHIND: u32 = 2 * 60 * 60;
/// More steps than the largest block has.
const MAX_MERKLE_STEPS: usize = 32;
/// Locktimes below are heights (BIP65).
const LOCKTIME_THRESHOLD: u32 = 500_000_000;
/// Version bits that miners may roll (BIP323).
const ROLLABLE: u32 = adit_mining::job::VERSION_ROLLING_MASK;

impl Declarations {
    /// None where no key is configured.
    pub(super) fn new(
        config: &config::JobDeclaration,
        network: Network,
        scripts: Vec<Vec<u8>>,
    ) -> Option<Self> {
        (!config.token_keys.is_empty()).then(|| Self {
            keys: config.token_keys.clone(),
            coinbase_only: config.coinbase_only,
            grace: Duration::from_secs(config.grace_secs),
            per_minute: config.max_per_minute,
            scripts,
            halving: if network == Network::Regtest { 150 } else { 210_000 },
            used: UsedTokens::new(MAX_USED_TOKENS),
            unseen: Unseen::default(),
            results: BTreeMap::new(),
        })
    }

    /// With what was learnt under former rules: tokens that are used are used, and a tip to come that had its time had it.
    pub(super) fn after(mut self, old: Option<Self>) -> Self {
        if let Some(old) = old {
            (self.used, self.unseen, self.results) = (old.used, old.unseen, old.results);
        }
        self
    }

    /// False where it was used before.
    pub(super) fn use_up(&mut self, token: &Token, now: u32) -> bool {
        self.used.take(token, now)
    }

    /// New coins of a block, in satoshis.
    fn subsidy(&self, height: u32) -> u64 {
        (50 * 100_000_000u64).checked_shr(height / self.halving).unwrap_or(0)
    }

    /// How much of a job's work is paid: the part of the block's value that the pool gets. The value is what the
    /// coinbase pays out in all, or the subsidy where it is less: what is burnt is paid to nobody.
    fn paid(&self, job: &CustomJob, base: &Base) -> Result<Paid, Refused> {
        let outputs = CoinbaseOutputs::parse(&job.coinbase_tx_outputs)
            .map_err(|_| Refused::field("invalid-coinbase-tx-outputs"))?;
        let to_pool = outputs.paid_to(&self.scripts);
        if to_pool == 0 {
            return Err(Refused { code: "invalid-coinbase-tx-outputs", label: "pool-not-paid" });
        }
        let subsidy = base.height.map_or(0, |height| self.subsidy(height));
        Ok(Paid { to_pool, total: outputs.total().max(subsidy) })
    }
}

/// What a custom job pays, in satoshis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paid {
    pub(super) to_pool: u64,
    pub(super) total: u64,
}

/// The newest custom job of a channel.
#[derive(Clone, Debug)]
pub(super) struct Current {
    pub(super) job_id: u32,
    pub(super) declared: bool,
    pub(super) prev_hash: [u8; 32],
    pub(super) paid: Paid,
    pub(super) merkle_steps: usize,
    pub(super) since: Instant,
    /// It, or one before it, was for a tip that the pool had not seen.
    pub(super) was_ahead: bool,
}

/// What one connection does with custom jobs.
#[derive(Debug, Default)]
pub(super) struct Custom {
    /// The client has brought a job that was taken.
    used: bool,
    /// Some channel may work on one now.
    pub(super) in_force: bool,
    graces: Vec<Grace>,
    /// Requests that may come at once, and when that was counted.
    allowance: Option<(f64, Instant)>,
}

/// A previous hash that is not the pool's tip: not yet, or no longer.
#[derive(Clone, Copy, Debug)]
struct Grace {
    prev_hash: [u8; 32],
    nbits: u32,
    /// Jobs on it are stale from then on.
    until: Instant,
    over: bool,
    /// The pool has not seen it.
    ahead: bool,
}

/// A custom job is not taken.
#[derive(Clone, Copy, Debug)]
struct Refused {
    /// `SetCustomMiningJob.Error.error_code`.
    code: &'static str,
    /// What it is counted under: tells apart what shares a code.
    label: &'static str,
}

impl Refused {
    fn field(code: &'static str) -> Self {
        Self { code, label: code }
    }
}

const STALE: Refused = Refused { code: "stale-chain-tip", label: "stale-chain-tip" };
const REUSED: Refused = Refused { code: TokenError::ERROR_CODE, label: "token-reused" };

impl From<TokenError> for Refused {
    fn from(error: TokenError) -> Self {
        let label = match error {
            TokenError::Malformed(_) | TokenError::Format(_) | TokenError::Kind(_) => {
                "token-malformed"
            }
            TokenError::UnknownKey => "token-unknown-key",
            TokenError::Expired { .. } => "token-expired",
            TokenError::OtherAccount => "token-foreign",
        };
        Self { code: TokenError::ERROR_CODE, label }
    }
}

impl From<CustomError> for Refused {
    fn from(error: CustomError) -> Self {
        Self::field(match error {
            CustomError::UnknownChannel(_) => "invalid-channel-id",
            CustomError::Job(JobError::MerklePath { .. }) => "invalid-merkle-path",
            CustomError::ExtranoncePlace
            | CustomError::Job(JobError::Coinbase(CoinbaseError::ScriptSigTooLong { .. })) => {
                "invalid-coinbase-prefix"
            }
            CustomError::Job(JobError::Coinbase(
                CoinbaseError::BadOutputs | CoinbaseError::OutputCount { .. },
            )) => "invalid-coinbase-tx-outputs",
            CustomError::Table(JobTableError::Repeated) => "repeated-custom-job",
            CustomError::Table(JobTableError::TooManyJobs) => "too-many-custom-jobs",
            _ => "invalid-coinbase-tx",
        })
    }
}

impl Miner {
    /// The client brings a job.
    pub(super) fn set_custom_job(
        &mut self,
        peer: PeerId,
        message: &SetCustomMiningJob<'_>,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let (channel_id, request_id) = (message.channel_id, message.request_id);
        let asked = self.custom_job_for(channel_id, core, now);
        let concerned = asked.as_ref().map_or(&[][..], Vec::as_slice);
        let taken = match &asked {
            Ok(targets) => self.take_custom_job(message, targets, core, now),
            Err(refused) => Err(*refused),
        };
        match taken {
            Ok(job_id) => {
                tracing::debug!(%peer, channel_id, request_id, job_id, "custom job");
                core.count_custom_job("accepted");
                out.send(peer, &SetCustomMiningJobSuccess { channel_id, request_id, job_id });
                (self.custom.used, self.custom.in_force) = (true, true);
                self.regroup(peer, out);
            }
            Err(Refused { code, label }) => {
                tracing::debug!(%peer, channel_id, request_id, label, "custom job refused");
                core.count_custom_job(label);
                let error_code = Str0255::cut(code);
                out.send(peer, &SetCustomMiningJobError { channel_id, request_id, error_code });
                self.take_templates_again(peer, concerned, core, out);
            }
        }
    }

    /// Which channels a request is for. Where nothing can come of it this costs no more than the answer, however many
    /// channels there are: nothing limits how often it is asked.
    fn custom_job_for(
        &mut self,
        channel_or_group: u32,
        core: &Core,
        now: Now,
    ) -> Result<Vec<u32>, Refused> {
        let Some(rules) = &core.declarations else {
            return Err(Refused::field("jd-not-supported"));
        };
        if !self.session.work_selection {
            return Err(Refused::field("work-selection-not-negotiated"));
        }
        if !self.custom.may_ask(rules.per_minute, now.instant) {
            return Err(Refused::field("too-many-requests"));
        }
        let channels = (self.channels.len() / CHANNELS_PER_REQUEST) as f64;
        self.custom.charge(channels.min(f64::from(rules.per_minute)));
        let targets = self.custom_targets(channel_or_group);
        if targets.is_empty() {
            return Err(Refused::field("invalid-channel-id"));
        }
        Ok(targets)
    }

    fn take_custom_job(
        &mut self,
        message: &SetCustomMiningJob<'_>,
        targets: &[u32],
        core: &mut Core,
        now: Now,
    ) -> Result<u32, Refused> {
        let Some(rules) = &mut core.declarations else {
            return Err(Refused::field("jd-not-supported"));
        };
        let token = message.mining_job_token.as_bytes();
        let token = Token::verify(token, &rules.keys, now.unix_secs()).inspect_err(|error| {
            if *error == TokenError::UnknownKey {
                self.custom.charge(FORGED);
            }
        })?;
        for id in targets {
            let account = self.channels.get(*id).map(|channel| &channel.tally.identity.account);
            token.check_account(account.map_or(&[], |account| account.as_bytes()))?;
        }
        if rules.used.contains(token.id) {
            return Err(REUSED);
        }
        let base =
            self.custom.base(message, core.bench.base_for(&message.prev_hash), rules, now)?;
        let job = CustomJob::from(message);
        check_times(&job, &base, now)?;
        match &token.grant {
            Grant::Declared(commitment) => commitment
                .check(&Commitment::of(message))
                .map_err(|field| Refused::field(field.error_code()))?,
            Grant::Allocated { .. } if rules.coinbase_only => {
                check_coinbase(&job, &base, core.bench.version())?;
            }
            Grant::Allocated { .. } => return Err(Refused::field("job-not-yet-validated")),
        }
        let paid = rules.paid(&job, &base)?;
        let portion = Portion::new(paid.to_pool, paid.total);
        let job_id = core.bench.allocate_id();
        let rolling = core.settings.offer.version_rolling;
        let tip = &base.tip;
        self.channels.add_custom_job(message.channel_id, job_id, &job, rolling, tip, portion)?;
        rules.use_up(&token, now.unix_secs());
        if let Some(until) = base.until {
            self.custom.allow(&base, until);
            if base.is_ahead() {
                rules.unseen.begin(job.prev_hash, until);
            }
        }
        for id in targets {
            if let Some(channel) = self.channels.get_mut(*id) {
                let was_ahead = channel.custom.as_ref().is_some_and(|before| before.was_ahead);
                channel.server.set_own_work(true);
                channel.custom = Some(Box::new(Current {
                    job_id,
                    declared: matches!(token.grant, Grant::Declared(_)),
                    prev_hash: job.prev_hash,
                    paid,
                    merkle_steps: job.merkle_path.len(),
                    since: now.instant,
                    was_ahead: was_ahead || base.is_ahead(),
                }));
            }
        }
        Ok(job_id)
    }

    /// The extended channels that a custom job for this channel or group is for.
    fn custom_targets(&self, channel_or_group: u32) -> Vec<u32> {
        let extended = |channel: &&Channel| channel.server.kind() == ChannelKind::Extended;
        let id = |channel: &Channel| channel.server.id();
        match self.channels.group(channel_or_group) {
            Some(group) => self.channels.members(group.id).filter(extended).map(id).collect(),
            None => {
                self.channels.get(channel_or_group).filter(extended).map(id).into_iter().collect()
            }
        }
    }

    /// The pool has another tip than this one: jobs on it have a little time left.
    ///
    /// `ours` are all tips of the pool that jobs are still taken on.
    pub(super) fn tip_changed(&mut self, old: &Base, new: &Tip, ours: &[[u8; 32]], until: Instant) {
        if self.session.work_selection {
            let known = self.custom.graces.iter().map(|grace| &grace.prev_hash);
            for channel in self.channels.iter_mut() {
                channel.server.forget_other_tips(ours.iter().chain(known.clone()));
            }
        }
        if let Some(at) = self.custom.graces.iter().position(|g| g.prev_hash == new.prev_hash) {
            // The client was ahead. What it said of this tip counts only where it is true.
            let ahead = self.custom.graces.swap_remove(at);
            if ahead.nbits != new.nbits {
                self.retire(&new.prev_hash);
            }
        }
        if self.works_on_its_own() {
            self.custom.allow(old, until);
        }
    }

    /// About once a second: what has had its time is stale, and who has nothing left of its own gets our work.
    pub(super) fn expire_custom_jobs(
        &mut self,
        peer: PeerId,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        if self.custom.graces.is_empty() && !self.works_on_its_own() {
            self.custom.in_force = false;
            return;
        }
        let mut graces = std::mem::take(&mut self.custom.graces);
        graces.retain_mut(|grace| {
            if now.instant >= grace.until && !grace.over {
                grace.over = true;
                self.retire(&grace.prev_hash);
            }
            // The bench remembers what was the pool's own.
            !grace.over || grace.ahead && now.instant < grace.until + REMEMBERED
        });
        self.custom.graces = graces;
        if self.custom.graces.iter().all(|grace| grace.over) {
            let all: Vec<u32> = self.channels.iter().map(|channel| channel.server.id()).collect();
            self.take_templates_again(peer, &all, core, out);
        }
    }

    /// Jobs on this previous hash are stale; where our work is in force that is about custom jobs only.
    fn retire(&mut self, prev_hash: &[u8; 32]) {
        for channel in self.channels.iter_mut() {
            match channel.server.has_own_work() {
                true => channel.server.retire_tip(prev_hash),
                false => channel.server.retire_custom_jobs_on(prev_hash),
            }
        }
    }

    /// Our work again for these channels, but for those whose client has a job of its own on the tip.
    fn take_templates_again(
        &mut self,
        peer: PeerId,
        channel_ids: &[u32],
        core: &mut Core,
        out: &mut Outbox<Effect>,
    ) {
        let Some(tip) = core.bench.tip() else { return };
        let mut back = false;
        for id in channel_ids {
            let Some(channel) = self.channels.get_mut(*id) else { continue };
            let server = &mut channel.server;
            if server.has_own_work() && !server.has_custom_job_on(&tip.prev_hash) {
                server.set_own_work(false);
                back = true;
            }
        }
        if back {
            self.regroup(peer, out);
            self.custom.in_force = self.works_on_its_own();
            core.bench.send_newest_to_all(peer, &mut self.channels, out);
        }
    }

    /// Whether any channel works on jobs of its client.
    fn works_on_its_own(&self) -> bool {
        self.custom.used && self.channels.iter().any(|channel| channel.server.has_own_work())
    }

    /// Groups as they should be with a channel that was opened: work for all channels, of which there may be thousands.
    pub(super) fn regroup_opened(&mut self, peer: PeerId, out: &mut Outbox<Effect>) {
        if self.custom.in_force {
            self.regroup(peer, out);
        }
    }

    /// Groups as they should be, after a channel began to work on jobs of its own, or ours.
    pub(super) fn regroup(&mut self, peer: PeerId, out: &mut Outbox<Effect>) {
        if self.custom.used {
            out.say(peer, |bytes| _ = self.channels.regroup(bytes));
        }
    }
}

impl Custom {
    /// A bucket that a minute fills.
    fn may_ask(&mut self, per_minute: u32, now: Instant) -> bool {
        let full = f64::from(per_minute);
        let (left, since) = self.allowance.unwrap_or((full, now));
        let filled = now.saturating_duration_since(since).as_secs_f64() * full / 60.0;
        let left = (left + filled).min(full);
        let may = left >= 1.0;
        self.allowance = Some((if may { left - 1.0 } else { left }, now));
        may
    }

    /// What was asked cost more than a request does.
    fn charge(&mut self, requests: f64) {
        if let Some((left, _)) = &mut self.allowance {
            *left -= requests;
        }
    }

    /// What a job builds on, if it may.
    fn base(
        &self,
        message: &SetCustomMiningJob<'_>,
        known: Option<Base>,
        rules: &mut Declarations,
        now: Now,
    ) -> Result<Base, Refused> {
        let now = now.instant;
        let same = |base: &Base| base.tip.prev_hash == message.prev_hash;
        let base = match known.ok_or(STALE)? {
            // Ours, or ours a moment ago.
            base if same(&base) => match base.since_left.map(|left| left + rules.grace) {
                Some(until) if until <= now => return Err(STALE),
                until => Base { until, ..base },
            },
            // One that may be about to come.
            ours => {
                match self.graces.iter().find(|grace| grace.prev_hash == message.prev_hash) {
                    // What was said of it first is what is compared when it comes.
                    Some(said) if said.nbits != message.nbits => {
                        return Err(Refused::field("invalid-nbits"));
                    }
                    None if self.ahead() >= MAX_AHEAD => return Err(STALE),
                    _ => {}
                }
                let until =
                    rules.unseen.until(&message.prev_hash, rules.grace, now).ok_or(STALE)?;
                let target = plausible_target(message.nbits, ours.tip.network_target)
                    .ok_or(Refused::field("invalid-nbits"))?;
                // Time does not run back from one block to the next.
                let min_ntime = ours.tip.min_ntime;
                let tip = Tip::new(message.prev_hash, min_ntime, message.nbits, target);
                let height = ours.height.map(|height| height + 1);
                Base { tip: Arc::new(tip), height, since_left: None, until: Some(until) }
            }
        };
        if base.tip.nbits != message.nbits {
            return Err(Refused::field("invalid-nbits"));
        }
        Ok(base)
    }

    /// Previous hashes that have jobs and may yet come.
    fn ahead(&self) -> usize {
        self.graces.iter().filter(|grace| grace.ahead && !grace.over).count()
    }

    /// Jobs on this are good until then.
    fn allow(&mut self, base: &Base, until: Instant) {
        let Tip { prev_hash, nbits, .. } = *base.tip;
        if self.graces.iter().any(|grace| grace.prev_hash == prev_hash) {
            return;
        }
        if self.graces.len() >= MAX_REMEMBERED
            && let Some(oldest) = self.graces.iter().position(|grace| grace.over)
        {
            self.graces.remove(oldest);
        }
        let ahead = base.is_ahead();
        self.graces.push(Grace { prev_hash, nbits, until, over: false, ahead });
    }
}

impl Core {
    fn count_custom_job(&mut self, result: &'static str) {
        self.metrics.custom_job(result);
        if let Some(rules) = &mut self.declarations {
            *rules.results.entry(result).or_default() += 1;
        }
    }
}

/// The target of a tip that we have not seen: a period's change is a factor of four at most.
fn plausible_target(nbits: u32, ours: Target) -> Option<Target> {
    let target = Target::from_nbits(nbits)?;
    let ratio = target.to_f64() / ours.to_f64();
    (0.249..=4.001).contains(&ratio).then_some(target)
}

fn check_times(job: &CustomJob, base: &Base, now: Now) -> Result<(), Refused> {
    let earliest = base.tip.min_ntime.saturating_sub(MAX_NTIME_BEHIND);
    let latest = now.unix_secs().saturating_add(MAX_NTIME_AHEAD);
    let good = (earliest..=latest).contains(&job.min_ntime);
    if good { Ok(()) } else { Err(Refused::field("invalid-min-ntime")) }
}

/// What of a job that nobody has looked at can be told from its coinbase: whether blocks of it can be valid.
fn check_coinbase(job: &CustomJob, base: &Base, version: Option<u32>) -> Result<(), Refused> {
    if version.is_some_and(|ours| (ours ^ job.version) & !ROLLABLE != 0) {
        return Err(Refused::field("invalid-version"));
    }
    if job.merkle_path.len() > MAX_MERKLE_STEPS {
        return Err(Refused::field("invalid-merkle-path"));
    }
    let Some(height) = base.height else { return Ok(()) };
    if !job.coinbase_prefix.starts_with(&height_push(height)) {
        return Err(Refused::field("invalid-coinbase-prefix"));
    }
    // As consensus asks whether a transaction is final.
    let (locktime, sequence) = (job.coinbase_tx_locktime, job.coinbase_tx_input_sequence);
    let passed = match locktime < LOCKTIME_THRESHOLD {
        true => locktime < height,
        false => locktime < base.tip.min_ntime,
    };
    if !passed && sequence != u32::MAX {
        return Err(Refused::field("invalid-coinbase-tx-locktime"));
    }
    Ok(())
}

/// What a coinbase's scriptSig begins with (BIP34): the height as the shortest push.
pub(super) fn height_push(height: u32) -> Vec<u8> {
    match height {
        0 => vec![0],
        small @ 1..=16 => vec![0x50 + small as u8],
        _ => {
            let mut bytes = height.to_le_bytes().to_vec();
            while bytes.last() == Some(&0) {
                bytes.pop();
            }
            if bytes.last().is_some_and(|last| last & 0x80 != 0) {
                bytes.push(0); // the highest bit is a sign
            }
            bytes.insert(0, bytes.len() as u8);
            bytes
        }
    }
}
