//! A complete small role: everything that `adit-service` asks of one, and nothing else.
//!
//! `cargo run -p adit-service --example role -- init > role.toml`, then `-- check -c role.toml` and `-- -c role.toml`.

use std::process::ExitCode;

use adit_service::{
    Authority, CommonConfig, ConfigError, ConfigPath, Context, Http, Log, Reloaded, Role, Secret,
    clap,
};
use anyhow::Context as _;
use prometheus_client::metrics::counter::Counter;
use serde::Deserialize;
use serde_json::json;

/// A role that greets nobody.
pub struct Greeter;

/// Its configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[http]`
    pub http: Http,
    /// `[log]`
    pub log: Log,
    /// `[authority]`
    pub authority: Authority,
    /// `[greeting]`
    pub greeting: Greeting,
    /// `[[guests]]`
    pub guests: Vec<Guest>,
}

/// `[greeting]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Greeting {
    /// What the role does.
    pub manner: Manner,
    /// The words to say.
    pub words: Vec<String>,
    /// How often, 1 to 10.
    pub repeats: u16,
    /// Where the guest book is kept.
    pub book: ConfigPath,
}

/// What the role does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manner {
    /// Stay until told to go.
    Stay,
    /// Fail at once.
    Fail,
    /// Panic at once.
    Panic,
    /// End at once.
    Leave,
    /// Do not listen when told to go.
    Linger,
}

/// `[[guests]]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Who it is.
    pub name: String,
    /// What lets the guest in.
    pub password: Option<Secret>,
}

impl Default for Greeting {
    fn default() -> Self {
        Self {
            manner: Manner::Stay,
            words: vec!["hello".into()],
            repeats: 1,
            book: "book.db".into(),
        }
    }
}

impl CommonConfig for Config {
    fn http(&self) -> &Http {
        &self.http
    }

    fn log(&self) -> &Log {
        &self.log
    }
}

impl Role for Greeter {
    const NAME: &'static str = "polite-greeter";
    const ABOUT: &'static str = "Greets nobody, politely";
    const EXAMPLE: &'static str = r#"# adit-polite-greeter

[http]
# Health, status and metrics; not served if not given.
# listen = "127.0.0.1:8080"

[log]
level = "info"          # off, error, warn, info, debug, trace
format = "text"         # text, json

[greeting]
manner = "stay"
words = ["hello"]
repeats = 1
book = "book.db"        # relative to this file
"#;
    type Config = Config;
    const RELOADS: bool = true;

    fn check(config: &Config) -> Result<(), ConfigError> {
        if !(1..=10).contains(&config.greeting.repeats) {
            return Err(ConfigError::new("greeting.repeats", "expected 1 to 10"));
        }
        if let Some(at) = config.guests.iter().position(|guest| guest.name.is_empty()) {
            return Err(ConfigError::new(format!("guests[{at}].name"), "empty"));
        }
        if config.authority != Authority::default() {
            config.authority.load()?;
        }
        Ok(())
    }

    async fn run(config: Config, cx: Context) -> anyhow::Result<()> {
        let greetings = Counter::<u64>::default();
        cx.metrics.register(|r| r.register("greetings", "Greetings said", greetings.clone()));
        let guests = config.guests.len();
        cx.set_status(move || json!({"guests": guests}));
        let former = config.clone();
        cx.on_reload(move |config: Config| {
            let mut reloaded = Reloaded::default();
            reloaded.note("greeting", config.greeting != former.greeting, false);
            reloaded
        });
        greetings.inc();
        cx.readiness.ok("door");
        match config.greeting.manner {
            Manner::Stay => cx.shutdown.cancelled().await,
            Manner::Fail => {
                let found = Err(std::io::Error::other("it is raining"));
                return found.context("no guests").context("cannot greet");
            }
            Manner::Panic => panic!("somebody came"),
            Manner::Leave => {}
            Manner::Linger => std::future::pending().await,
        }
        Ok(())
    }

    fn extra_commands() -> Vec<clap::Command> {
        vec![clap::Command::new("bow").about("Bow").arg(clap::Arg::new("depth").required(true))]
    }

    async fn run_extra(_: &str, args: &clap::ArgMatches) -> anyhow::Result<ExitCode> {
        let depth = args.get_one::<String>("depth").context("no depth")?;
        Ok(ExitCode::from(depth.parse::<u8>().with_context(|| format!("depth {depth}"))?))
    }
}

fn main() -> ExitCode {
    adit_service::main::<Greeter>()
}
