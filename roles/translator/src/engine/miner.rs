//! A miner: what it said of itself, its channel, its jobs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use adit_mining::{Extranonce, Target};
use adit_sv1::server::write;
use adit_transport::{Now, Outbox, PeerId};

use super::aggregate::Share;
use super::channel::{Channel, Work};
use super::conduct::Conduct;
use super::job::{V1Job, V1Jobs, write_notify};
use super::login::{Held, too_long};
use super::rate::HashRate;
use super::wishes::{Told, Wishes};
use super::{Core, Effect};
use crate::config::Channels;
use crate::metrics::Reject;

/// How often it is logged that coinbases are too long for some miners.
const COINBASE_LOGGED: std::time::Duration = std::time::Duration::from_secs(60);

/// One connection of a miner.
#[derive(Debug)]
pub(super) struct Miner {
    pub(super) remote: SocketAddr,
    /// Where it connected: place in [`Settings::listeners`](super::Settings).
    pub(super) listener: u8,
    pub(super) connected: Instant,
    /// As it names itself; cut, without control characters.
    pub(super) user_agent: Box<str>,
    /// What is known of such firmware: place in the table.
    pub(super) firmware: u8,
    /// Since it authorised.
    pub(super) user: Option<Box<str>>,
    /// While its password is being verified.
    pub(super) held: Option<Box<Held>>,
    /// Answers that wait for that to `mining.authorize`, in lines.
    pub(super) waiting: Vec<u8>,
    pub(super) wishes: Wishes,
    pub(super) told: Told,
    pub(super) conduct: Conduct,
    /// Since it subscribed: unique among the miners of this process.
    pub(super) extranonce1: Option<Extranonce>,
    pub(super) extranonce2_size: u8,
    /// Version bits it may roll; none before `mining.configure`.
    pub(super) mask: u32,
    /// Of those, what the current upstream and job allow; what it was told last.
    pub(super) told_mask: u32,
    /// What it was told last.
    pub(super) difficulty: Option<f64>,
    pub(super) last_notify: Instant,
    pub(super) opening: Opening,
    pub(super) failed_opens: u8,
    pub(super) channel: Option<Box<Channel>>,
    /// Its channel of an upstream that was left, as long as that still listens.
    pub(super) leaving: Option<Box<Channel>>,
    /// Where all miners share a channel.
    pub(super) aggregated: Share,
    pub(super) jobs: V1Jobs,
    pub(super) stats: Stats,
}

/// How far a miner is on its way to a channel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Opening {
    /// It has one, or does not want one yet, or there is no upstream.
    Idle,
    /// It is in the queue.
    Queued,
    /// The request with this id is not answered yet.
    Requested(u32),
    /// It was refused, and tries again.
    RetryAt(Instant),
}

/// What is counted of one miner.
#[derive(Debug)]
pub(super) struct Stats {
    pub(super) accepted: u64,
    pub(super) rejected: [u32; Reject::ALL.len()],
    pub(super) upstream_accepted: u64,
    pub(super) upstream_rejected: u32,
    pub(super) repaired_lines: u32,
    pub(super) last_share: Option<Instant>,
    /// Difficulty of the best accepted share.
    pub(super) best: f64,
    pub(super) hash_rate: HashRate,
}

impl Miner {
    pub(super) fn new(remote: SocketAddr, listener: u8, firmware: u8, now: Instant) -> Self {
        Self {
            remote,
            listener,
            connected: now,
            user_agent: Box::default(),
            firmware,
            user: None,
            held: None,
            waiting: Vec::new(),
            wishes: Wishes::default(),
            told: Told::default(),
            conduct: Conduct::default(),
            extranonce1: None,
            extranonce2_size: 0,
            mask: 0,
            told_mask: 0,
            difficulty: None,
            last_notify: now,
            opening: Opening::Idle,
            failed_opens: 0,
            channel: None,
            leaving: None,
            aggregated: Share::default(),
            jobs: V1Jobs::default(),
            stats: Stats {
                accepted: 0,
                rejected: [0; Reject::ALL.len()],
                upstream_accepted: 0,
                upstream_rejected: 0,
                repaired_lines: 0,
                last_share: None,
                best: 0.0,
                hash_rate: HashRate::new(now),
            },
        }
    }

    /// Whether it has said all that a channel and work need.
    pub(super) fn is_introduced(&self) -> bool {
        self.user.is_some() && self.extranonce1.is_some()
    }

    /// Whether it should have a channel and does nothing yet to get one.
    pub(super) fn wants_channel(&self, now: Instant) -> bool {
        let waits = match self.opening {
            Opening::Idle => false,
            Opening::Queued | Opening::Requested(_) => true,
            Opening::RetryAt(at) => now < at,
        };
        self.is_introduced() && self.channel.is_none() && !waits
    }

    /// Bytes of extranonce that are its own: `extranonce1` and `extranonce2`.
    pub(super) fn own_extranonce_size(&self) -> usize {
        let extranonce1 = self.extranonce1.map_or(0, |extranonce1| extranonce1.len());
        extranonce1 + usize::from(self.extranonce2_size)
    }

    /// Its channel is gone. It goes on with its last job, though nobody pays for that.
    pub(super) fn lose_channel(&mut self) -> Option<Box<Channel>> {
        self.opening = Opening::Idle;
        self.forget_told();
        let channel = self.channel.take()?;
        self.jobs.orphan(channel.via);
        Some(channel)
    }

    /// The upstream is left: the channel counts until there is work on another, and after that for blocks.
    pub(super) fn leave_channel(&mut self) {
        self.opening = Opening::Idle;
        self.forget_told();
        self.end_leaving();
        self.leaving = self.channel.take();
    }

    /// The connection that was left is gone.
    pub(super) fn end_leaving(&mut self) {
        if let Some(left) = self.leaving.take() {
            self.jobs.orphan(left.via);
        }
    }

    /// Whether it has no work but that of an upstream that was left.
    pub(super) fn works_on_what_it_leaves(&self) -> bool {
        let job = self.jobs.newest().filter(|job| job.live);
        let left = self.leaving.as_ref();
        job.zip(left).is_some_and(|(job, left)| job.work.via == left.via)
    }

    /// It said what it is.
    pub(super) fn set_firmware(&mut self, firmware: u8, core: &Core) {
        core.metrics.firmware(core.firmware.label(self.firmware), -1);
        core.metrics.firmware(core.firmware.label(firmware), 1);
        self.firmware = firmware;
    }

    /// Gives it new work. `void_others`: no other job of the upstream counts any more.
    pub(super) fn notify(
        &mut self,
        peer: PeerId,
        work: Arc<Work>,
        void_others: bool,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let live = self.channel.is_some();
        self.give(peer, work, live, void_others, core, now, out);
    }

    /// Gives it its work once more, so that it does not think the connection dead.
    pub(super) fn notify_again(
        &mut self,
        peer: PeerId,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        self.again(peer, false, core, now, out);
    }

    /// Gives it its work once more, and takes back all other.
    pub(super) fn fresh_job(
        &mut self,
        peer: PeerId,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        self.again(peer, true, core, now, out);
    }

    fn again(
        &mut self,
        peer: PeerId,
        void_others: bool,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        if core.settings.channels == Channels::Aggregated {
            return self.take_again(peer, void_others, core, now, out);
        }
        if let Some(job) = self.jobs.newest() {
            // Work of a channel that is gone does not come to life with the next channel.
            let (work, live) = (job.work.clone(), job.live);
            self.give(peer, work, live, void_others, core, now, out);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a job is made of, and where it goes")]
    fn give(
        &mut self,
        peer: PeerId,
        work: Arc<Work>,
        live: bool,
        void_others: bool,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        if !self.takes_coinbase(peer, &work, core, now, out) {
            return;
        }
        let last = self.jobs.newest();
        // Jobs of another channel are of no use on this one.
        let is_another = |last: &V1Job| last.work.via != work.via || !last.live && live;
        let replace = void_others || last.is_none_or(is_another);
        // Jobs with another prefix still count; all the same the upstream wants them to end.
        let clean = replace || last.is_some_and(|last| last.work.prefix != work.prefix);
        let again = last.filter(|last| {
            last.work.tip.prev_hash == work.tip.prev_hash
                && last.work.prefix == work.prefix
                && last.work.job.has_same_headers(&work.job)
        });
        // The same work a second time must have another time, or the miner does the same hashes again.
        let ntime = work.min_ntime.saturating_add(work.age(now.instant));
        let ntime = again.map_or(ntime, |last| ntime.max(last.ntime.saturating_add(1)));

        let difficulty = write::announced_difficulty(nearly_whole(work.target.difficulty()));
        let announced = Target::from_difficulty(difficulty);
        let allowed = if work.version_rolling { self.mask } else { 0 };
        let job = V1Job { id: core.next_job_id(), announced, ntime, live, work };
        let own = self.own_extranonce_size();
        out.say(peer, |lines| {
            if self.told_mask != allowed {
                write::set_version_mask(lines, allowed);
                lines.push(b'\n');
            }
            if self.difficulty != Some(difficulty) {
                write::set_difficulty(lines, difficulty);
                lines.push(b'\n');
            }
            write_notify(lines, &job, job.work.job.version(), own, clean);
            lines.push(b'\n');
        });
        self.told_mask = allowed;
        self.difficulty = Some(difficulty);
        self.last_notify = now.instant;
        self.jobs.push(job, replace);
    }

    /// Whether its firmware takes a coinbase of this length. If not it is refused rather than given something that it cuts:
    /// whatever it found would be worth nothing.
    pub(super) fn takes_coinbase(
        &self,
        peer: PeerId,
        work: &Work,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> bool {
        let Some(coinbase) = work.job.coinbase() else { return false };
        let size =
            coinbase.prefix().len() + coinbase.full_extranonce_size() + coinbase.suffix().len();
        core.coinbase_seen = Some((size, now.instant));
        let firmware = core.firmware.get(self.firmware);
        let most = firmware.max_coinbase_bytes;
        if size <= most {
            return true;
        }
        core.metrics.coinbase_too_long(core.firmware.label(self.firmware));
        self.show(peer, &too_long(size, most), core, out);
        if core.coinbase_logged.is_none_or(|at| now.instant >= at + COINBASE_LOGGED) {
            core.coinbase_logged = Some(now.instant);
            let (user_agent, firmware) =
                (&*self.user_agent, &*core.firmware.get(self.firmware).name);
            tracing::warn!(%peer, user_agent, firmware, size, most, "the upstream's coinbase is too long for miners like this one, which are refused; [[firmware]] sets another limit");
        }
        core.doomed.push((peer, "coinbase-too-long"));
        false
    }
}

/// A difficulty that misses a whole number by no more than the error of the division it comes from: as the difficulty is
/// rounded down, 2 would become 1 and the miner would send twice as many shares as the upstream takes.
pub(super) fn nearly_whole(difficulty: f64) -> f64 {
    const ERROR: f64 = 1e-12;
    let whole = difficulty.round();
    if (difficulty - whole).abs() <= whole * ERROR { whole } else { difficulty }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_difficulties_are_announced_as_they_are() {
        for difficulty in (1..1_000_u64).chain([1 << 20, 123_456_789_012]) {
            let difficulty = difficulty as f64;
            let back = Target::from_difficulty(difficulty).difficulty();
            assert_eq!(write::announced_difficulty(nearly_whole(back)), difficulty);
        }
        assert_eq!(write::announced_difficulty(nearly_whole(2_887.6)), 2_887.0);
        let easy = 0.000_007;
        assert_eq!(write::announced_difficulty(nearly_whole(easy)), easy);
    }
}
