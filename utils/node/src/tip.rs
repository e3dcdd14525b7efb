//! The node's best tip, told as it changes.

use std::time::Duration;

use bitcoin::BlockHash;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{Node, NodeError, calls::NO_PARAMS, hex::HashResult};

/// One wait at the node. Short enough that a thread of the node which waits for a client long gone is soon free again.
const WAIT: Duration = Duration::from_secs(30);
/// Between looks at the tip beside the wait: what the wait missed, and a node whose machine vanished.
const LOOK_EVERY: Duration = Duration::from_secs(3);
const BACK_OFF_FIRST: Duration = Duration::from_millis(250);
const BACK_OFF_MOST: Duration = Duration::from_secs(2);
/// Events not yet taken. When it is full the watch stands still and asks for the newest tip afterwards: a slow reader
/// misses tips that are no longer true, nothing else.
const EVENTS: usize = 16;

/// What happened to the tip or to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TipEvent {
    /// The node answers, for the first time or again. What it lost while away, a tip included, shows in `New`.
    Up,
    /// The best tip is another one. It may be lower than the last: a node that was killed lost what it had not written.
    New {
        /// The tip.
        hash: BlockHash,
    },
    /// The node does not answer. Told again when the reason becomes another one.
    Down(NodeError),
}

/// Follows a node's best tip until dropped.
///
/// Each outage is told once as [`TipEvent::Down`] and ends with [`TipEvent::Up`]; a first `Up` and the first tip come
/// as soon as the node answers. The node is asked again after 0.25 s, doubling to 2 s.
#[derive(Debug)]
pub struct TipWatch {
    events: mpsc::Receiver<TipEvent>,
    task: JoinHandle<()>,
}

impl TipWatch {
    /// Starts the watch. Must be called within a tokio runtime.
    pub fn spawn(node: Node) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        let watch = Watch { node, events: sender, tip: None, down: None };
        // It ends by itself only when nobody listens any more.
        let task = tokio::spawn(async move {
            let _ = watch.run().await;
        });
        Self { events, task }
    }

    /// The next event. `None` never comes while the runtime lives.
    pub async fn recv(&mut self) -> Option<TipEvent> {
        self.events.recv().await
    }
}

impl Drop for TipWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watch {
    node: Node,
    events: mpsc::Sender<TipEvent>,
    tip: Option<BlockHash>,
    /// The reason last told.
    down: Option<NodeError>,
}

/// Nobody listens.
struct Deaf;

impl Watch {
    async fn run(mut self) -> Result<(), Deaf> {
        let mut back_off = BACK_OFF_FIRST;
        let mut first = true;
        loop {
            let error = match self.look().await {
                Ok(tip) => {
                    let was_down = self.down.take().is_some();
                    if first || was_down {
                        self.tell(TipEvent::Up).await?;
                    }
                    first = false;
                    back_off = BACK_OFF_FIRST;
                    self.follow(tip).await?
                }
                Err(error) => error,
            };
            self.is_down(error).await?;
            sleep(back_off).await;
            back_off = (back_off * 2).min(BACK_OFF_MOST);
        }
    }

    /// Until the node fails.
    async fn follow(&mut self, mut tip: BlockHash) -> Result<NodeError, Deaf> {
        loop {
            self.is(tip).await?;
            let started = Instant::now();
            let seen = tokio::select! {
                seen = self.wait(&tip) => seen,
                seen = self.look_for_another(&tip) => seen,
            };
            match seen {
                Err(error) => return Ok(error),
                // A node that does not really wait (it is about to end) must not be asked in a tight loop.
                Ok(seen) if seen == tip && started.elapsed() < WAIT / 2 => {
                    sleep(BACK_OFF_FIRST).await;
                }
                Ok(seen) => tip = seen,
            }
        }
    }

    async fn wait(&self, tip: &BlockHash) -> Result<BlockHash, NodeError> {
        match self.node.waitfornewblock(WAIT, tip).await {
            // The node lives but will not wait for us (it may have a whitelist of calls): looking remains.
            Err(error @ (NodeError::Rpc { .. } | NodeError::Credentials(_))) => {
                tracing::warn!(node = self.node.url(), %error, "no waitfornewblock: new tips come late");
                std::future::pending().await
            }
            waited => waited.map(|tip| tip.hash),
        }
    }

    async fn look_for_another(&self, tip: &BlockHash) -> Result<BlockHash, NodeError> {
        loop {
            sleep(LOOK_EVERY).await;
            let seen = self.look().await?;
            if seen != *tip {
                return Ok(seen);
            }
        }
    }

    /// Not in line behind ordinary calls.
    async fn look(&self) -> Result<BlockHash, NodeError> {
        let deadline = self.node.timeout();
        let tip = self.node.query_within::<HashResult<_>>("getbestblockhash", NO_PARAMS, deadline);
        Ok(tip.await?.0)
    }

    async fn is(&mut self, tip: BlockHash) -> Result<(), Deaf> {
        if self.tip == Some(tip) {
            return Ok(());
        }
        self.tip = Some(tip);
        self.tell(TipEvent::New { hash: tip }).await
    }

    async fn is_down(&mut self, error: NodeError) -> Result<(), Deaf> {
        if self.down.as_ref() == Some(&error) {
            return Ok(());
        }
        self.down = Some(error.clone());
        self.tell(TipEvent::Down(error)).await
    }

    async fn tell(&self, event: TipEvent) -> Result<(), Deaf> {
        self.events.send(event).await.map_err(|_| Deaf)
    }
}
