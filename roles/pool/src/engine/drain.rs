//! Sending miners elsewhere (`Reconnect`, spec 3.6.5).

use adit_sv2::codec::Str0255;
use adit_sv2::messages::common::Reconnect;
use adit_transport::{Outbox, PeerId};

use super::{Effect, PoolEngine};
use crate::config;

/// Where miners are sent, and how fast.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    host: String,
    port: u16,
    per_tick: usize,
}

/// Ticks in a second.
const TICKS: usize = 10;

impl From<&config::Drain> for Destination {
    fn from(drain: &config::Drain) -> Self {
        let per_tick = (drain.per_second as usize / TICKS).max(1);
        Self { host: drain.host.clone(), port: drain.port, per_tick }
    }
}

impl Destination {
    /// Whether it is where the miners come from.
    fn is_here(&self) -> bool {
        self.host.is_empty() && self.port == 0
    }
}

/// Miners are being sent elsewhere.
#[derive(Debug)]
pub(super) struct Draining {
    /// Later connections stay: those that were sent back to where they came from would be sent for ever.
    last: Option<PeerId>,
}

impl PoolEngine {
    /// Sends every miner to the place of `[drain]`, a part of them at each tick, and those that still come as well where
    /// that place is another one. All are served until they go.
    pub fn drain(&mut self) {
        let newest = self.miners.last_key_value().map(|(peer, _)| *peer);
        let here = self.core.settings.destination.is_here();
        tracing::info!(connections = self.miners.len(), "miners are sent elsewhere");
        if here {
            self.miners.values_mut().for_each(|miner| miner.sent_away = false);
        }
        self.draining = Some(Draining { last: newest.filter(|_| here) });
    }

    /// Whether nobody is left.
    pub fn is_drained(&self) -> bool {
        self.miners.is_empty()
    }

    pub(super) fn drain_tick(&mut self, out: &mut Outbox<Effect>) {
        let Some(Draining { last }) = self.draining else { return };
        let Destination { host, port, per_tick } = &self.core.settings.destination;
        let here = self.core.settings.destination.is_here();
        let concerned = |peer: &PeerId| !here || last.is_some_and(|last| *peer <= last);
        let waiting = self.miners.iter_mut().filter(|(peer, miner)| {
            concerned(peer) && !miner.sent_away && miner.session.is_set_up()
        });
        for (peer, miner) in waiting.take(*per_tick) {
            miner.sent_away = true;
            out.send(*peer, &Reconnect { new_host: Str0255::cut(host), new_port: *port });
            self.core.metrics.sent_away();
        }
    }
}
