//! What the pages about the translator show.

use std::collections::BTreeMap;

use adit_transport::Now;
use serde_json::{Value, json};

use super::miner::{Miner, Opening};
use super::upstream::Stage;
use super::{Core, TranslatorEngine};
use crate::config::AuthMode;
use crate::metrics::Reject;

/// Miners that are listed; all are counted.
const MAX_LISTED: usize = 1_000;

impl TranslatorEngine {
    /// Whether there is an upstream to work for, or why not.
    pub fn readiness(&self) -> Result<(), String> {
        match self.upstream.stage {
            Stage::Ready { .. } => Ok(()),
            _ => Err(format!("{}: {}", self.upstream.dialled, self.upstream.reason())),
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
                "address": self.upstream.dialled.to_string(),
                "state": match self.upstream.stage {
                    Stage::Down => "down",
                    Stage::SettingUp { .. } => "setting-up",
                    Stage::Ready { .. } => "ready",
                },
                "reason": self.readiness().err(),
                "user_identity": self.upstream.current().config.user_identity,
                "channels": self.upstream.channels.len(),
            },
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
            "channel": self.channel.as_ref().map(|channel| json!({
                "id": channel.id,
                "group_channel_id": channel.group,
                "extranonce_prefix": channel.prefix.to_string(),
                "extranonce_size": channel.size,
                "difficulty": channel.target.difficulty(),
                "unacknowledged": channel.unacknowledged,
            })),
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
