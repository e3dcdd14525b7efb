//! The command line: what to mine and how.

use std::net::SocketAddr;
use std::str::FromStr;

use clap::{Parser, ValueEnum, value_parser};

/// Mines for real on a processor, in any of three manners of speech: for tests and labs.
#[derive(Clone, Debug, Parser, PartialEq)]
#[command(name = "adit-mining-device", version, after_help = EXAMPLES)]
pub struct Config {
    /// How to speak.
    #[arg(long, value_enum, default_value_t = Mode::Sv2Extended)]
    pub mode: Mode,

    /// Where to: `stratum2+tcp://HOST:PORT/KEY` (without /KEY the server's authority is not checked), in mode `sv1`
    /// `stratum+tcp://HOST:PORT` or `HOST:PORT`.
    #[arg(long, value_name = "URL")]
    pub connect: String,

    /// Account and worker. With several connections each gets `-1`, `-2`, ... behind it. May be empty.
    #[arg(long, value_name = "NAME", default_value = "adit.device")]
    pub user: String,

    /// Password in mode `sv1`; simulated miners have no secrets.
    #[arg(long, value_name = "TEXT", default_value = "x")]
    pub password: String,

    /// Hashing threads of the whole process.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u16).range(1..=1024))]
    pub threads: u16,

    /// Hashes per second of each connection: 500, 20k, 1.5M. Without it: as fast as it goes.
    #[arg(long, value_name = "RATE")]
    pub hashrate: Option<HashRate>,

    /// Exit 0 once so many shares are acknowledged, all connections together.
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub shares: Option<u64>,

    /// Exit 1 on the first rejected share or lost connection instead of carrying on.
    #[arg(long)]
    pub strict: bool,

    /// Print a report as one JSON line on stdout at the end.
    #[arg(long)]
    pub json: bool,

    /// Be so many independent miners.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=60_000))]
    pub connections: u32,

    /// Bytes of extranonce to ask for in mode `sv2-extended`.
    #[arg(long, value_name = "BYTES", default_value_t = 4, value_parser = value_parser!(u16).range(1..=32))]
    pub extranonce_size: u16,

    /// Serve /healthz, /readyz, /status and /metrics here.
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,

    /// Log level: off, error, warn, info, debug or trace. The variable RUST_LOG goes before it.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: String,
}

/// How the device speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Mode {
    /// Stratum V2, one standard channel, header-only mining.
    Sv2Standard,
    /// Stratum V2, one extended channel.
    Sv2Extended,
    /// Stratum V1 in the manner of pooler's minerd: ids repeated, five submit parameters, no version rolling.
    Sv1,
}

impl Mode {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sv2Standard => "sv2-standard",
            Self::Sv2Extended => "sv2-extended",
            Self::Sv1 => "sv1",
        }
    }
}

/// Hashes per second, above zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HashRate(pub f64);

impl FromStr for HashRate {
    type Err = String;

    /// Reads a number that may have k, M, G or T behind it.
    fn from_str(text: &str) -> Result<Self, String> {
        let scales = [('k', 1e3), ('K', 1e3), ('M', 1e6), ('G', 1e9), ('T', 1e12)];
        let (number, scale) = scales
            .iter()
            .find_map(|(unit, scale)| Some((text.strip_suffix(*unit)?, *scale)))
            .unwrap_or((text, 1.0));
        match number.trim().parse::<f64>() {
            Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(Self(rate * scale)),
            _ => Err("expected hashes per second above zero, such as 500, 20k or 1.5M".into()),
        }
    }
}

/// Where a device connects to.
#[derive(Clone, Debug, PartialEq)]
pub enum Upstream {
    /// A Stratum V2 server.
    Sv2(adit_sv2::keys::Sv2Url),
    /// A Stratum V1 server.
    Sv1 {
        /// Name or address.
        host: String,
        /// TCP port.
        port: u16,
    },
}

impl Config {
    /// Reads `connect` in the manner of `mode`.
    ///
    /// # Errors
    /// A text for people about the flag.
    pub fn upstream(&self) -> Result<Upstream, String> {
        if self.mode != Mode::Sv1 {
            return match self.connect.parse() {
                Ok(url) => Ok(Upstream::Sv2(url)),
                Err(error) => Err(format!("{error}; expected stratum2+tcp://HOST:PORT/KEY")),
            };
        }
        let rest = self.connect.strip_prefix("stratum+tcp://").unwrap_or(&self.connect);
        match rest.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port))) if !host.is_empty() && !host.contains('/') => {
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Ok(Upstream::Sv1 { host, port })
            }
            _ => Err("expected stratum+tcp://HOST:PORT or HOST:PORT".into()),
        }
    }

    /// The identity of one connection, 0-based.
    pub fn user_of(&self, connection: usize) -> String {
        match (self.connections, self.user.is_empty()) {
            (1, _) | (_, true) => self.user.clone(),
            _ => format!("{}-{}", self.user, connection + 1),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  Mine on a pool with an extended channel until 10 shares are acknowledged:
    adit-mining-device --connect stratum2+tcp://127.0.0.1:34254/9bXi... --shares 10 --strict
  A slow V1 miner behind a translator:
    adit-mining-device --mode sv1 --connect 127.0.0.1:34255 --user alice.rig1 --hashrate 20k
  Two hundred standard channels, report as JSON:
    adit-mining-device --mode sv2-standard --connections 200 --hashrate 100 --connect ... --shares 1000 --json";

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Config {
        Config::parse_from([&["adit-mining-device", "--connect", "h:1"], arguments].concat())
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Config::command().debug_assert();
        assert!(Config::try_parse_from(["x"]).is_err(), "--connect is required");
        assert_eq!(config(&["--mode", "sv2-standard"]).mode, Mode::Sv2Standard);
    }

    #[test]
    fn rates() {
        for (text, rate) in [("500", 500.0), ("20k", 20_000.0), ("1.5M", 1_500_000.0)] {
            assert_eq!(text.parse(), Ok(HashRate(rate)));
        }
        for text in ["0", "-1", "k", "nan", "", "1e400"] {
            assert!(text.parse::<HashRate>().is_err(), "{text}");
        }
    }

    #[test]
    fn upstreams() {
        let of = |mode, connect: &str| {
            Config { mode, connect: connect.into(), ..config(&[]) }.upstream()
        };
        let sv1 = |host: &str| Ok(Upstream::Sv1 { host: host.into(), port: 3333 });
        assert_eq!(of(Mode::Sv1, "stratum+tcp://pool.example:3333"), sv1("pool.example"));
        assert_eq!(of(Mode::Sv1, "127.0.0.1:3333"), sv1("127.0.0.1"));
        assert_eq!(of(Mode::Sv1, "[::1]:3333"), sv1("::1"));
        for (mode, url) in [
            (Mode::Sv1, ""),
            (Mode::Sv1, "host"),
            (Mode::Sv1, "http://h:1"),
            (Mode::Sv2Standard, "h"),
        ] {
            assert!(of(mode, url).is_err(), "{url}");
        }
        let url =
            "stratum2+tcp://pool.example:34254/9bXiEd8boQVhq7WddEcERUL5tyyJVFYdU8th3HfbNXK3Yw6GRXh";
        assert!(matches!(of(Mode::Sv2Extended, url), Ok(Upstream::Sv2(_))));
    }

    #[test]
    fn each_connection_has_its_own_name() {
        let three = config(&["--connections", "3", "--user", "a.b"]);
        assert_eq!(three.user_of(2), "a.b-3");
        assert_eq!(Config { connections: 1, ..three.clone() }.user_of(0), "a.b");
        assert_eq!(Config { user: String::new(), ..three }.user_of(1), "");
    }
}
