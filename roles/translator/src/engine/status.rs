//! What the pages about the translator show.

use adit_transport::Now;
use serde_json::{Value, json};

use super::TranslatorEngine;
use super::miner::{Miner, Opening};
use super::upstream::Stage;
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
            "miners": listed.into_iter().take(MAX_LISTED).map(|(_, miner)| miner.status(now)).collect::<Vec<_>>(),
        })
    }
}

impl Miner {
    fn status(&self, now: Now) -> Value {
        let rejected =
            Reject::ALL.into_iter().map(|reject| (reject, self.stats.rejected[reject.index()]));
        let rejected: serde_json::Map<_, _> = rejected
            .filter(|(_, count)| *count > 0)
            .map(|(reject, count)| (reject.label().to_owned(), count.into()))
            .collect();
        let age = |at| now.instant.saturating_duration_since(at).as_secs();
        json!({
            "address": self.remote.to_string(),
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
            "last_share_seconds": self.stats.last_share.map(age),
        })
    }
}
