//! What the job declarator client tells about itself.

use std::collections::BTreeMap;

use adit_mining::channel::ChannelKind;
use adit_mining::{BlockHash, target::work_to_difficulty};
use adit_transport::{Now, PeerId};
use serde_json::{Value, json};

use super::JdcEngine;
use super::channel::Channel;
use super::claim::{Claim, Step};
use super::downstream::Miner;
use super::source::Source;
use super::upstream::Upstream;

/// Channels that `/status` lists; the rest is counted.
const MAX_CHANNELS_SHOWN: usize = 500;
/// Workers that it lists, the strongest first.
const MAX_WORKERS_SHOWN: usize = 500;

/// What is missing for miners to have work that is worth something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Readiness {
    /// A template provider is connected and has given work.
    pub template: Result<(), String>,
    /// There is somebody to work for.
    pub upstream: Result<(), String>,
}

impl JdcEngine {
    /// Whether there is work, and if not, what is waited for.
    pub fn readiness(&self) -> Readiness {
        let core = &self.core;
        let providers = || {
            let each = core.providers.iter().map(|provider| {
                format!("template provider {}: {}", provider.name, provider.state.describe())
            });
            each.collect::<Vec<_>>().join("; ")
        };
        let upstreams =
            || core.upstreams.iter().map(Upstream::why_not).collect::<Vec<_>>().join("; ");
        let fresh = (0..core.providers.len()).any(|index| core.templates.has_fresh_work(index));
        Readiness {
            template: if fresh { Ok(()) } else { Err(providers()) },
            upstream: match core.source {
                None | Some(Source::Kept(_)) => Err(upstreams()),
                Some(_) => Ok(()),
            },
        }
    }

    /// Connections and open channels.
    pub fn counts(&self) -> (usize, usize) {
        (self.miners.len(), self.miners.values().map(|miner| miner.channels.len()).sum())
    }

    /// Everything. `docs/roles/jdc.md` describes it.
    pub fn status(&self, now: Now) -> Value {
        let core = &self.core;
        let age = |unix_ms: u64| now.unix_ms.saturating_sub(unix_ms) / 1_000;
        let providers = core.providers.iter().enumerate().map(|(index, provider)| {
            json!({
                "address": provider.name,
                "in_use": core.templates.in_use() == Some(index),
                "state": provider.state.describe(),
                "template_age_seconds": provider.last_template_unix_ms.map(age),
            })
        });
        let upstreams = core.upstreams.iter().enumerate().map(|(index, upstream)| {
            let in_use = core.source.and_then(Source::upstream) == Some(index);
            upstream.status(in_use, now)
        });
        let channels = self.miners.iter().flat_map(|(peer, miner)| {
            miner.channels.iter().map(move |channel| channel.status(*peer, miner, now))
        });
        let workers = self.workers(now);
        json!({
            "source": core.source.map_or("none", Source::label),
            "template_providers": providers.collect::<Vec<_>>(),
            "upstreams": upstreams.collect::<Vec<_>>(),
            "job": core.desk.current().map(|claim| claim.status(now)),
            "next_job": core.desk.next().map(|claim| claim.status(now)),
            "connections": self.miners.len(),
            "channels_open": self.counts().1,
            "channels_waiting_for_work": self.miners.values().map(|miner| miner.held.len()).sum::<usize>(),
            "hashrate": core.desk.hash_rate,
            "channels": channels.take(MAX_CHANNELS_SHOWN).collect::<Vec<_>>(),
            "workers_count": workers.len(),
            "workers": workers.iter().take(MAX_WORKERS_SHOWN).collect::<Vec<_>>(),
            "pending_blocks": core.solutions.len(),
            "blocks": core.history.blocks().collect::<Vec<_>>(),
        })
    }

    /// Every worker with an open channel, the strongest first.
    fn workers(&self, now: Now) -> Vec<Value> {
        // How many channels, and hashes per second where a channel is all theirs.
        let mut sums = BTreeMap::<&str, (usize, Option<f64>)>::new();
        for channel in self.miners.values().flat_map(|miner| miner.channels.iter()) {
            for worker in channel.names.iter() {
                sums.entry(worker).or_default().0 += 1;
            }
            if channel.names.len() == 0 {
                let (channels, hash_rate) = sums.entry(&channel.identity).or_default();
                *channels += 1;
                *hash_rate = Some(hash_rate.unwrap_or(0.0) + channel.hash_rate());
            }
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by(|(_, (_, a)), (_, (_, b))| b.unwrap_or(0.0).total_cmp(&a.unwrap_or(0.0)));
        let each = sums.into_iter().map(|(identity, (channels, hash_rate))| {
            let tally = self.core.history.tally(identity);
            let last = tally.filter(|tally| tally.accepted > 0).map(|tally| tally.last_unix_ms);
            json!({
                "identity": identity,
                "channels": channels,
                "hashrate": hash_rate,
                "accepted": tally.map_or(0, |tally| tally.accepted),
                "rejected": tally.map_or(0, |tally| tally.rejected),
                "best_difficulty": tally.map_or(0.0, |tally| tally.best),
                "best_unix_ms": tally.map(|tally| tally.best_unix_ms),
                "last_share_age_seconds": last.map(|at| now.unix_ms.saturating_sub(at) / 1_000),
            })
        });
        each.collect()
    }
}

impl Upstream {
    fn status(&self, in_use: bool, now: Now) -> Value {
        let channel = self.pool.channel.as_ref();
        json!({
            "pool": self.pool.name,
            "jds": self.jds.name,
            "user_identity": self.identity,
            "in_use": in_use,
            "usable": self.is_usable(),
            "trouble": self.trouble.as_ref().map(|trouble| trouble.reason.clone()),
            "well_for_seconds": self.well_since.map(|since| now.instant.saturating_duration_since(since).as_secs()),
            "pool_state": self.pool.state.describe(),
            "jds_state": self.jds.state.describe(),
            "tokens": self.jds.tokens.len(),
            "worker_names": self.pool.names.agreed,
            "channel_id": channel.map(|channel| channel.id),
            "difficulty": channel.map(|channel| work_to_difficulty(channel.target.expected_hashes())),
            "unanswered_shares": channel.map(|channel| channel.unanswered),
            "extranonce_prefix": self.pool.layout.map(|layout| layout.prefix.to_string()),
            "extranonce_size": self.pool.layout.map(|layout| layout.size),
        })
    }
}

impl Claim {
    fn status(&self, now: Now) -> Value {
        json!({
            "id": self.id,
            "prev_hash": BlockHash(self.tip.prev_hash).to_string(),
            "template_id": self.key.template.map(|(_, id)| id),
            "coinbase_value_sats": self.template.as_ref().map(|template| template.coinbase_tx_value_remaining),
            "state": match (&self.step, &self.accepted) {
                (_, Some(_)) => "accepted",
                (Step::Rest, None) if self.custom.is_none() => "pool's own",
                (Step::Rest, None) => "not declared",
                (Step::Data { .. }, None) => "waiting for transactions",
                (Step::Token { .. }, None) => "waiting for a token",
                (Step::Declared { .. }, None) => "waiting for the JDS",
                (Step::Pool { .. } | Step::Proposed { .. }, None) => "waiting for the pool",
            },
            "age_seconds": now.instant.saturating_duration_since(self.made).as_secs(),
            "cached_shares": self.cache.len(),
        })
    }
}

impl Channel {
    fn status(&self, peer: PeerId, miner: &Miner, now: Now) -> Value {
        let server = &self.server;
        json!({
            "connection": peer.0,
            "remote": miner.remote.to_string(),
            "vendor": miner.session.vendor,
            "id": server.id(),
            "group": server.group_channel_id(),
            "kind": match server.kind() {
                ChannelKind::Standard => "standard",
                ChannelKind::Extended => "extended",
            },
            "identity": &*self.identity,
            "named_workers": self.names.len(),
            "extranonce_prefix": server.extranonce_prefix().to_string(),
            "extranonce_size": server.extranonce_size(),
            "difficulty": work_to_difficulty(server.target().expected_hashes()),
            "hashrate": self.hash_rate(),
            "accepted": self.accepted,
            "rejected": self.rejected,
            "last_share_age_seconds": self.last_share.map(|at| now.instant.saturating_duration_since(at).as_secs()),
        })
    }
}
