//! Options in the password of `mining.authorize`.

use crate::json;

/// What a miner's owner wrote into the password: `x,d=1024`, `D=500000;stats`, `diff=512 th=100`.
///
/// Options are `key=value`, the key in any case, separated by commas, semicolons or blanks. What is no known option
/// with a positive number is ignored; of two of a kind the last counts.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PasswordOptions {
    /// `d=` or `diff=`: the difficulty wanted, positive and finite.
    pub difficulty: Option<f64>,
    /// `th=`: the miner's own estimate of its speed in terahashes (10^12) per second, positive and finite.
    pub terahashes: Option<f64>,
}

impl PasswordOptions {
    /// Reads the options of a password.
    pub fn parse(password: &str) -> Self {
        let mut options = Self::default();
        for part in password.split(|c: char| matches!(c, ',' | ';') || c.is_whitespace()) {
            let Some((key, value)) = part.split_once('=') else { continue };
            let Some(value) = json::parse_number(value).filter(|value| *value > 0.0) else {
                continue;
            };
            if key.eq_ignore_ascii_case("d") || key.eq_ignore_ascii_case("diff") {
                options.difficulty = Some(value);
            } else if key.eq_ignore_ascii_case("th") {
                options.terahashes = Some(value);
            }
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difficulty_in_every_way_it_is_written() {
        for (password, difficulty) in [
            ("d=1024", 1024.0),
            ("diff=1024", 1024.0),
            ("x,d=1024", 1024.0),
            ("d=500000,stats", 500_000.0),
            ("x;DIFF=0.5;y", 0.5),
            ("x D=65536", 65536.0),
            ("d=1,d=2", 2.0),
        ] {
            assert_eq!(PasswordOptions::parse(password).difficulty, Some(difficulty), "{password}");
        }
    }

    #[test]
    fn terahashes() {
        let expected = PasswordOptions { difficulty: Some(8.0), terahashes: Some(100.0) };
        assert_eq!(PasswordOptions::parse("Th=100,d=8"), expected);
    }

    #[test]
    fn passwords_that_say_nothing() {
        for password in [
            "",
            "x",
            "d",
            "d=",
            "d=-1",
            "d=0",
            "d=nan",
            "d=inf",
            "d=1k",
            "dd=1",
            "password=123",
            "d==5",
        ] {
            assert_eq!(PasswordOptions::parse(password), PasswordOptions::default(), "{password}");
        }
    }
}
