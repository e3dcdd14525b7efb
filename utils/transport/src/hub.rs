//! The hub: an engine and its connections.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::reader::Batch;
use crate::slot::LinkShared;
use crate::state::State;
use crate::{
    CloseReason, ConnectionLimits, Engine, HubOptions, Now, Outbox, PeerId, TransportMetrics,
};

/// Drives an engine: carries what arrives on its connections to it, and what it says to them. Clones are the same hub.
///
/// One lock guards the engine and the sending sides of its connections. It is held for one batch of input and never
/// across a wait; nothing that is done under it blocks.
///
/// **If the engine panics** (or the closure given to [`with`](Self::with), or `on_effect`), its state cannot be trusted
/// any more: the panic is logged, the engine is never called again, all connections are dropped, and
/// [`failed`](Self::failed) resolves. A role waits for that beside its other work and ends with an error, so that the
/// process is restarted instead of going on half dead.
pub struct Hub<E: Engine> {
    pub(crate) inner: Arc<Inner<E>>,
}

pub(crate) struct Inner<E: Engine> {
    state: Mutex<State<E>>,
    pub(crate) metrics: Arc<TransportMetrics>,
    pub(crate) cancel: CancellationToken,
    failed: CancellationToken,
}

/// The engine panicked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the engine panicked: {panic}")]
pub struct HubFailed {
    panic: Arc<str>,
}

impl<E: Engine> Hub<E> {
    /// Starts to drive `engine`. Must be called inside a tokio runtime, on which the ticks run.
    ///
    /// `on_effect` gets the engine's effects, in order and after what was said along with them. It is called under the
    /// lock: it must not block and must not call the hub.
    pub fn new(
        engine: E,
        on_effect: impl FnMut(E::Effect) + Send + 'static,
        metrics: Arc<TransportMetrics>,
        options: HubOptions,
    ) -> Self {
        let inner = Arc::new(Inner {
            state: Mutex::new(State::new(engine, Box::new(on_effect))),
            metrics,
            cancel: options.cancel,
            failed: CancellationToken::new(),
        });
        tokio::spawn(inner.clone().ticks(options.tick));
        Self { inner }
    }

    /// Calls the engine with something that did not come from a connection, then delivers what it says.
    ///
    /// # Panics
    /// If the engine panics or has panicked, see [`try_with`](Self::try_with).
    pub fn with<R>(&self, f: impl FnOnce(&mut E, Now, &mut Outbox<E::Effect>) -> R) -> R {
        self.try_with(f).unwrap_or_else(|failed| panic!("{failed}"))
    }

    /// As [`with`](Self::with), but with an error if the engine panics or has panicked.
    ///
    /// # Errors
    /// [`HubFailed`]; the hub is of no use any more.
    pub fn try_with<R>(
        &self,
        f: impl FnOnce(&mut E, Now, &mut Outbox<E::Effect>) -> R,
    ) -> Result<R, HubFailed> {
        self.inner.guarded(|state| {
            let now = Now::read();
            let result = f(&mut state.engine, now, &mut state.outbox);
            state.settle(now);
            result
        })
    }

    /// Resolves when the engine has panicked, else never.
    pub fn failed(&self) -> impl Future<Output = HubFailed> + Send + use<E> {
        let inner = self.inner.clone();
        async move {
            inner.failed.cancelled().await;
            let panic = inner.lock_state(|state| state.failed.clone());
            HubFailed { panic: panic.unwrap_or_else(|| Arc::from("")) }
        }
    }

    /// `label` is the link's name in metrics.
    pub(crate) fn link_shared(&self, label: String, limits: ConnectionLimits) -> Arc<LinkShared> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let group = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(LinkShared { group, limits, metrics: self.inner.metrics.link(label) })
    }
}

impl<E: Engine> Inner<E> {
    /// Runs `f` under the lock. A panic in it ends the hub.
    pub(crate) fn guarded<R>(&self, f: impl FnOnce(&mut State<E>) -> R) -> Result<R, HubFailed> {
        self.lock_state(|state| {
            if let Some(panic) = &state.failed {
                return Err(HubFailed { panic: panic.clone() });
            }
            // After a panic nothing of the state is used but what `fail` puts in order.
            catch_unwind(AssertUnwindSafe(|| f(state))).map_err(|payload| {
                state.fail(&*payload);
                self.failed.cancel();
                HubFailed { panic: state.failed.clone().unwrap_or_else(|| Arc::from("")) }
            })
        })
    }

    // Where the hub has failed, its connections were told, so there is nobody to tell.

    pub(crate) fn receive(
        &self,
        peer: PeerId,
        batch: &Batch,
        chunk: &[u8],
        incomplete: bool,
        fault: Option<CloseReason>,
    ) {
        let _ = self.guarded(|state| state.receive(peer, batch, chunk, incomplete, fault));
    }

    /// Sends what TLS itself has to say.
    pub(crate) fn nudge(&self, peer: PeerId) {
        let _ = self.guarded(|state| state.nudge(peer));
    }

    pub(crate) fn flush(&self, peer: PeerId) {
        let _ = self.guarded(|state| state.flush(peer));
    }

    pub(crate) fn close_group(&self, group: u64, reason: CloseReason) {
        let _ = self.guarded(|state| state.close_group(Some(group), reason));
    }

    /// Resolves when the hub is cancelled or has failed.
    pub(crate) async fn over(&self) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = self.failed.cancelled() => {}
        }
    }

    async fn ticks(self: Arc<Self>, period: std::time::Duration) {
        let mut interval = interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.over() => break,
                _ = interval.tick() => {}
            }
            let _ = self.guarded(|state| state.tick(Now::read()));
        }
        let _ = self.guarded(State::end);
    }

    fn lock_state<R>(&self, f: impl FnOnce(&mut State<E>) -> R) -> R {
        // Panics are caught inside, so the lock is never poisoned.
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<E: Engine> Clone for Hub<E> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<E: Engine> fmt::Debug for Hub<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("failed", &self.inner.failed.is_cancelled())
            .finish_non_exhaustive()
    }
}
