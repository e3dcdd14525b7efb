//! The difficulty that a miner, its owner or its firmware would like, and what the upstream is asked for.
//!
//! The upstream decides on difficulty. It is told a hashrate, from which it begins, and the easiest target that suits.

use std::time::{Duration, Instant};

use adit_mining::Target;
use adit_sv1::server::PasswordOptions;
use adit_sv2::messages::mining::UpdateChannel;
use adit_transport::{Now, Outbox};

use super::miner::Miner;
use super::{Core, Effect};
use crate::config::{MAX_DIFFICULTY, Suggested};

/// A difficulty stands for so many hashes.
const HASHES: f64 = 4_294_967_296.0;
/// Between two `UpdateChannel`s for one miner: one that changes its mind all the time is no reason to talk all the time.
const UPDATE_INTERVAL: Duration = Duration::from_secs(5);
/// A miner without a single share after this time, and after the time in which it should have found some, is slower than
/// was assumed.
const SILENCE: Duration = Duration::from_secs(60);
const SILENT_SHARES: f64 = 3.0;
/// How often its hashrate is halved for that: a millionth is left.
const MAX_HALVINGS: u8 = 20;

/// What it would like; 0 where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Wishes {
    /// Lowest difficulty (`minimum-difficulty` of `mining.configure`).
    minimum: f64,
    /// `mining.suggest_difficulty` or `mining.suggest_target`.
    suggested: f64,
    /// `d=` of the password: written by its owner, where a suggestion often is the firmware's own.
    password: f64,
    /// `th=` of the password, in hashes per second.
    hash_rate: f64,
}

/// What the upstream is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Terms {
    pub(super) nominal_hash_rate: f32,
    pub(super) max_target: Target,
}

/// What the upstream was asked for, and when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) terms: Option<Terms>,
    /// None until it was looked at once.
    at: Option<Instant>,
    halvings: u8,
}

impl Wishes {
    /// `minimum-difficulty`; whether it is kept to.
    pub(super) fn set_minimum(&mut self, difficulty: Option<f64>, policy: Suggested) -> bool {
        self.minimum = difficulty.map_or(0.0, bounded);
        difficulty.is_some() && policy != Suggested::Ignore
    }

    /// A suggestion; whether it is news.
    pub(super) fn suggest(&mut self, difficulty: f64) -> bool {
        let difficulty = bounded(difficulty);
        std::mem::replace(&mut self.suggested, difficulty) != difficulty
    }

    /// What is in the password.
    pub(super) fn set_password(&mut self, options: PasswordOptions) {
        self.password = options.difficulty.map_or(0.0, bounded);
        self.hash_rate = options.terahashes.map_or(0.0, |rate| rate * 1e12);
    }
}

fn bounded(difficulty: f64) -> f64 {
    difficulty.clamp(0.0, MAX_DIFFICULTY)
}

impl Miner {
    /// What the upstream is to be asked for.
    pub(super) fn terms(&self, core: &Core) -> Terms {
        let listener = core.listener(self.listener);
        let firmware = core.firmware.get(self.firmware);
        let Wishes { minimum, suggested, password, hash_rate } = self.wishes;
        let asked = if password > 0.0 { password } else { suggested };
        let mut floor = listener.min_difficulty.max(firmware.min_difficulty);
        let mut begins = 0.0;
        if listener.suggested != Suggested::Ignore {
            floor = floor.max(minimum);
            begins = asked;
        }
        if listener.suggested == Suggested::Floor {
            floor = floor.max(asked);
        }
        let rate = if hash_rate > 0.0 {
            hash_rate
        } else if begins > 0.0 {
            begins * HASHES * core.settings.expected_shares_per_minute / 60.0
        } else {
            listener.nominal_hash_rate
        };
        let rate = rate / f64::from(1_u32 << self.told.halvings);
        Terms {
            // A claim above what the field can carry would be refused as infinite.
            nominal_hash_rate: (rate as f32).clamp(1.0, f32::MAX),
            max_target: if floor > 0.0 { Target::from_difficulty(floor) } else { Target::MAX },
        }
    }

    /// Looked at once a second: tells the upstream what has changed.
    pub(super) fn update_channel(&mut self, core: &Core, now: Now, out: &mut Outbox<Effect>) {
        let (Some(channel), Some(upstream), Some(told)) =
            (&self.channel, core.upstream, self.told.terms)
        else {
            return;
        };
        let at = *self.told.at.get_or_insert(now.instant);
        let since = now.instant.saturating_duration_since(at);
        let (id, target) = (channel.id, channel.target);
        if self.stats.accepted == 0 && since >= SILENCE && self.told.halvings < MAX_HALVINGS {
            let hashes = f64::from(told.nominal_hash_rate) * since.as_secs_f64();
            if hashes / target.expected_hashes() as f64 >= SILENT_SHARES {
                self.told.halvings += 1;
            }
        }
        let terms = self.terms(core);
        if terms == told || since < UPDATE_INTERVAL {
            return;
        }
        self.told.terms = Some(terms);
        self.told.at = Some(now.instant);
        let (nominal_hash_rate, maximum_target) =
            (terms.nominal_hash_rate, terms.max_target.to_le_bytes());
        out.send(upstream, &UpdateChannel { channel_id: id, nominal_hash_rate, maximum_target });
    }

    /// Its channel is gone: the next is asked for anew.
    pub(super) fn forget_told(&mut self) {
        self.told.terms = None;
        self.told.at = None;
    }
}
