//! From choices to jobs: what miners are to work on, and how it reaches every channel.

use std::sync::Arc;

use adit_mining::Tip;
use adit_sv2::codec::Str0255;
use adit_sv2::messages::mining::CloseChannel;
use adit_transport::{Now, Outbox};

use super::claim::{Content, ForWhom, Key, Plan, Step};
use super::source::Source;
use super::upstream::Layout;
use super::{Core, Effect, JdcEngine};
use crate::config::Mode;

impl JdcEngine {
    /// Makes every choice anew and does what follows: called after whatever may have changed one.
    pub(super) fn settle(&mut self, now: Now, out: &mut Outbox<Effect>) {
        self.choose(now, out);
        // After what must not be late.
        self.tell_ends(out);
    }

    fn choose(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let core = &mut self.core;
        core.choose_provider(now);
        let anyway = core.has_started(now);
        core.tell_constraints(anyway, out);
        core.choose_source(now, out);
        if std::mem::take(&mut core.rates_changed) {
            self.measure_hash_rate();
            self.core.tell_hash_rates(now, out);
        }
        let core = &mut self.core;
        if core.channels == 0 {
            // No new jobs; but shares that wait for one are worth as much as if their miners were here.
            let tip = core.templates.work().map(|(_, work)| work.tip().prev_hash);
            let lost = core.desk.rest(tip);
            core.metrics.onward("lost", lost as u64);
            if core.desk.claims.is_empty() {
                return;
            }
        } else if let Some(plan) = core.plan() {
            self.adopt(plan, now, out);
        }
        self.core.advance(now, out);
        if self.core.desk.move_on()
            && let Some(tip) = self.core.desk.tip().cloned()
        {
            self.core.metrics.job("same-tip");
            self.fan_out(false, &tip, out);
        }
    }

    /// Puts a plan into force: the job to every channel, a new tip before anything else.
    fn adopt(&mut self, plan: Plan, now: Now, out: &mut Outbox<Effect>) {
        let core = &mut self.core;
        let former = core.desk.tip().map(|tip| tip.prev_hash);
        let (key, tip) = (plan.key, plan.tip.clone());
        let first_step = match (&plan.content, key.for_whom, core.settings.mode) {
            (Content::Own(_), ..) | (_, ForWhom::Solo, _) => Step::Rest,
            (Content::Template(..), _, Mode::FullTemplate) => Step::Data { asked: false },
            (Content::Template(..), ..) => Step::Token { not_before: None },
        };
        let own = match key.for_whom {
            ForWhom::Own { index, session, job_id } => Some((index, session, job_id)),
            _ => None,
        };
        let channel = key.for_whom.upstream().and_then(|i| core.upstreams[i].pool.channel.as_ref());
        let session = channel.map(|channel| channel.session);
        match core.desk.begin(plan, &core.settings.tag, first_step, session, now.instant) {
            Ok(lost) => core.metrics.onward("lost", lost as u64),
            Err(error) => {
                tracing::error!(%error, "no job can be made of this template");
                core.desk.refused(key);
                return;
            }
        }
        if let Some((index, session, job_id)) = own {
            core.accept_own(index, session, job_id, now);
        }
        if core.desk.next().is_some() {
            return; // miners get it when the pool has accepted it
        }
        let new_tip = former != Some(tip.prev_hash);
        core.metrics.job(if new_tip { "new-tip" } else { "same-tip" });
        let unserved = self.fan_out(new_tip, &tip, out);
        if unserved > 0 {
            self.close_unserved(now, out);
        }
        if new_tip {
            self.core.extranonces.new_prev_hash();
            if self.miners.values().any(|miner| !miner.channels.is_empty()) {
                out.effect(Effect::FannedOut(now.instant));
            }
            let hash = adit_mining::BlockHash(tip.prev_hash);
            tracing::info!(prev_hash = %hash, channels = self.core.channels, "new tip");
        }
        let Self { miners, core, .. } = self;
        for (peer, miner) in miners.iter_mut().filter(|(_, miner)| !miner.held.is_empty()) {
            miner.open_held(*peer, core, now, out);
        }
    }

    /// Returns how many channels there is no job for.
    fn fan_out(&mut self, new_tip: bool, tip: &Arc<Tip>, out: &mut Outbox<Effect>) -> usize {
        let Some(claim) = self.core.desk.current_mut() else { return 0 };
        let id = claim.id;
        let mut unserved = 0;
        for (peer, miner) in self.miners.iter_mut().filter(|(_, m)| !m.channels.is_empty()) {
            out.say(*peer, |bytes| {
                let job_of = |size| claim.job(size);
                unserved += if new_tip {
                    miner.channels.new_tip(id, job_of, tip, bytes)
                } else {
                    miner.channels.active_job(id, job_of, tip, bytes)
                };
            });
        }
        unserved
    }

    /// Channels that roll more than the upstream has granted cannot be kept; theirs are the only ones that a switch ends.
    fn close_unserved(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let Some(size) = self.core.desk.current().map(|claim| claim.layout.size) else { return };
        for (peer, miner) in &mut self.miners {
            let too_large =
                |channel: &&super::channel::Channel| channel.server.full_extranonce_size() > size;
            let ids: Vec<u32> =
                miner.channels.iter().filter(too_large).map(|c| c.server.id()).collect();
            for channel_id in ids {
                tracing::warn!(%peer, channel_id, size, "channel closed: the upstream grants too small an extranonce");
                let reason_code = Str0255::cut("extranonce-size-too-large-for-upstream");
                out.send(*peer, &CloseChannel { channel_id, reason_code });
                for channel in miner.channels.close(channel_id) {
                    channel.close(*peer, &mut self.core);
                }
                miner.idle_since = now.instant;
            }
        }
    }
}

impl Core {
    /// What miners should work on, where that is another job than the one they have.
    fn plan(&mut self) -> Option<Plan> {
        let source = self.source?;
        let plan = match source {
            Source::Own(index) => self.plan_own(index),
            Source::Solo => self.plan_solo(),
            Source::Declared(index) | Source::Kept(index) => self.plan_declared(index),
        }?;
        self.desk.is_news(&plan).then_some(plan)
    }

    fn plan_own(&self, index: usize) -> Option<Plan> {
        let pool = &self.upstreams[index].pool;
        let channel = pool.channel.as_ref()?;
        let own = channel.own.clone()?;
        let (session, job_id) = (channel.session, own.job.id());
        Some(Plan {
            key: Key {
                for_whom: ForWhom::Own { index, session, job_id },
                prev_hash: own.tip.prev_hash,
                template: None,
            },
            tip: own.tip,
            layout: pool.layout?,
            version_rolling: own.job.version_rolling_allowed() && !pool.fixed_version,
            content: Content::Own(own.job),
        })
    }

    fn plan_solo(&self) -> Option<Plan> {
        let (provider, work) = self.templates.work()?;
        let prefix = adit_mining::Extranonce::new(&self.settings.solo_prefix).ok()?;
        Some(Plan {
            key: Key {
                for_whom: ForWhom::Solo,
                prev_hash: work.tip().prev_hash,
                template: Some((provider, work.template().id)),
            },
            tip: work.tip().clone(),
            layout: Layout { prefix, size: usize::from(self.settings.extranonce_size) },
            version_rolling: true,
            content: Content::Template(work.template().clone(), self.settings.solo.clone()?),
        })
    }

    fn plan_declared(&self, index: usize) -> Option<Plan> {
        let (provider, work) = self.templates.work()?;
        let upstream = &self.upstreams[index];
        // While the JDS is away a newer template for the same tip is not worth losing what is accepted.
        if upstream.jds.state.ready().is_none() && self.needs_no_declaration(index) {
            return None;
        }
        Some(Plan {
            key: Key {
                for_whom: ForWhom::Upstream { index, generation: upstream.generation },
                prev_hash: work.tip().prev_hash,
                template: Some((provider, work.template().id)),
            },
            tip: work.tip().clone(),
            layout: upstream.pool.layout?,
            version_rolling: !upstream.pool.fixed_version,
            content: Content::Template(work.template().clone(), upstream.payouts.clone()?),
        })
    }
}
