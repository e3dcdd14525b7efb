//! The set of liberties a line took that were understood all the same.

use std::fmt;

/// A set of repairs; what one line needed. A caller counts each per firmware (see [`Repairs::names`]).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Repairs(u32);

macro_rules! repairs {
    ($($(#[$doc:meta])* $bit:literal $constant:ident $name:literal;)*) => {
        impl Repairs {
            $($(#[$doc])* pub const $constant: Self = Self(1 << $bit);)*

            const TABLE: &[(Self, &'static str)] = &[$((Self::$constant, $name),)*];
        }
    };
}

repairs! {
    /// A string held raw or escaped control characters; they were dropped (Goldshell sends tabs).
    0 CONTROL_CHARACTER "control-character";
    /// A string was not UTF-8; each bad sequence became U+FFFD.
    1 NOT_UTF8 "not-utf8";
    /// A string held a quote that was not escaped (cgminer and ESP-Miner print user names with `sprintf`).
    2 UNESCAPED_QUOTE "unescaped-quote";
    /// A string held a backslash that begins no escape; it was kept as it is.
    3 BAD_ESCAPE "bad-escape";
    /// A number stood where a string belongs.
    4 NUMBER_FOR_TEXT "number-for-text";
    /// A string stood where a number belongs.
    5 TEXT_FOR_NUMBER "text-for-number";
    /// `params` was missing or not an array.
    6 NO_PARAMS "no-params";
    /// Spaces around or in front of the digits of a hex field (NerdMiner 1.7.0).
    7 SPACES "spaces";
    /// A hex field began with `0x`.
    8 HEX_PREFIX "hex-prefix";
    /// The nonce had fewer than 8 digits and was padded on the left (NerdMiner, one share in sixteen).
    9 SHORT_NONCE "short-nonce";
    /// The nonce had more than 8 digits and was cut after the eighth.
    10 LONG_NONCE "long-nonce";
    /// The ntime had not exactly 8 digits.
    11 NTIME_LENGTH "ntime-length";
    /// The version bits had not exactly 8 digits.
    12 VERSION_LENGTH "version-length";
    /// The extranonce2 was too short and was padded with zeros on the right, as ckpool does.
    13 SHORT_EXTRANONCE2 "short-extranonce2";
    /// The extranonce2 was too long and was cut, as ckpool does.
    14 LONG_EXTRANONCE2 "long-extranonce2";
    /// The whole rolled version was sent instead of the bits under the mask.
    15 FULL_VERSION "full-version";
    /// Version bits outside the mask that are not the job's own were dropped.
    16 VERSION_OUTSIDE_MASK "version-outside-mask";
    /// `version-rolling.mask` was missing or malformed and was taken as `ffffffff`.
    17 DEFAULT_MASK "default-mask";
    /// An option of `mining.configure` could not be read and was taken as absent.
    18 CONFIGURE_OPTION "configure-option";
    /// The difficulty was written into the method name: `mining.suggest_difficulty(N)`.
    19 ARGUMENT_IN_METHOD "argument-in-method";
    /// More parameters than the method has; the rest was ignored.
    20 EXTRA_PARAMS "extra-params";
}

impl Repairs {
    /// No repair.
    pub const NONE: Self = Self(0);

    /// Whether nothing had to be repaired.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether every repair of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds every repair of `other`.
    pub const fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The names of the repairs in this set: short, fixed, fit for a metric label.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::TABLE.iter().filter(move |(repair, _)| self.contains(*repair)).map(|(_, name)| *name)
    }
}

impl fmt::Debug for Repairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_each_bit_has_one() {
        let mut all = Repairs::NONE;
        for (repair, _) in Repairs::TABLE {
            assert_eq!(repair.0.count_ones(), 1);
            assert_eq!(all.0 & repair.0, 0);
            all.insert(*repair);
        }
        let mut names: Vec<_> = all.names().collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Repairs::TABLE.len());
    }

    #[test]
    fn sets() {
        let set = Repairs::SPACES.union(Repairs::SHORT_NONCE);
        assert!(set.contains(Repairs::SPACES) && !set.contains(Repairs::LONG_NONCE));
        assert!(Repairs::NONE.is_empty() && !set.is_empty());
        assert_eq!(format!("{set:?}"), r#"{"spaces", "short-nonce"}"#);
    }
}
