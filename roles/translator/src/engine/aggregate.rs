//! One channel upstream for all miners: jobs that are told to all in the same words, and judged in one table.
//!
//! A job's line depends on no miner: `coinb1` holds the upstream's prefix, and `extranonce1` is the miner's own slice of
//! what the channel was granted. So it is written once, and goes out as it is to thousands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_mining::Target;
use adit_mining::vardiff::{TargetLimits, Vardiff, VardiffOptions};
use adit_sv1::server::write;
use adit_sv2::messages::mining::UpdateChannel;
use adit_sv2::tlv::USER_IDENTITY_LIMIT;
use adit_transport::{Now, Outbox, PeerId, Shared};

use super::channel::{Channel, Work};
use super::job::{Jobs, MAX_JOBS, V1Job, write_notify};
use super::miner::{Miner, nearly_whole};
use super::{Core, Effect};

/// Job ids that one job has: a miner that needs it again, say for another difficulty, gets it under the next one and
/// with the next nTime. Such ids are not in the table. There is one a second at most, but for the first few, and every
/// job is followed by another when the keep-alive is due, so that there are always enough.
const ALIASES: u64 = 256;
/// Seconds that the times of such ids may be ahead of the clock: one that wants its job again and again would otherwise
/// send all miners, by the next job, to times that the network refuses.
const MAX_AHEAD: u32 = 8;
/// Between two `UpdateChannel`s.
const UPDATE_INTERVAL: Duration = Duration::from_secs(5);
/// A miner is believed to be so many times as fast as its shares say: the first ones say little.
const SHOWN: f64 = 4.0;
/// The upstream is told of another hashrate when it differs by this part.
const WORTH_TELLING: f64 = 0.1;

/// The channel of all miners.
#[derive(Debug)]
pub(super) struct Aggregate {
    pub(super) channel: Channel,
    /// Whether shares can still be sent on it.
    pub(super) live: bool,
    pub(super) jobs: Jobs,
    /// Whether the newest job voids what was before.
    clean: bool,
    /// Most times that the newest job was given to a miner again.
    aliases: u64,
    last_notify: Instant,
    told: Told,
}

/// What the upstream was told of the hashrate.
#[derive(Clone, Copy, Debug)]
struct Told {
    hash_rate: f64,
    at: Instant,
    miners: usize,
}

/// What a miner needs to know of a job on the channel of all, beyond the job.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Its own difficulty, if it has one.
    pub(super) vardiff: Option<Box<Vardiff>>,
    /// Jobs before this one were told with an easier difficulty.
    before: u64,
    easier: f64,
    /// The last job it was given, and how often.
    last: u64,
    times: u64,
    /// It is to be given its job again, clean or not, once the clock allows another time.
    owed: Option<bool>,
}

impl Aggregate {
    pub(super) fn new(channel: Channel, hash_rate: f64, now: Instant) -> Self {
        Self {
            channel,
            live: true,
            jobs: Jobs::default(),
            clean: true,
            aliases: 0,
            last_notify: now,
            told: Told { hash_rate, at: now, miners: 0 },
        }
    }

    /// Whether a message with this channel id is for it.
    pub(super) fn is_addressed_by(&self, channel_id: u32) -> bool {
        channel_id == self.channel.id || channel_id == self.channel.group
    }

    /// Whether there is something to work on.
    pub(super) fn has_work(&self) -> bool {
        self.jobs.newest().is_some()
    }

    /// The job of an id that a miner names.
    pub(super) fn job(&self, id: u64) -> Option<&V1Job> {
        self.jobs.get(id & !(ALIASES - 1))
    }

    /// The same, if it is over: nothing but blocks counts on it.
    pub(super) fn job_over(&self, id: u64) -> Option<V1Job> {
        self.jobs.get_over(id & !(ALIASES - 1))
    }

    /// Adds the newest; it may replace all others.
    pub(super) fn push(&mut self, work: Arc<Work>, void_others: bool, job_ids: &mut u64, now: Now) {
        let last = self.jobs.newest();
        let replace = void_others || last.is_none_or(|last| !last.live && self.live);
        self.clean = replace || last.is_some_and(|last| last.work.prefix != work.prefix);
        let again = last.filter(|last| {
            last.work.tip.prev_hash == work.tip.prev_hash
                && last.work.prefix == work.prefix
                && last.work.job.has_same_headers(&work.job)
        });
        // The same work a second time must have another time, or miners do the same hashes again.
        let ntime = work.min_ntime.saturating_add(work.age(now.instant));
        let used = self.aliases as u32 + 1;
        let ntime = again.map_or(ntime, |last| ntime.max(last.ntime.saturating_add(used)));
        let difficulty = write::announced_difficulty(nearly_whole(work.target.difficulty()));
        let announced = Target::from_difficulty(difficulty);
        *job_ids = (*job_ids & !(ALIASES - 1)) + 2 * ALIASES - 1;
        let id = *job_ids & !(ALIASES - 1);
        let job = V1Job { id, announced, ntime, live: self.live, work };
        self.jobs.push(job, replace);
        self.aliases = 0;
        self.last_notify = now.instant;
    }

    /// The newest work, as a job of its own.
    pub(super) fn push_again(&mut self, void_others: bool, job_ids: &mut u64, now: Now) {
        if let Some(work) = self.jobs.newest().map(|job| job.work.clone()) {
            self.push(work, void_others, job_ids, now);
        }
    }

    /// A connection is gone: miners go on with what they have of it, though nobody pays for that.
    pub(super) fn orphan(&mut self, via: PeerId) {
        self.live &= self.channel.via != via;
        self.jobs.orphan(via);
    }

    /// Whether miners have not heard anything for so long.
    pub(super) fn is_silent(&self, keepalive: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.last_notify) >= keepalive
    }

    /// Tells the upstream how much there is behind the channel: when that has changed, and when a miner came or left,
    /// but not all the time.
    pub(super) fn update(
        &mut self,
        hash_rate: f64,
        miners: usize,
        now: Instant,
        out: &mut Outbox<Effect>,
    ) {
        let Told { hash_rate: known, at, miners: before } = self.told;
        let ratio = hash_rate / known;
        let differs =
            !(1.0 - WORTH_TELLING..=1.0 + WORTH_TELLING).contains(&ratio) && hash_rate != known;
        let differs = differs || miners != before;
        if !self.live || !differs || now.saturating_duration_since(at) < UPDATE_INTERVAL {
            return;
        }
        self.told = Told { hash_rate, at: now, miners };
        let message = UpdateChannel {
            channel_id: self.channel.id,
            nominal_hash_rate: (hash_rate as f32).min(f32::MAX),
            maximum_target: Target::MAX.to_le_bytes(),
        };
        out.send(self.channel.via, &message);
    }
}

/// Gives the newest job to all miners.
pub(super) fn fan_out(
    miners: &mut BTreeMap<PeerId, Miner>,
    core: &mut Core,
    now: Now,
    out: &mut Outbox<Effect>,
) {
    // For a moment apart, so that miners can be given both.
    let Some(aggregate) = core.aggregate.take() else { return };
    if let Some(job) = aggregate.jobs.newest() {
        let mut lines = Lines { clean: aggregate.clean, written: Vec::new() };
        for (peer, miner) in miners.iter_mut().filter(|(_, miner)| miner.is_introduced()) {
            miner.take_job(*peer, job, &mut lines, core, now, out);
        }
    }
    core.aggregate = Some(aggregate);
}

/// The lines of one job: one for each number of bytes that miners have to themselves, which most often is one.
struct Lines {
    clean: bool,
    written: Vec<(usize, Shared)>,
}

impl Lines {
    fn get(&mut self, job: &V1Job, own: usize, out: &mut Outbox<Effect>) -> Shared {
        if let Some((_, line)) = self.written.iter().find(|(size, _)| *size == own) {
            return line.clone();
        }
        let line = out.share(|lines| {
            write_notify(lines, job, job.work.job.version(), own, self.clean);
            lines.push(b'\n');
        });
        self.written.push((own, line.clone()));
        line
    }
}

impl Miner {
    /// It has introduced itself: it gets what the others have.
    pub(super) fn join_aggregate(
        &mut self,
        peer: PeerId,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Some(aggregate) = core.aggregate.take() else { return };
        if let Some(job) = aggregate.jobs.newest() {
            let mut lines = Lines { clean: true, written: Vec::new() };
            self.take_job(peer, job, &mut lines, core, now, out);
        }
        core.aggregate = Some(aggregate);
    }

    /// It gets its job once more, under another id and with another time: now, or as soon as the clock allows that.
    pub(super) fn take_again(
        &mut self,
        peer: PeerId,
        clean: bool,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Some(mut aggregate) = core.aggregate.take() else { return };
        if let Some(job) = aggregate.jobs.newest() {
            match self.next_time(job, core, now) {
                Some(times) => {
                    let mut again = job.clone();
                    again.id += times;
                    again.ntime = again.ntime.saturating_add(times as u32);
                    let mut lines = Lines { clean, written: Vec::new() };
                    self.take_job(peer, &again, &mut lines, core, now, out);
                    self.aggregated.last = job.id;
                    self.aggregated.times = times;
                    aggregate.aliases = aggregate.aliases.max(times);
                }
                None => self.aggregated.owed = Some(clean || self.aggregated.owed == Some(true)),
            }
        }
        core.aggregate = Some(aggregate);
    }

    /// Whether it can be given its job again at once.
    pub(super) fn may_take_again(&self, core: &Core, now: Now) -> bool {
        let job = core.aggregate.as_ref().and_then(|all| all.jobs.newest());
        job.is_none_or(|job| self.next_time(job, core, now).is_some())
    }

    /// How often it was given this job, if the clock allows it another time.
    fn next_time(&self, job: &V1Job, core: &Core, now: Now) -> Option<u64> {
        if self.aggregated.last != job.id {
            return Some(0);
        }
        let times = self.aggregated.times + 1;
        let clock = job.work.min_ntime.saturating_add(job.work.age(now.instant));
        let latest = clock.saturating_add(MAX_AHEAD.min(core.max_ntime_ahead));
        let ntime = job.ntime.saturating_add(times as u32);
        (times < ALIASES && ntime <= latest).then_some(times)
    }

    /// Its own difficulty changes with its shares, and what it is owed is given to it. Looked at once a second.
    pub(super) fn poll_vardiff(
        &mut self,
        peer: PeerId,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        if let Some(clean) = self.aggregated.owed {
            self.take_again(peer, clean, core, now, out);
        }
        let floor = self.terms(core).max_target;
        let Some(vardiff) = &mut self.aggregated.vardiff else { return };
        let Some(aggregate) = &core.aggregate else { return };
        let hardest = aggregate.channel.target;
        let limits = TargetLimits { max_target: floor.max(hardest), network_target: hardest };
        if vardiff.poll(now.instant, &limits).is_some() && aggregate.has_work() {
            self.take_again(peer, false, core, now, out);
        }
    }

    /// Hashes per second that the upstream is told of it: as its shares say, and before there are any as it says, but no
    /// more than the configuration assumes. By the sum the upstream makes the difficulty of all: one that lies would make
    /// it harder for the others.
    pub(super) fn assumed_hash_rate(&self, core: &Core) -> f64 {
        let claimed = match &self.aggregated.vardiff {
            Some(vardiff) => vardiff.hash_rate(),
            None => f64::from(self.terms(core).nominal_hash_rate),
        };
        let shown = self.stats.last_share.map_or(0.0, |at| self.stats.hash_rate.get(at));
        claimed.min((SHOWN * shown).max(core.listener(self.listener).nominal_hash_rate))
    }

    /// What it was told to meet on a job of all miners.
    pub(super) fn told_for(&self, job: &V1Job, id: u64) -> Target {
        // One that was told none has the job from another.
        let Some(difficulty) = self.difficulty else { return job.announced };
        let share = &self.aggregated;
        let difficulty = if id < share.before { difficulty.min(share.easier) } else { difficulty };
        Target::from_difficulty(difficulty).max(job.announced)
    }

    fn take_job(
        &mut self,
        peer: PeerId,
        job: &V1Job,
        lines: &mut Lines,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let coinbase = job.work.job.coinbase();
        let room = coinbase.map_or(0, |coinbase| coinbase.full_extranonce_size());
        // Told its sizes for the next upstream, while this is still work of the last.
        if job.work.prefix.len() + self.own_extranonce_size() > room {
            return;
        }
        if !self.takes_coinbase(peer, &job.work, core, now, out) {
            return;
        }
        let difficulty = self.difficulty_on(job, core, now);
        let allowed = if job.work.version_rolling { self.mask } else { 0 };
        if self.told_mask != allowed || self.difficulty != Some(difficulty) {
            out.say(peer, |lines| {
                if self.told_mask != allowed {
                    write::set_version_mask(lines, allowed);
                    lines.push(b'\n');
                }
                if self.difficulty != Some(difficulty) {
                    write::set_difficulty(lines, difficulty);
                    lines.push(b'\n');
                }
            });
            self.told_mask = allowed;
            self.remember_easier(job.id);
            self.difficulty = Some(difficulty);
        }
        if self.aggregated.last != job.id {
            self.aggregated.last = job.id;
            self.aggregated.times = 0;
        }
        self.aggregated.owed = None;
        let line = lines.get(job, self.own_extranonce_size(), out);
        out.repeat(peer, &line);
        self.last_notify = now.instant;
    }

    /// What it is told with a job: its own difficulty, and never more than the upstream's, since what lies between the two
    /// would be lost.
    fn difficulty_on(&mut self, job: &V1Job, core: &Core, now: Now) -> f64 {
        let all = write::announced_difficulty(nearly_whole(job.work.target.difficulty()));
        if !core.settings.vardiff {
            self.aggregated.vardiff = None;
            return all;
        }
        if self.aggregated.vardiff.is_none() {
            let shares_per_minute = core.settings.expected_shares_per_minute;
            let terms = self.terms(core);
            let rate = f64::from(terms.nominal_hash_rate);
            let target = Target::from_hash_rate(rate, shares_per_minute).min(terms.max_target);
            let options = VardiffOptions { shares_per_minute, harder_than_network: false };
            let vardiff = Vardiff::new(options, target.max(job.work.target), now.instant);
            self.aggregated.vardiff = Some(Box::new(vardiff));
        }
        let own = self.aggregated.vardiff.as_ref().map_or(all, |own| own.target().difficulty());
        write::announced_difficulty(nearly_whole(own)).min(all)
    }

    /// Shares of jobs before this one are judged by what was told with them, or what is told now, whichever is easier.
    fn remember_easier(&mut self, id: u64) {
        let Some(old) = self.difficulty else { return };
        let share = &mut self.aggregated;
        // What was told before the last change still counts for a while.
        let easier = share.easier.min(old);
        // Not for ever: jobs of then are over after so many ids.
        let recent = id.saturating_sub(share.before) <= ALIASES * MAX_JOBS as u64;
        share.easier = if recent { easier } else { old };
        share.before = id;
    }
}

/// How a worker is named in a share on the channel of all (extension 0x0002): the part of its user name behind the first
/// `.`, or the whole where there is none; cut behind the last whole character that fits.
pub(super) fn worker_name(user: &str) -> &str {
    let name = user.split_once('.').map_or(user, |(_, worker)| worker);
    let mut end = name.len().min(USER_IDENTITY_LIMIT);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

#[cfg(test)]
mod tests {
    use super::worker_name;

    #[test]
    fn workers_are_named_in_32_bytes() {
        assert_eq!(worker_name("farm.rig7"), "rig7");
        assert_eq!(worker_name("farm.a.b"), "a.b");
        assert_eq!(worker_name("solo"), "solo");
        assert_eq!(worker_name(&"x".repeat(40)).len(), 32);
        // 31 bytes and a character of two: the character goes as a whole.
        let name = format!("farm.{}é", "x".repeat(31));
        assert_eq!(worker_name(&name), "x".repeat(31));
    }
}
