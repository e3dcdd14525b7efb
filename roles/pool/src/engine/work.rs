//! The work in force, and how it reaches every channel.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_mining::template::bip34_height;
use adit_mining::{
    Channels, Job, JobFactory, JobIds, JobSet, ServerChannel, Target, Template, Tip, Work,
};
use adit_transport::{Now, Outbox, PeerId};

use super::channel::Channel;
use super::downstream::Miner;
use super::{Effect, PoolEngine};

/// Makes jobs of templates and remembers where they came from.
#[derive(Debug)]
pub(super) struct Bench {
    factory: JobFactory,
    ids: JobIds,
    current: Option<Current>,
    /// For tips to come, of the active provider.
    futures: Vec<Future>,
    /// Of the last job sets, newest last.
    origins: VecDeque<(u32, Origin)>,
    network_target: Target,
    /// The last tips, oldest first; the last is the one in force, also while there is no template for it.
    tips: VecDeque<Base>,
}

/// What a block can be built on, as the pool saw it.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) tip: Arc<Tip>,
    /// Of the block that is built on it.
    pub(super) height: Option<u32>,
    /// When another one came.
    pub(super) since_left: Option<Instant>,
    /// Until when custom jobs may build on it, where that is not as long as it is in force.
    pub(super) until: Option<Instant>,
}

impl Base {
    /// Whether the pool has not seen it.
    pub(super) fn is_ahead(&self) -> bool {
        self.until.is_some() && self.since_left.is_none()
    }
}

/// Tips that are remembered: older ones are as good as unknown.
const MAX_TIPS: usize = 32;

#[derive(Debug)]
struct Current {
    set: JobSet,
    tip: Arc<Tip>,
}

#[derive(Debug)]
struct Future {
    set: JobSet,
    came: Instant,
    announced: bool,
}

/// Where a job set came from: whom a block of it is submitted to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Origin {
    /// Index of the provider; none for a custom job.
    pub(super) provider: Option<usize>,
    /// The provider's id of the template; 0 for a custom job.
    pub(super) template_id: u64,
    /// Of the block to be found, where the coinbase says it.
    pub(super) height: Option<u32>,
}

impl Origin {
    /// Of a job that its miner made, with this scriptSig.
    pub(super) fn custom(script_sig: &[u8]) -> Self {
        Self { provider: None, template_id: 0, height: bip34_height(script_sig) }
    }
}

/// Job sets whose origin is kept: more than a channel has live jobs, retargeted ones included, since those share a set.
const MAX_ORIGINS: usize = 256;

/// Bytes of an extranonce that every template must have room for.
const PROBE_EXTRANONCE_SIZE: usize = 20;

/// A future template is held back so long, since its tip usually follows in the same packet, and job and tip in one
/// write reach the last of many miners sooner. One that is really ahead of its tip is sent ahead.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(200);

impl Bench {
    pub(super) fn new(factory: JobFactory) -> Self {
        Self {
            factory,
            ids: JobIds::default(),
            current: None,
            futures: Vec::new(),
            origins: VecDeque::with_capacity(MAX_ORIGINS),
            network_target: Target::MIN,
            tips: VecDeque::with_capacity(MAX_TIPS),
        }
    }

    /// Who is paid by jobs of ours.
    pub(super) fn payout_scripts(&self) -> Vec<Vec<u8>> {
        self.factory.payouts.scripts().map(<[u8]>::to_vec).collect()
    }

    /// Whether a channel can be given work.
    pub(super) fn has_work(&self) -> bool {
        self.current.is_some()
    }

    /// The last tip's target: what a hash needs to be a block.
    pub(super) fn network_target(&self) -> Target {
        self.network_target
    }

    pub(super) fn tip(&self) -> Option<&Tip> {
        self.current.as_ref().map(|current| &*current.tip)
    }

    pub(super) fn template(&self) -> Option<&Template> {
        self.current.as_ref().map(|current| &**current.set.template())
    }

    /// The height of the block that miners look for, where the coinbase says it.
    pub(super) fn height(&self) -> Option<u32> {
        self.template()?.height()
    }

    /// What a custom job with this previous hash builds on: a tip of ours, present or past; else the present one, which
    /// the client may be ahead of. None before there is any.
    pub(super) fn base_for(&self, prev_hash: &[u8; 32]) -> Option<Base> {
        let known = self.tips.iter().rev().find(|base| base.tip.prev_hash == *prev_hash);
        known.or(self.tips.back()).cloned()
    }

    /// The tip in force, and those that were less than this long ago.
    fn tips_within(&self, time: Duration, now: Instant) -> Vec<[u8; 32]> {
        let counts = |base: &&Base| base.since_left.is_none_or(|left| left + time >= now);
        self.tips.iter().filter(counts).map(|base| base.tip.prev_hash).collect()
    }

    /// The header version of the template in force.
    pub(super) fn version(&self) -> Option<u32> {
        self.template().map(|template| template.version)
    }

    /// There is another tip. Returns the one before it.
    fn change_tip(&mut self, tip: &Arc<Tip>, height: Option<u32>, now: Instant) -> Option<Base> {
        // A chain may turn back to a tip that it left.
        self.tips.retain(|base| base.tip.prev_hash != tip.prev_hash);
        let left = self.tips.back_mut().map(|base| {
            base.since_left.get_or_insert(now);
            base.clone()
        });
        if self.tips.len() == MAX_TIPS {
            self.tips.pop_front();
        }
        self.tips.push_back(Base { tip: tip.clone(), height, since_left: None, until: None });
        left
    }

    /// An id for a job that is sent once more.
    pub(super) fn allocate_id(&mut self) -> u32 {
        self.ids.allocate()
    }

    /// Where the job set with this id came from.
    pub(super) fn origin(&self, set_id: u32) -> Option<Origin> {
        self.origins.iter().rev().find(|(id, _)| *id == set_id).map(|(_, origin)| *origin)
    }

    /// Sends a new channel the newest work: a future job, then its previous hash (spec 5.3.15).
    pub(super) fn send_newest(
        &mut self,
        peer: PeerId,
        channel: &mut ServerChannel,
        out: &mut Outbox<Effect>,
    ) {
        let Some(Current { set, tip }) = &mut self.current else { return };
        let Some(job) = job_of(set, &self.factory, channel.full_extranonce_size()) else { return };
        let mut started = Ok(());
        out.say(peer, |bytes| started = channel.start_work(set.id(), job, tip, bytes));
        if let Err(error) = started {
            tracing::error!(channel_id = channel.id(), %error, "job refused");
        }
    }

    /// Sends all channels of a connection that work on our jobs the newest work, where they do not have it.
    pub(super) fn send_newest_to_all(
        &mut self,
        peer: PeerId,
        channels: &mut Channels<Channel>,
        out: &mut Outbox<Effect>,
    ) {
        let Some(Current { set, tip }) = &mut self.current else { return };
        let (id, factory) = (set.id(), &self.factory);
        let job_of = |size| job_of(set, factory, size);
        out.say(peer, |bytes| _ = channels.new_tip(id, job_of, tip, bytes));
    }

    /// Sends all channels of a connection the present work once more under this id, since their prefixes changed.
    pub(super) fn send_again(
        &mut self,
        id: u32,
        peer: PeerId,
        channels: &mut Channels<Channel>,
        out: &mut Outbox<Effect>,
    ) {
        let Some(Current { set, tip }) = &mut self.current else { return };
        let factory = &self.factory;
        let job_of = |size| job_of(set, factory, size);
        out.say(peer, |bytes| _ = channels.active_job(id, job_of, tip, bytes));
    }

    /// A set for a template, whose jobs were tried out.
    fn job_set(&mut self, template: &Arc<Template>, provider: usize) -> Option<JobSet> {
        let mut set = JobSet::new(self.ids.allocate(), template.clone());
        if let Err(error) = set.job(&self.factory, PROBE_EXTRANONCE_SIZE) {
            tracing::error!(template_id = template.id, %error, "template refused");
            return None;
        }
        if self.origins.len() == MAX_ORIGINS {
            self.origins.pop_front();
        }
        let origin = Origin {
            provider: Some(provider),
            template_id: template.id,
            height: template.height(),
        };
        self.origins.push_back((set.id(), origin));
        Some(set)
    }

    /// Whether this work is what miners have already. If so, blocks are submitted for its newer template from now on,
    /// which is the one that the provider surely knows.
    fn is_unchanged(&mut self, work: &Work, provider: usize) -> bool {
        let Some(Current { set, tip }) = &self.current else { return false };
        let (old, new) = (&**set.template(), &**work.template());
        let same = Template { id: old.id, future: old.future, ..new.clone() } == *old
            && (tip.prev_hash, tip.nbits, tip.network_target)
                == (work.tip().prev_hash, work.tip().nbits, work.tip().network_target);
        if same
            && let Some((_, origin)) = self.origins.iter_mut().rev().find(|(id, _)| *id == set.id())
        {
            (origin.provider, origin.template_id) = (Some(provider), new.id);
        }
        same
    }
}

impl PoolEngine {
    /// A template of the active provider for a tip to come.
    pub(super) fn future_template(&mut self, template: &Arc<Template>, provider: usize, now: Now) {
        if let Some(set) = self.core.bench.job_set(template, provider) {
            self.core.metrics.template("future");
            self.core.bench.futures.push(Future { set, came: now.instant, announced: false });
            if self.core.bench.futures.len() > adit_mining::template::MAX_FUTURE_TEMPLATES {
                self.core.bench.futures.remove(0);
            }
        } else {
            self.core.metrics.template("refused");
        }
    }

    /// Sends future jobs whose tip did not come with them.
    pub(super) fn announce_futures(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let bench = &mut self.core.bench;
        for Future { set, came, announced } in &mut bench.futures {
            if *announced || now.instant.duration_since(*came) < ANNOUNCE_AFTER {
                continue;
            }
            *announced = true;
            for (peer, miner) in &mut self.miners {
                let (id, factory) = (set.id(), &bench.factory);
                let job_of = |size| job_of(set, factory, size);
                out.say(*peer, |bytes| _ = miner.channels.future_job(id, job_of, bytes));
            }
        }
    }

    /// Puts work into force and sends it to every channel.
    pub(super) fn adopt(
        &mut self,
        work: &Work,
        provider: usize,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let bench = &mut self.core.bench;
        if bench.is_unchanged(work, provider) {
            self.core.metrics.template("unchanged");
            return;
        }
        let same_tip = bench.tip().is_some_and(|tip| tip.prev_hash == work.tip().prev_hash);
        let waiting = bench
            .futures
            .iter()
            .position(|future| Arc::ptr_eq(future.set.template(), work.template()));
        let known = waiting.map(|at| bench.futures.swap_remove(at));
        let announced = known.as_ref().is_some_and(|future| future.announced);
        let Some(set) =
            known.map(|future| future.set).or_else(|| bench.job_set(work.template(), provider))
        else {
            self.core.metrics.template("refused");
            return;
        };
        let tip = work.tip().clone();
        bench.network_target = tip.network_target;
        let current = bench.current.insert(Current { set, tip });
        if same_tip && !announced {
            self.core.metrics.template("newer");
            fan_out_job(&mut self.miners, current, &bench.factory, out);
            return;
        }
        self.core.metrics.template("new-tip");
        fan_out_tip(&mut self.miners, current, &bench.factory, out);
        bench.futures.clear();
        if same_tip {
            return;
        }
        let (tip, height) = (current.tip.clone(), current.set.template().height());
        let left = bench.change_tip(&tip, height, now.instant);
        let rules = self.core.declarations.as_ref();
        let grace = rules.map_or(Duration::ZERO, |rules| rules.grace);
        if let Some(left) = left {
            let ours = bench.tips_within(grace, now.instant);
            for miner in self.miners.values_mut() {
                miner.tip_changed(&left, &tip, &ours, now.instant + grace);
            }
        }
        let until = (!grace.is_zero()).then(|| now.instant + grace);
        self.core.extranonces.new_prev_hash(until);
        self.reclaim_prefixes();
        if self.miners.values().any(|miner| !miner.channels.is_empty()) {
            out.effect(Effect::FannedOut(now.instant));
        }
        let hash = tip.prev_hash;
        tracing::info!(prev_hash = %adit_mining::BlockHash(hash), channels = self.core.channels, "new tip");
        for (peer, miner) in self.miners.iter_mut().filter(|(_, miner)| !miner.held.is_empty()) {
            miner.open_held(*peer, &mut self.core, now, out);
        }
    }

    /// There is a tip and no template for it: what miners do is void, and there is nothing else to give them.
    pub(super) fn void_work(&mut self) {
        self.core.bench.current = None;
        self.core.bench.futures.clear();
        let channels = self.miners.values_mut().flat_map(|miner| miner.channels.iter_mut());
        let ours = channels.map(|channel| &mut channel.server).filter(|c| !c.has_own_work());
        ours.for_each(ServerChannel::stop_work);
    }

    /// Templates that wait for a tip are void: their provider is gone, or another one took over.
    pub(super) fn void_futures(&mut self) {
        self.core.bench.futures.clear();
    }
}

/// A new tip, to everyone: those who have its job get the small message before anybody gets anything else.
fn fan_out_tip(
    miners: &mut BTreeMap<PeerId, Miner>,
    Current { set, tip }: &mut Current,
    factory: &JobFactory,
    out: &mut Outbox<Effect>,
) {
    let id = set.id();
    let mut all = true;
    for (peer, miner) in miners.iter_mut() {
        out.say(*peer, |bytes| all &= miner.channels.activate(id, tip, bytes));
    }
    if !all {
        for (peer, miner) in miners.iter_mut() {
            let job_of = |size| job_of(set, factory, size);
            out.say(*peer, |bytes| _ = miner.channels.new_tip(id, job_of, tip, bytes));
        }
    }
}

/// A newer template for the same tip, to everyone.
fn fan_out_job(
    miners: &mut BTreeMap<PeerId, Miner>,
    Current { set, tip }: &mut Current,
    factory: &JobFactory,
    out: &mut Outbox<Effect>,
) {
    let id = set.id();
    for (peer, miner) in miners.iter_mut() {
        let job_of = |size| job_of(set, factory, size);
        out.say(*peer, |bytes| _ = miner.channels.active_job(id, job_of, tip, bytes));
    }
}

/// The set's job for channels with this full extranonce size.
fn job_of(set: &mut JobSet, factory: &JobFactory, size: usize) -> Option<Arc<Job>> {
    set.job(factory, size)
        .inspect_err(|error| tracing::error!(size, %error, "no job for channels of this size"))
        .ok()
}
