//! How a miner behaves, and what is done about it. Whatever it does costs its own connection and nothing else.

use std::time::{Duration, Instant};

use adit_sv1::server::write;
use adit_transport::{Now, Outbox, PeerId};

use super::miner::Miner;
use super::session::Next;
use super::{Core, Effect};

/// Time with nothing but refused shares, after which something is done about it, and after which the next thing is.
const RUNG: Duration = Duration::from_secs(60);
/// The id of our `mining.ping`, as ckpool's.
const PING_ID: u64 = 42;

/// What is remembered of it. Small: every connection has one.
#[derive(Debug, Default)]
pub(super) struct Conduct {
    /// Seconds after it connected: when it last said something.
    heard: u32,
    /// Lines in the second in which it did.
    lines: u32,
    /// All of its shares are refused here.
    refused: Ladder,
    /// All of its shares that were sent upstream are refused there.
    pub(super) refused_upstream: Ladder,
    /// Asked whether it is still there.
    pinged: bool,
    pub(super) bad_lines: u8,
    /// Users that it may not be.
    pub(super) failed_logins: u8,
    /// Whether it was asked to connect anew, which is done once.
    pub(super) asked_to_reconnect: bool,
}

/// How far it has come with a miner whose shares are all refused.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ladder {
    /// Since when they are, or the last thing was done about that.
    since: Option<Instant>,
    /// What was done about it.
    rung: u8,
}

/// What is done about such a miner, one after the other.
const LADDER: [&str; 3] = ["fresh-job", "reconnect", "drop"];

impl Ladder {
    /// Another share is refused, and nothing was accepted since the last one: what is to be done, if it is time.
    fn climb(&mut self, now: Instant, may: impl FnOnce(Instant) -> bool) -> Option<usize> {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) < RUNG || !may(since) {
            return None;
        }
        self.since = Some(now);
        let rung = usize::from(self.rung).min(LADDER.len() - 1);
        self.rung = self.rung.saturating_add(1);
        Some(rung)
    }
}

impl Miner {
    /// It said a line; whether it may.
    pub(super) fn may_speak(&mut self, core: &Core, now: Now) -> bool {
        let second = self.seconds(now);
        let conduct = &mut self.conduct;
        if conduct.heard != second {
            conduct.lines = 0;
        }
        conduct.heard = second;
        conduct.lines += 1;
        conduct.pinged = false;
        conduct.lines <= core.settings.max_lines_per_second
    }

    /// Looked at once a second: whether it has been silent for too long. One that answers is asked before.
    pub(super) fn is_idle(
        &mut self,
        peer: PeerId,
        core: &Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> bool {
        let silence =
            Duration::from_secs(self.seconds(now).saturating_sub(self.conduct.heard).into());
        let limit = core.settings.idle_timeout;
        if silence >= limit / 2 && !self.conduct.pinged && core.firmware.get(self.firmware).pings {
            self.conduct.pinged = true;
            core.answer(peer, out, |line| write::ping(line, PING_ID));
        }
        silence >= limit
    }

    /// A share of it was accepted.
    pub(super) fn behaves(&mut self) {
        self.conduct.refused = Ladder::default();
    }

    /// A share of it was refused. A fresh job helps one that works on something that is over; connecting anew one that
    /// took something the wrong way; one that cannot be helped has to go, perhaps to another pool.
    pub(super) fn misbehaves(
        &mut self,
        peer: PeerId,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Next {
        // One that has not said who it is has only so long for that.
        if !self.is_introduced() {
            return Next::Stay;
        }
        let rung = self.conduct.refused.climb(now.instant, |_| true);
        rung.map_or(Next::Stay, |rung| self.do_about_it(rung, peer, core, now, out))
    }

    /// A share of it that was accepted here was refused by the upstream. An upstream that takes nobody's shares has itself
    /// to blame: others' must have been accepted since.
    pub(super) fn refused_upstream(
        &mut self,
        peer: PeerId,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Next {
        let took = core.upstream_took;
        let may = |since| took.is_some_and(|at| at > since);
        let rung = self.conduct.refused_upstream.climb(now.instant, may);
        rung.map_or(Next::Stay, |rung| self.do_about_it(rung, peer, core, now, out))
    }

    fn do_about_it(
        &mut self,
        rung: usize,
        peer: PeerId,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Next {
        core.metrics.ladder(LADDER[rung]);
        match rung {
            0 => self.fresh_job(peer, core, now, out),
            1 => self.ask_to_reconnect(peer, core, out),
            _ => {
                self.show(peer, "only refused shares: check the device", core, out);
                return Next::Close("only-refused-shares");
            }
        }
        Next::Stay
    }

    /// Asks it to connect anew, if its firmware follows that.
    pub(super) fn ask_to_reconnect(&mut self, peer: PeerId, core: &Core, out: &mut Outbox<Effect>) {
        if core.firmware.get(self.firmware).reconnects {
            core.answer(peer, out, |line| write::reconnect(line, None));
        }
    }

    /// Shows its owner a text, if its firmware does.
    pub(super) fn show(&self, peer: PeerId, text: &str, core: &Core, out: &mut Outbox<Effect>) {
        if core.firmware.get(self.firmware).messages {
            core.answer(peer, out, |line| write::show_message(line, text));
        }
    }

    fn seconds(&self, now: Now) -> u32 {
        let since = now.instant.saturating_duration_since(self.connected).as_secs();
        u32::try_from(since).unwrap_or(u32::MAX)
    }
}
