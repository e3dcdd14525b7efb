//! What the pages about the translator show.

use std::collections::BTreeMap;

use adit_transport::Now;
use serde_json::{Value, json};

use super::channel::Channel;
use super::miner::{Miner, Opening};
use super::upstream::{Stage, Upstream};
use super::{Core, TranslatorEngine};
use crate::config::{AuthMode, Channels};
use crate::metrics::Reject;

/// Miners that are listed; all are counted.
const MAX_LISTED: usize = 1_000;

impl TranslatorEngine {
    /// Whether there is an upstream to work for, or why not.
    pub fn readiness(&self) -> Result<(), String> {
        match self.upstream.stage {
            Stage::Ready { .. } => Ok(()),
            Stage::SettingUp { .. } => {
                Err(format!("{}: no answer to SetupConnection yet", self.upstream.target))
            }
            Stage::Negotiating { .. } => {
                Err(format!("{}: no answer about extensions yet", self.upstream.target))
            }
            Stage::Down => {
                let (target, reason) = self.upstreams.last();
                Err(format!("{target}: {reason}"))
            }
        }
    }

    /// Hashes per second of all miners, and of the fastest users.
    pub fn hash_rates(&self, fastest: usize, now: Now) -> (f64, Vec<(String, f64)>) {
        let rate = |miner: &Miner| miner.stats.hash_rate.get(now.instant);
        let all = self.miners.values().map(rate).sum();
        if fastest == 0 {
            return (all, Vec::new());
        }
        let mut users = BTreeMap::<&str, f64>::new();
        for miner in self.miners.values() {
            if let Some(user) = &miner.user {
                *users.entry(user).or_default() += rate(miner);
            }
        }
        let mut users: Vec<_> = users.into_iter().collect();
        users.sort_unstable_by(|(_, a), (_, b)| b.total_cmp(a));
        users.truncate(fastest);
        (all, users.into_iter().map(|(user, rate)| (user.to_owned(), rate)).collect())
    }

    /// The document of `/status`.
    pub fn status(&self, now: Now) -> Value {
        let mut listed: Vec<_> = self.miners.iter().collect();
        listed.sort_unstable_by_key(|(peer, _)| **peer);
        let hash_rate = |miner: &Miner| miner.stats.hash_rate.get(now.instant);
        json!({
            "upstream": {
                "address": self.upstream.target.to_string(),
                "state": state(&self.upstream),
                "reason": self.readiness().err(),
                "user_identity": self.upstreams.get(self.upstream.index).config.user_identity,
                "channels": match self.core.settings.channels {
                    Channels::PerMiner => self.upstream.channels.len(),
                    Channels::Aggregated => self.core.aggregate.iter().filter(|all| all.live).count(),
                },
                "worker_names": self.core.worker_names,
                "unanswered_shares": self.core.acks.outstanding(),
            },
            "upstreams": self.upstreams.iter().enumerate().map(|(index, (config, reason))| {
                let is = |upstream: &Upstream| upstream.stage != Stage::Down && upstream.index == index;
                json!({
                    "url": config.url.to_string(),
                    "state": match &self.candidate {
                        _ if is(&self.upstream) => state(&self.upstream),
                        Some(candidate) if is(candidate) => "candidate",
                        _ => "waiting",
                    },
                    "reason": Some(reason).filter(|reason| !reason.is_empty() && !is(&self.upstream)),
                })
            }).collect::<Vec<_>>(),
            "channels": match self.core.settings.channels {
                Channels::PerMiner => "per-miner",
                Channels::Aggregated => "aggregated",
            },
            "aggregate": self.core.aggregate.as_ref().map(|all| channel_status(&all.channel)),
            "shares": self.core.metrics.totals(),
            "miners_total": self.miners.len(),
            "hashrate": self.miners.values().map(hash_rate).sum::<f64>(),
            "miners": listed.into_iter().take(MAX_LISTED).map(|(_, miner)| miner.status(&self.core, now)).collect::<Vec<_>>(),
            "listeners": self.core.settings.listeners.iter().enumerate().map(|(index, listener)| json!({
                "name": listener.name,
                "auth": if listener.auth == AuthMode::Local { "local" } else { "open" },
                "min_difficulty": listener.min_difficulty,
                "miners": self.miners.values().filter(|miner| usize::from(miner.listener) == index).count(),
            })).collect::<Vec<_>>(),
        })
    }
}

impl Miner {
    fn status(&self, core: &Core, now: Now) -> Value {
        let rejected =
            Reject::ALL.into_iter().map(|reject| (reject, self.stats.rejected[reject.index()]));
        let rejected: serde_json::Map<_, _> = rejected
            .filter(|(_, count)| *count > 0)
            .map(|(reject, count)| (reject.label().to_owned(), count.into()))
            .collect();
        let age = |at| now.instant.saturating_duration_since(at).as_secs();
        json!({
            "address": self.remote.to_string(),
            "listener": core.listener(self.listener).name,
            "firmware": core.firmware.get(self.firmware).name,
            "connected_seconds": age(self.connected),
            "user": self.user,
            "user_agent": self.user_agent,
            "extranonce1": self.extranonce1.map(|bytes| bytes.to_string()),
            "extranonce2_size": self.extranonce2_size,
            "version_mask": format!("{:08x}", self.mask),
            "channel": self.channel.as_deref().map(channel_status),
            "waiting_for_channel": self.channel.is_none() && self.opening != Opening::Idle,
            "difficulty": self.difficulty,
            "hashrate": self.stats.hash_rate.get(now.instant),
            "shares_accepted": self.stats.accepted,
            "shares_rejected": rejected,
            "upstream_accepted": self.stats.upstream_accepted,
            "upstream_rejected": self.stats.upstream_rejected,
            "repaired_lines": self.stats.repaired_lines,
            "best_share_difficulty": self.stats.best,
            "last_share_seconds": self.stats.last_share.map(age),
        })
    }
}

fn state(upstream: &Upstream) -> &'static str {
    match upstream.stage {
        Stage::Down => "down",
        Stage::SettingUp { .. } | Stage::Negotiating { .. } => "setting-up",
        Stage::Ready { .. } => "ready",
    }
}

fn channel_status(channel: &Channel) -> Value {
    json!({
        "id": channel.id,
        "group_channel_id": channel.group,
        "extranonce_prefix": channel.prefix.to_string(),
        "extranonce_size": channel.size,
        "difficulty": channel.target.difficulty(),
        "unacknowledged": channel.unacknowledged,
    })
}
