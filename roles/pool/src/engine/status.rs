//! What the pool tells about itself.

use std::collections::HashMap;

use adit_mining::channel::ChannelKind;
use adit_mining::{BlockHash, target::work_to_difficulty};
use adit_mining_server::LinkState;
use adit_transport::{Now, PeerId};
use serde_json::{Map, Value, json};

use super::PoolEngine;
use super::channel::Channel;
use super::downstream::Miner;
use super::tally::{Tally, Worker};
use crate::metrics::Refusal;
use crate::store::Identity;

/// Channels that `/status` lists; the rest is counted.
const MAX_CHANNELS_SHOWN: usize = 500;
/// Workers that it lists, the strongest first.
const MAX_WORKERS_SHOWN: usize = 500;

/// What is missing for the pool to do its job.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Readiness {
    /// A template provider is connected.
    pub template_provider: Result<(), String>,
    /// There is work to give out.
    pub template: Result<(), String>,
    /// Miners are welcome.
    pub drain: Result<(), String>,
}

/// One worker on all its channels.
#[derive(Debug, Default)]
struct WorkerSum {
    channels: usize,
    hash_rate: f64,
    accepted: u64,
    rejected: [u64; Refusal::COUNT],
    best_difficulty: f64,
    last_share_age: Option<u64>,
}

impl PoolEngine {
    /// Whether the pool can do its job, and if not, what it waits for.
    pub fn readiness(&self) -> Readiness {
        let waits = |(name, state): (&str, &LinkState)| match state {
            LinkState::Down(reason) => format!("waiting for template provider {name}: {reason}"),
            LinkState::SettingUp(..) | LinkState::Ready(_) => {
                format!("waiting for an answer of template provider {name}")
            }
        };
        let met = |met: bool, unmet: &dyn Fn() -> String| if met { Ok(()) } else { Err(unmet()) };
        let connected = self.providers.iter().any(|provider| provider.state.ready().is_some());
        let reasons = || {
            let all =
                self.providers.iter().map(|provider| waits((&provider.name, &provider.state)));
            all.collect::<Vec<_>>().join("; ")
        };
        Readiness {
            template_provider: met(connected, &reasons),
            template: met(self.core.bench.has_work(), &|| "no template yet".to_owned()),
            drain: met(self.draining.is_none(), &|| "miners are sent elsewhere".to_owned()),
        }
    }

    /// Connections and open channels.
    pub fn counts(&self) -> (usize, usize) {
        (self.miners.len(), self.miners.values().map(|miner| miner.channels.len()).sum())
    }

    /// Everything but what the store knows. `docs/roles/pool.md` describes it.
    pub fn status(&self, now: Now) -> Value {
        let age = |unix_ms: u64| now.unix_ms.saturating_sub(unix_ms) / 1_000;
        let providers = self.providers.iter().enumerate().map(|(index, provider)| {
            json!({
                "address": provider.name,
                "in_use": self.templates.in_use() == Some(index),
                "state": match &provider.state {
                    LinkState::Down(reason) => format!("down: {reason}"),
                    LinkState::SettingUp(..) => "setting up".to_owned(),
                    LinkState::Ready(_) if self.templates.has_fresh_work(index) => "ready".to_owned(),
                    LinkState::Ready(_) => "connected, no template yet".to_owned(),
                },
                "template_age_seconds": provider.last_template_unix_ms.map(age),
            })
        });
        let work = self.core.bench.tip().zip(self.core.bench.template());
        let channels = || {
            self.miners.iter().flat_map(|(peer, miner)| {
                miner.channels.iter().map(move |channel| (*peer, miner, channel))
            })
        };
        let hash_rate: f64 = channels().map(|(_, _, channel)| channel.hash_rate()).sum();
        let shown = channels().take(MAX_CHANNELS_SHOWN);
        let workers = self.workers(now);
        let workers_count = workers.len();
        let strongest = workers.into_iter().take(MAX_WORKERS_SHOWN);
        json!({
            "template_providers": providers.collect::<Vec<_>>(),
            "tip": work.map(|(tip, template)| json!({
                "prev_hash": BlockHash(tip.prev_hash).to_string(),
                "nbits": format!("{:08x}", tip.nbits),
                "network_difficulty": tip.network_target.difficulty(),
                "template_id": template.id,
                "height": self.core.bench.height(),
                "coinbase_value_sats": template.coinbase_tx_value_remaining,
            })),
            "draining": self.draining.is_some(),
            "connections": self.miners.len(),
            "channels_open": self.counts().1,
            "channels_waiting_for_a_template": self.miners.values().map(|miner| miner.held.len()).sum::<usize>(),
            "hashrate": hash_rate,
            "channels": shown.map(|(peer, miner, channel)| channel.status(peer, miner, now)).collect::<Vec<_>>(),
            "workers_count": workers_count,
            "workers": strongest.map(|(identity, sum)| sum.status(identity, now)).collect::<Vec<_>>(),
            "custom_jobs": self.core.declarations.as_ref().map(|rules| {
                let live = channels().filter_map(|(peer, _, channel)| channel.custom_status(peer, now));
                json!({
                    "results": rules.results,
                    "live": live.take(MAX_CHANNELS_SHOWN).collect::<Vec<_>>(),
                })
            }),
            "unstored_shares": self.core.ledger.unstored(),
            "pending_blocks": self.core.solutions.len(),
        })
    }

    /// Makes the metrics of the strongest workers anew.
    pub(super) fn measure_workers(&self, now: Now) {
        let workers = self.workers(now);
        let strongest = workers.iter().take(self.core.settings.worker_metrics);
        self.core
            .metrics
            .worker_hash_rates(strongest.map(|(identity, sum)| (*identity, sum.hash_rate)));
    }

    /// Every worker with an open channel, the strongest first.
    fn workers<'engine>(&'engine self, now: Now) -> Vec<(&'engine Identity, WorkerSum)> {
        let mut sums = HashMap::<&Identity, WorkerSum>::new();
        for channel in self.miners.values().flat_map(|miner| miner.channels.iter()) {
            let mut add = |tally: &'engine Tally, hash_rate| {
                sums.entry(&tally.identity).or_default().add(tally, hash_rate, now);
            };
            for worker in channel.workers.iter() {
                add(&worker.tally, worker.hash_rate.get(now.instant));
            }
            if channel.workers.is_empty() {
                add(&channel.tally, channel.hash_rate());
            }
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by(|(a, x), (b, y)| y.hash_rate.total_cmp(&x.hash_rate).then(a.cmp(b)));
        sums
    }
}

impl WorkerSum {
    fn add(&mut self, tally: &Tally, hash_rate: f64, now: Now) {
        self.channels += 1;
        self.hash_rate += hash_rate;
        self.accepted += tally.accepted;
        for (refusal, count) in tally.rejected() {
            self.rejected[refusal.index()] += u64::from(count);
        }
        self.best_difficulty = self.best_difficulty.max(tally.best_difficulty());
        self.last_share_age =
            [self.last_share_age, last_share_age(tally, now)].into_iter().flatten().min();
    }

    fn status(&self, identity: &Identity, now: Now) -> Value {
        let rejected = Refusal::all().map(|refusal| (refusal, self.rejected[refusal.index()]));
        json!({
            "identity": identity.to_string(),
            "account": identity.account,
            "worker": identity.worker,
            "channels": self.channels,
            "hashrate": self.hash_rate,
            "accepted": self.accepted,
            "rejected": by_reason(rejected.filter(|(_, count)| *count > 0)),
            "best_difficulty": self.best_difficulty,
            "last_share_age_seconds": self.last_share_age,
            "last_share_unix_ms": last_share_unix_ms(self.last_share_age, now),
        })
    }
}

impl Channel {
    fn status(&self, peer: PeerId, miner: &Miner, now: Now) -> Value {
        let (server, tally) = (&self.server, &self.tally);
        let age = last_share_age(tally, now);
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
            "identity": tally.identity.to_string(),
            "extranonce_prefix": server.extranonce_prefix().to_string(),
            "extranonce_size": server.extranonce_size(),
            "target": server.target().to_string(),
            "difficulty": work_to_difficulty(server.target().expected_hashes()),
            "hashrate": self.hash_rate(),
            "accepted": tally.accepted,
            "rejected": by_reason(tally.rejected()),
            "best_difficulty": tally.best_difficulty(),
            "last_share_age_seconds": age,
            "last_share_unix_ms": last_share_unix_ms(age, now),
            "named_workers": self.workers.len(),
            "workers": self.workers.iter().take(MAX_WORKERS_PER_CHANNEL).map(|worker| worker.status(now)).collect::<Vec<_>>(),
        })
    }
}

impl Channel {
    /// The newest custom job, where it is live.
    fn custom_status(&self, peer: PeerId, now: Now) -> Option<Value> {
        let custom = self.custom.as_ref()?;
        self.server.job(custom.job_id)?;
        Some(json!({
            "connection": peer.0,
            "channel": self.server.id(),
            "identity": self.tally.identity.to_string(),
            "job_id": custom.job_id,
            "mode": if custom.declared { "full-template" } else { "coinbase-only" },
            "prev_hash": BlockHash(custom.prev_hash).to_string(),
            "paid_to_pool_sats": custom.paid.to_pool,
            "value_sats": custom.paid.total,
            "merkle_steps": custom.merkle_steps,
            "age_seconds": now.instant.saturating_duration_since(custom.since).as_secs(),
        }))
    }
}

/// Workers that are listed with their channel.
const MAX_WORKERS_PER_CHANNEL: usize = 50;

impl Worker {
    fn status(&self, now: Now) -> Value {
        json!({
            "identity": self.tally.identity.to_string(),
            "hashrate": self.hash_rate.get(now.instant),
            "accepted": self.tally.accepted,
            "rejected": by_reason(self.tally.rejected()),
            "best_difficulty": self.tally.best_difficulty(),
            "last_share_age_seconds": last_share_age(&self.tally, now),
        })
    }
}

fn by_reason<N: Into<Value>>(rejected: impl Iterator<Item = (Refusal, N)>) -> Map<String, Value> {
    rejected.map(|(refusal, count)| (refusal.label().to_owned(), count.into())).collect()
}

fn last_share_age(tally: &Tally, now: Now) -> Option<u64> {
    tally.last_share.map(|at| now.instant.saturating_duration_since(at).as_secs())
}

/// To the second.
fn last_share_unix_ms(age_seconds: Option<u64>, now: Now) -> Option<u64> {
    age_seconds.map(|age| now.unix_ms.saturating_sub(age * 1_000))
}
