//! An upstream: a pool and its JDS, and whether it can be worked for.

use std::time::{Duration, Instant};

use adit_mining::coinbase::{Outputs, script_sigops, split_outputs};
use adit_mining::{Extranonce, Payouts};
use adit_mining_server::LinkState;
use adit_transport::{Now, Outbox};

use super::jds::Jds;
use super::pool::Pool;
use super::{Core, Effect, JdcEngine, Link};
use crate::config;

/// One `[[upstreams]]`.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) identity: String,
    /// Shares are to name their worker where the pool takes that.
    pub(super) worker_names: bool,
    pub(super) pool: Pool,
    pub(super) jds: Jds,
    /// What the pool wants in the coinbase, as it was told last.
    pub(super) payouts: Option<Payouts>,
    /// Counts what makes jobs other jobs: outputs, prefixes, extranonce sizes.
    pub(super) generation: u32,
    /// It failed, and is not asked again before this time.
    pub(super) trouble: Option<Trouble>,
    /// How long the next trouble lasts.
    penalty: Duration,
    /// Since when it could be worked for.
    pub(super) well_since: Option<Instant>,
}

/// Why an upstream is not worked for.
#[derive(Debug)]
pub(super) struct Trouble {
    until: Instant,
    pub(super) reason: String,
}

/// Where in an extranonce what is whose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Layout {
    /// Fixed by the upstream.
    pub(super) prefix: Extranonce,
    /// Bytes behind it that are ours.
    pub(super) size: usize,
}

impl Layout {
    /// Bytes of the whole.
    pub(super) fn full_size(&self) -> usize {
        self.prefix.len() + self.size
    }
}

/// An upstream that failed is not asked for a job for so long, and twice as long each time it fails again.
const FIRST_PENALTY: Duration = Duration::from_secs(1);
const LONGEST_PENALTY: Duration = Duration::from_secs(600);

impl Upstream {
    pub(super) fn new(config: &config::Upstream) -> Self {
        Self {
            identity: config.user_identity.clone(),
            worker_names: config.worker_names,
            pool: Pool::new(&config.pool),
            jds: Jds::new(&config.jds),
            payouts: None,
            generation: 0,
            trouble: None,
            penalty: FIRST_PENALTY,
            well_since: None,
        }
    }

    /// What it is called: its pool's address.
    pub(super) fn name(&self) -> &str {
        &self.pool.name
    }

    /// Whether a job can be declared and set there now.
    pub(super) fn is_usable(&self) -> bool {
        self.can_be_mined_for() && self.jds.state.ready().is_some()
    }

    /// Whether shares on jobs that it took can be sent to it.
    pub(super) fn can_be_mined_for(&self) -> bool {
        self.trouble.is_none()
            && self.payouts.is_some()
            && !self.pool.plain
            && self.pool.channel.is_some()
    }

    /// Whether it is clear that it cannot be worked for, rather than not known yet.
    pub(super) fn is_known_bad(&self) -> bool {
        self.trouble.is_some() || self.pool.tried || self.jds.tried
    }

    /// A job was accepted.
    pub(super) fn proved_well(&mut self) {
        self.penalty = FIRST_PENALTY;
    }

    /// Nothing is declared there before this time.
    pub(super) fn stay_in_trouble(&mut self, until: Instant) {
        let reason = self.trouble.take().map(|trouble| trouble.reason);
        let reason = reason.unwrap_or_else(|| "its own jobs are worked on".to_owned());
        self.trouble = Some(Trouble { until, reason });
    }

    /// What the outputs of a token say: the first gets everything (spec 6.4.3). Says whether they can be used.
    pub(super) fn set_outputs(&mut self, array: &[u8]) -> bool {
        let Some(payouts) = payouts(array) else { return false };
        if self.payouts.as_ref() != Some(&payouts) {
            self.payouts = Some(payouts);
            self.generation += 1;
            // Tokens for other outputs are of no use.
            self.jds.tokens.clear();
        }
        true
    }

    /// Why nothing is declared there, for people.
    pub(super) fn why_not(&self) -> String {
        if let Some(trouble) = &self.trouble {
            return trouble.reason.clone();
        }
        let pool = match (&self.pool.state, &self.pool.channel) {
            (LinkState::Ready(_), Some(_)) => None,
            (LinkState::Ready(_), None) => Some("opening a channel".to_owned()),
            (state, _) => Some(state.describe()),
        };
        let jds = self.jds.state.ready().is_none().then(|| self.jds.state.describe());
        match (pool, jds) {
            (Some(reason), _) => format!("pool {}: {reason}", self.pool.name),
            (None, Some(reason)) => format!("JDS {}: {reason}", self.jds.name),
            (None, None) if self.payouts.is_none() => {
                format!("JDS {}: no token yet", self.jds.name)
            }
            (None, None) => "nothing is wrong with it".to_owned(),
        }
    }
}

/// Everything to the first script, nothing to the others; `None` where there is no output.
fn payouts(array: &[u8]) -> Option<Payouts> {
    let (count, outputs) = split_outputs(array).ok()?;
    let scripts: Option<Vec<_>> = Outputs::new(outputs)
        .map(|output| output.ok().map(|output| output.script_pubkey.to_vec()))
        .collect();
    let scripts = scripts.filter(|scripts| scripts.len() as u64 == count)?;
    let weights = scripts.into_iter().enumerate();
    Payouts::new(weights.map(|(index, script)| (script, u64::from(index == 0)))).ok()
}

impl JdcEngine {
    /// The driver could not connect.
    pub fn unreachable(&mut self, link: Link, reason: &str) {
        let Core { providers, upstreams, .. } = &mut self.core;
        match link {
            Link::Miner => {}
            Link::TemplateProvider(index) => {
                if let Some(provider) = providers.get_mut(index) {
                    provider.state.unreachable(reason);
                }
            }
            Link::Pool(index) => {
                if let Some(upstream) = upstreams.get_mut(index) {
                    upstream.pool.tried = true;
                    upstream.pool.state.unreachable(reason);
                }
            }
            Link::Jds(index) => {
                if let Some(upstream) = upstreams.get_mut(index) {
                    upstream.jds.tried = true;
                    upstream.jds.state.unreachable(reason);
                }
            }
        }
    }
}

impl Core {
    /// It refuses what it should take, or does not answer. Its connections stay, unless they are the reason.
    pub(super) fn fail_upstream(&mut self, index: usize, reason: &str, now: Now) {
        let upstream = &mut self.upstreams[index];
        if upstream.trouble.is_some() {
            return;
        }
        let seconds = upstream.penalty.as_secs();
        tracing::warn!(upstream = upstream.name(), reason, seconds, "upstream fails");
        self.metrics.upstream_failed(upstream.name());
        let until = now.instant + upstream.penalty;
        upstream.penalty = (upstream.penalty * 2).min(LONGEST_PENALTY);
        upstream.trouble = Some(Trouble { until, reason: reason.to_owned() });
        upstream.well_since = None;
    }

    /// What providers are to leave room for: the most that any upstream or solo mining adds, in bytes and sigops (spec
    /// 7.1). None while that is not known, but for `anyway`.
    pub(super) fn constraints(&self, anyway: bool) -> Option<(u32, u16)> {
        let known = self.upstreams.iter().filter_map(|upstream| upstream.payouts.as_ref());
        if known.clone().count() < self.upstreams.len() && !anyway {
            return None;
        }
        // As the node's own limit counts them: each legacy operation is four.
        let sigops = |payouts: &Payouts| payouts.scripts().map(script_sigops).sum::<u32>() * 4;
        let each = known.chain(&self.settings.solo).map(|payouts| {
            let sigops = u16::try_from(sigops(payouts)).unwrap_or(u16::MAX);
            (payouts.serialized_len() as u32, sigops)
        });
        Some(each.fold((0, 0), |(size, sigops), (a, b)| (size.max(a), sigops.max(b))))
    }

    /// Deadlines of pools and JDSs.
    pub(super) fn upstream_tick(&mut self, now: Now, out: &mut Outbox<Effect>) {
        for index in 0..self.upstreams.len() {
            self.pool_tick(index, now, out);
            self.jds_tick(index, now, out);
            let upstream = &mut self.upstreams[index];
            if upstream.trouble.as_ref().is_some_and(|trouble| now.instant >= trouble.until) {
                upstream.trouble = None;
                // A connection that was made for the pool's own jobs is made anew, to bring ours.
                if std::mem::take(&mut upstream.pool.plain)
                    && let Some(peer) = upstream.pool.state.peer()
                {
                    out.close(peer, "own-jobs-again");
                    self.lose_pool(index, "our own jobs are tried again");
                }
            }
        }
        self.check_declarations(now);
    }
}
