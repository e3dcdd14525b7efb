//! What the pool tells about itself.

use adit_mining::channel::ChannelKind;
use adit_mining::{BlockHash, target::work_to_difficulty};
use adit_transport::{Now, PeerId};
use serde_json::{Value, json};

use super::PoolEngine;
use super::channel::Channel;
use super::upstream::State;
use crate::metrics::Refusal;

/// Channels that `/status` lists; the rest is counted.
const MAX_CHANNELS_SHOWN: usize = 500;

/// What is missing for the pool to do its job.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Readiness {
    /// A template provider is connected.
    pub template_provider: Result<(), String>,
    /// There is work to give out.
    pub template: Result<(), String>,
}

impl PoolEngine {
    /// Whether the pool can do its job, and if not, what it waits for.
    pub fn readiness(&self) -> Readiness {
        let waits = |(name, state): (&str, &State)| match state {
            State::Down(reason) => format!("waiting for template provider {name}: {reason}"),
            State::SettingUp(..) | State::Ready(_) => {
                format!("waiting for an answer of template provider {name}")
            }
        };
        let connected = self.providers.iter().any(|provider| provider.ready().is_some());
        let reasons =
            self.providers.iter().map(|provider| waits((&provider.name, &provider.state)));
        let reasons: Vec<String> = reasons.collect();
        Readiness {
            template_provider: if connected { Ok(()) } else { Err(reasons.join("; ")) },
            template: if self.core.bench.has_work() {
                Ok(())
            } else {
                Err("no template yet".to_owned())
            },
        }
    }

    /// Connections and open channels.
    pub fn counts(&self) -> (usize, usize) {
        (self.miners.len(), self.miners.values().map(|miner| miner.channels.len()).sum())
    }

    /// Everything but what the store knows.
    pub fn status(&self, now: Now) -> Value {
        let age = |unix_ms: u64| now.unix_ms.saturating_sub(unix_ms) / 1_000;
        let providers = self.providers.iter().enumerate().map(|(index, provider)| {
            json!({
                "address": provider.name,
                "in_use": self.active == Some(index),
                "state": match &provider.state {
                    State::Down(reason) => format!("down: {reason}"),
                    State::SettingUp(..) => "setting up".to_owned(),
                    State::Ready(_) if provider.has_fresh_work() => "ready".to_owned(),
                    State::Ready(_) => "connected, no template yet".to_owned(),
                },
                "template_age_seconds": provider.last_template_unix_ms.map(age),
            })
        });
        let work = self.core.bench.tip().zip(self.core.bench.template());
        let channels = self.miners.iter().flat_map(|(peer, miner)| {
            let channels = miner.channels.values();
            channels.map(move |channel| {
                channel.status(*peer, &miner.remote.to_string(), &miner.vendor, now)
            })
        });
        json!({
            "template_providers": providers.collect::<Vec<_>>(),
            "tip": work.map(|(tip, template)| json!({
                "prev_hash": BlockHash(tip.prev_hash).to_string(),
                "nbits": format!("{:08x}", tip.nbits),
                "network_difficulty": tip.network_target.difficulty(),
                "template_id": template.id,
                "coinbase_value_sats": template.coinbase_tx_value_remaining,
            })),
            "connections": self.miners.len(),
            "channels_open": self.counts().1,
            "channels_waiting_for_a_template": self.miners.values().map(|miner| miner.held.len()).sum::<usize>(),
            "channels": channels.take(MAX_CHANNELS_SHOWN).collect::<Vec<_>>(),
            "unstored_shares": self.core.ledger.unstored(),
            "pending_blocks": self.core.solutions.len(),
        })
    }
}

impl Channel {
    fn status(&self, peer: PeerId, remote: &str, vendor: &str, now: Now) -> Value {
        let server = &self.server;
        let rejected =
            Refusal::all().map(|refusal| (refusal.label(), self.rejected[refusal.index()]));
        let rejected: serde_json::Map<String, Value> = rejected
            .filter(|(_, count)| *count > 0)
            .map(|(label, count)| (label.to_owned(), count.into()))
            .collect();
        json!({
            "connection": peer.0,
            "remote": remote,
            "vendor": vendor,
            "id": server.id(),
            "kind": match server.kind() {
                ChannelKind::Standard => "standard",
                ChannelKind::Extended => "extended",
            },
            "identity": self.identity.to_string(),
            "extranonce_prefix": server.extranonce_prefix().to_string(),
            "extranonce_size": server.extranonce_size(),
            "target": server.target().to_string(),
            "difficulty": work_to_difficulty(server.target().expected_hashes()),
            "hashrate": self.vardiff.hash_rate(),
            "accepted": self.accepted,
            "rejected": rejected,
            "last_share_age_seconds": self.last_share.map(|at| now.instant.duration_since(at).as_secs()),
        })
    }
}
