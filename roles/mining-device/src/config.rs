//! The command line: what to mine and how.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::str::FromStr;

use clap::{CommandFactory, Parser, ValueEnum, value_parser};

/// Mines for real on a processor, in any of three manners of speech: for tests and labs.
#[derive(Clone, Debug, Parser, PartialEq)]
#[command(name = "adit-mining-device", version, after_help = EXAMPLES)]
pub struct Config {
    /// How to speak.
    #[arg(long, env = "ADIT_MINING_DEVICE__MODE", value_enum, default_value_t = Mode::Sv2Extended)]
    pub mode: Mode,

    /// Where to: `stratum2+tcp://HOST:PORT/KEY` (without /KEY the server's authority is not checked), in mode `sv1`
    /// `stratum+tcp://HOST:PORT` or `HOST:PORT`.
    #[arg(long, env = "ADIT_MINING_DEVICE__CONNECT", value_name = "URL")]
    pub connect: String,

    /// Account and worker. With several miners each gets `-1`, `-2`, ... behind it. May be empty.
    #[arg(
        long,
        env = "ADIT_MINING_DEVICE__USER",
        value_name = "NAME",
        default_value = "adit.device"
    )]
    pub user: String,

    /// Password in mode `sv1`; simulated miners have no secrets.
    #[arg(long, env = "ADIT_MINING_DEVICE__PASSWORD", value_name = "TEXT", default_value = "x")]
    pub password: String,

    /// Hashing threads of the whole process.
    #[arg(long, env = "ADIT_MINING_DEVICE__THREADS", value_name = "N", default_value_t = 1, value_parser = value_parser!(u16).range(1..=1024))]
    pub threads: u16,

    /// Hashes per second of each connection, its channels together: 500, 20k, 1.5M. Without it: as fast as it goes.
    #[arg(long, env = "ADIT_MINING_DEVICE__HASHRATE", value_name = "RATE")]
    pub hashrate: Option<HashRate>,

    /// Exit 0 once so many shares are acknowledged, all connections together.
    #[arg(long, env = "ADIT_MINING_DEVICE__SHARES", value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub shares: Option<u64>,

    /// Exit 1 on the first rejected share or lost connection instead of carrying on.
    #[arg(long, env = "ADIT_MINING_DEVICE__STRICT")]
    pub strict: bool,

    /// Print a report as one JSON line on stdout at the end.
    #[arg(long, env = "ADIT_MINING_DEVICE__JSON")]
    pub json: bool,

    /// Make so many connections.
    #[arg(long, env = "ADIT_MINING_DEVICE__CONNECTIONS", value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=60_000))]
    pub connections: u32,

    /// Be so many miners on each connection, in the modes of Stratum V2: a channel each.
    #[arg(long, env = "ADIT_MINING_DEVICE__CHANNELS", value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=10_000))]
    pub channels: u32,

    /// Take the jobs of a group in mode `sv2-standard`, as a proxy does (no REQUIRES_STANDARD_JOBS).
    #[arg(long, env = "ADIT_MINING_DEVICE__GROUP_JOBS")]
    pub group_jobs: bool,

    /// Name the worker in each share in mode `sv2-extended`, where the server takes that (extension 0x0002).
    #[arg(long, env = "ADIT_MINING_DEVICE__WORKER_TLV")]
    pub worker_tlv: bool,

    /// Bytes of extranonce to ask for in mode `sv2-extended`.
    #[arg(long, env = "ADIT_MINING_DEVICE__EXTRANONCE_SIZE", value_name = "BYTES", default_value_t = 4, value_parser = value_parser!(u16).range(1..=32))]
    pub extranonce_size: u16,

    /// Serve /healthz, /readyz, /status and /metrics here.
    #[arg(long, env = "ADIT_MINING_DEVICE__HTTP", value_name = "ADDR")]
    pub http: Option<SocketAddr>,

    /// Log level: off, error, warn, info, debug or trace. The variable RUST_LOG goes before it.
    #[arg(long, env = "ADIT_MINING_DEVICE__LOG", value_name = "LEVEL", default_value = "info")]
    pub log: String,
}

/// Miners of one process: each takes a place in the hashing threads' round.
const MAX_MINERS: usize = 100_000;

/// How the device speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Mode {
    /// Stratum V2, standard channels, header-only mining.
    Sv2Standard,
    /// Stratum V2, extended channels.
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
        match number.trim().parse::<f64>().map(|rate| rate * scale) {
            Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(Self(rate)),
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

    /// Refuses flags that do not go together, and an upstream that cannot be read.
    ///
    /// # Errors
    /// A text for people.
    pub fn check(&self) -> Result<(), String> {
        self.upstream().map_err(|error| format!("--connect {}: {error}", self.connect))?;
        let only = |flag: &str, given: bool, mode: Mode| {
            let elsewhere = given && self.mode != mode;
            if elsewhere { Err(format!("{flag} is for --mode {}", mode.name())) } else { Ok(()) }
        };
        only("--worker-tlv", self.worker_tlv, Mode::Sv2Extended)?;
        only("--group-jobs", self.group_jobs, Mode::Sv2Standard)?;
        if self.channels > 1 && self.mode == Mode::Sv1 {
            return Err("--channels is for the modes of Stratum V2".into());
        }
        if self.miners() > MAX_MINERS {
            return Err(format!("--connections times --channels is above {MAX_MINERS}"));
        }
        Ok(())
    }

    /// Miners on all connections.
    pub fn miners(&self) -> usize {
        self.connections as usize * self.channels as usize
    }

    /// The identity of one miner, 0-based.
    pub fn user_of(&self, miner: usize) -> String {
        match (self.miners(), self.user.is_empty()) {
            (1, _) | (_, true) => self.user.clone(),
            _ => format!("{}-{}", self.user, miner + 1),
        }
    }

    /// Hashes per second of one miner, where that is limited.
    pub fn hash_rate_of_miner(&self) -> Option<f64> {
        self.hashrate.map(|rate| rate.0 / f64::from(self.channels))
    }
}

/// The environment variables of flags begin with it.
pub const ENVIRONMENT: &str = "ADIT_MINING_DEVICE__";

impl Config {
    /// Refuses variables that are meant for the device and name no flag of it.
    ///
    /// # Errors
    /// A text for people.
    pub fn check_environment(names: impl Iterator<Item = OsString>) -> Result<(), String> {
        let command = Self::command();
        let known =
            |name: &OsString| command.get_arguments().any(|arg| arg.get_env() == Some(name));
        let ours = |name: &OsString| name.to_string_lossy().starts_with(ENVIRONMENT);
        match names.into_iter().find(|name| ours(name) && !known(name)) {
            Some(name) => Err(format!("{}: no flag has this variable", name.to_string_lossy())),
            None => Ok(()),
        }
    }
}

/// Asks a running device whether it is ready: exit code 0 if all its miners have work.
#[derive(Clone, Debug, Parser, PartialEq)]
#[command(name = "adit-mining-device healthcheck", version)]
pub struct Healthcheck {
    /// Where it serves its pages.
    #[arg(
        long,
        env = "ADIT_MINING_DEVICE__HTTP",
        value_name = "ADDR",
        required_unless_present = "url"
    )]
    pub http: Option<SocketAddr>,

    /// What to ask instead.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
}

const EXAMPLES: &str = "\
Each flag can be given as an environment variable too: --extranonce-size is ADIT_MINING_DEVICE__EXTRANONCE_SIZE, and
ADIT_MINING_DEVICE__STRICT=true is --strict. A flag goes before its variable.

`adit-mining-device healthcheck --http ADDR` asks a running device whether all its miners have work.

Examples:
  Mine on a pool with an extended channel until 10 shares are acknowledged:
    adit-mining-device --connect stratum2+tcp://127.0.0.1:34254/9bXi... --shares 10 --strict
  A slow V1 miner behind a translator:
    adit-mining-device --mode sv1 --connect 127.0.0.1:34255 --user alice.rig1 --hashrate 20k
  Two hundred standard channels, report as JSON:
    adit-mining-device --mode sv2-standard --connections 200 --hashrate 100 --connect ... --shares 1000 --json
  Ten channels on one connection, in one group:
    adit-mining-device --channels 10 --connect ...";

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Config {
        Config::parse_from([&["adit-mining-device", "--connect", "h:1"], arguments].concat())
    }

    #[test]
    fn the_command_line_is_sound() {
        Config::command().debug_assert();
        Healthcheck::command().debug_assert();
        assert!(Config::try_parse_from(["x"]).is_err(), "--connect is required");
        assert_eq!(config(&["--mode", "sv2-standard"]).mode, Mode::Sv2Standard);
    }

    #[test]
    fn flags_that_do_not_go_together_are_refused() {
        let url = "stratum2+tcp://h:1";
        let check = |arguments: &[&str]| {
            Config { connect: url.into(), ..config(arguments) }.check().map_err(|error| {
                let known =
                    ["--worker-tlv", "--group-jobs", "--channels", "--connections", "--connect"];
                known.into_iter().find(|flag| error.starts_with(flag)).unwrap_or("?")
            })
        };
        assert_eq!(check(&["--worker-tlv", "--channels", "10"]), Ok(()));
        assert_eq!(check(&["--worker-tlv", "--mode", "sv2-standard"]), Err("--worker-tlv"));
        assert_eq!(check(&["--group-jobs", "--mode", "sv2-standard"]), Ok(()));
        assert_eq!(check(&["--group-jobs"]), Err("--group-jobs"));
        assert_eq!(check(&["--connections", "60000", "--channels", "2"]), Err("--connections"));
        let sv1 = Config { mode: Mode::Sv1, channels: 2, ..config(&[]) };
        assert!(sv1.check().unwrap_err().starts_with("--channels"));
        assert!(config(&[]).check().unwrap_err().starts_with("--connect h:1"));
    }

    /// `--a-b` is `ADIT_MINING_DEVICE__A_B`.
    #[test]
    fn every_flag_is_a_variable_too() {
        for argument in Config::command().get_arguments() {
            let Some(long) = argument.get_long() else { continue };
            let expected = format!("{ENVIRONMENT}{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().unwrap().to_str(), Some(&*expected));
        }
        let check = |name: &str| Config::check_environment([name.into()].into_iter());
        assert_eq!(check("ADIT_MINING_DEVICE__EXTRANONCE_SIZE"), Ok(()));
        assert_eq!(check("ADIT_POOL__LISTEN"), Ok(()));
        assert!(check("ADIT_MINING_DEVICE__HASRATE").unwrap_err().contains("HASRATE"));
    }

    #[test]
    fn rates() {
        for (text, rate) in [("500", 500.0), ("20k", 20_000.0), ("1.5M", 1_500_000.0)] {
            assert_eq!(text.parse(), Ok(HashRate(rate)));
        }
        for text in ["1e300T", "0", "-1", "k", "nan", "", "1e400"] {
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
        let six = config(&["--connections", "3", "--channels", "2", "--hashrate", "1k"]);
        assert_eq!((six.miners(), six.user_of(5)), (6, "adit.device-6".into()));
        assert_eq!(six.hash_rate_of_miner(), Some(500.0));
    }
}
