//! The tasks that ask: the node's chain, its mempool, and every role.

use std::sync::Arc;
use std::time::Duration;

use adit_node::{BlockTemplate, NodeError, Rules, TipEvent, TipWatch};
use adit_service::Readiness;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::exposition::Samples;
use crate::world::{NextBlock, NextTransaction, Tip, unix};
use crate::{App, fetch, rpc};

/// Between two questions to a role.
const ROLE_INTERVAL: Duration = Duration::from_secs(2);
/// Its metrics are asked for with every so manieth of them.
const METRICS_EVERY: u32 = 3;
/// Between two looks at the mempool.
const MEMPOOL_INTERVAL: Duration = Duration::from_secs(2);
/// Between two block templates while the mempool changes, by the time that the last one took: at most a hundredth of the
/// node's time goes there.
const TEMPLATE_SHARE: u32 = 100;
/// After a question that brought nothing.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Follows the best chain.
pub(crate) async fn chain(app: Arc<App>, readiness: Readiness) {
    readiness.waiting_for("node", "waiting for the node");
    let mut tips = TipWatch::spawn(app.node.clone());
    // Whether a tip was told that could not be taken in; it is not told again.
    let mut behind = false;
    loop {
        // Failures end in a `Down` of the watch, if they last: it is heard between two attempts.
        let event = tokio::select! {
            event = tips.recv() => event,
            () = sleep(BACK_OFF), if behind => {
                let up = app.world().node.health.is_up();
                behind = !up || is_behind(&app).await;
                continue;
            }
        };
        match event {
            None => return,
            Some(TipEvent::Up) => {
                readiness.ok("node");
                app.world_mut().node.health.up();
                app.changed();
            }
            Some(TipEvent::Down(error)) => {
                let reason = error.to_string();
                readiness.waiting_for("node", reason.clone());
                app.world_mut().node.health.down(&reason);
                app.changed();
            }
            Some(TipEvent::New { .. }) => behind = is_behind(&app).await,
        }
    }
}

/// Tries to take in the tip.
async fn is_behind(app: &App) -> bool {
    let followed = follow(app).await;
    if let Err(error) = &followed {
        tracing::debug!(%error, "the chain cannot be followed");
    }
    followed.is_err()
}

/// Takes in the tip and the blocks that the index lacks.
async fn follow(app: &App) -> Result<(), NodeError> {
    let info = app.node.getblockchaininfo().await?;
    let facts = rpc::facts(&app.node).await?;
    let tip = Tip { hash: info.best_block_hash.to_string(), height: info.blocks };
    {
        let mut world = app.world_mut();
        let node = &mut world.node;
        if node.tip.as_ref() != Some(&tip) {
            node.tip_seen = unix();
        }
        node.tip = Some(tip.clone());
        node.chain = info.chain;
        node.syncing = info.initial_block_download;
        node.facts = facts;
        // Pages do not show it for the next block any more.
        if let Some(Ok(next)) = &node.next
            && next.height <= tip.height
        {
            node.next = None;
        }
    }
    app.new_tip.notify_one();
    let mut said = Instant::now();
    loop {
        // Bound by the block, so that the lock is not held while the node is asked.
        let missing = app.index_mut().missing(tip.height, &tip.hash);
        let Some(hash) = missing else { break };
        let block = match rpc::block(&app.node, &hash).await {
            Ok(block) => block,
            // A node that prunes has no older ones.
            Err(error @ NodeError::Rpc { .. }) if !app.index().is_empty() => {
                tracing::debug!(hash, %error, "the index ends above this block");
                break;
            }
            Err(error) => return Err(error),
        };
        app.index_mut().insert(&block);
        if block.height == tip.height || said.elapsed() > BACK_OFF {
            said = Instant::now();
            app.attribute();
            app.changed();
        }
    }
    app.attribute();
    app.changed();
    Ok(())
}

/// Follows the mempool and the block that the node would make.
pub(crate) async fn mempool(app: Arc<App>) {
    let mut interval = interval(MEMPOOL_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut made: Option<(Instant, String, (u64, u64), Duration)> = None;
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = app.new_tip.notified() => {}
        }
        let (up, tip, chain, old) = {
            let world = app.world();
            let node = &world.node;
            (node.health.is_up(), node.tip.clone(), node.chain.clone(), node.mempool.clone())
        };
        let Some(tip) = tip.filter(|_| up) else { continue };
        let Ok(now) = rpc::mempool(&app.node).await else { continue };
        let state = (now.size, now.bytes);
        if old.as_ref() != Some(&now) {
            app.world_mut().node.mempool = Some(now);
            app.changed();
        }
        let wanted = match &made {
            Some((at, hash, known, took)) => {
                let rested = at.elapsed() >= *took * TEMPLATE_SHARE;
                *hash != tip.hash || (*known != state && rested)
            }
            None => true,
        };
        if !wanted {
            continue;
        }
        let started = Instant::now();
        let next = match app.node.getblocktemplate(Rules::for_chain(&chain)).await {
            Ok(template) => Ok(next_block(&template)),
            Err(NodeError::Unreachable(_)) => continue,
            Err(error) => Err(error.to_string()),
        };
        made = Some((Instant::now(), tip.hash, state, started.elapsed()));
        app.world_mut().node.next = Some(next);
        app.changed();
    }
}

fn next_block(template: &BlockTemplate) -> NextBlock {
    let transactions = template.transactions.iter().map(|tx| NextTransaction {
        txid: tx.txid.to_string(),
        fee: tx.fee,
        weight: tx.weight.into(),
    });
    NextBlock {
        height: template.height,
        value: template.coinbase_value,
        weight: template.transactions.iter().map(|tx| u64::from(tx.weight)).sum(),
        weight_limit: template.weight_limit.map_or(4_000_000, u64::from),
        transactions: transactions.collect(),
    }
}

/// Follows one role.
pub(crate) async fn role(app: Arc<App>, index: usize) {
    let keys = app.config.roles[index].clone();
    let Some((host, port)) = keys.authority() else { return };
    let mut interval = interval(ROLE_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for turn in 0_u32.. {
        interval.tick().await;
        let status = match fetch::get(host, port, "/status").await {
            Ok(body) => serde_json::from_slice::<Value>(&body)
                .map_err(|error| format!("/status is no JSON: {error}")),
            Err(reason) => Err(reason),
        };
        app.metrics.poll(&keys.name, status.is_ok());
        let samples = match &status {
            Ok(_) if turn % METRICS_EVERY == 0 => fetch::get(host, port, "/metrics").await.ok(),
            _ => None,
        };
        let samples = samples.map(|body| Samples::parse(&String::from_utf8_lossy(&body)));
        {
            let mut world = app.world_mut();
            let role = &mut world.roles[index];
            match status {
                Ok(status) => {
                    if role.health.up() {
                        tracing::info!(role = keys.name, "the role answers");
                    }
                    role.status = status;
                    role.status_at = unix();
                }
                Err(reason) => {
                    if role.health.down(&reason) {
                        tracing::warn!(role = keys.name, reason, "the role does not answer");
                    }
                }
            }
            if let Some(samples) = samples {
                role.samples = samples;
            }
            world.remember();
        }
        app.attribute();
        app.changed();
    }
}
