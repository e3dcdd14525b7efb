//! What every Adit role shares: command line, configuration, logs, metrics, health, shutdown and keys.
//!
//! A role implements [`Role`], and its binary's `main` is `adit_service::main::<Pool>()`, which gives it the commands
//! `run`, `check`, `init`, `keys` and `healthcheck`, the file and environment of [`config`], and the pages `/healthz`,
//! `/readyz`, `/status` and `/metrics`. [`start`] runs a role inside another program, as tests do; [`run_program`] serves
//! a program with a command line of its own. `examples/role.rs` is a complete small role.
//!
//! Exit codes: 0 done or stopped by a signal, 1 failed while running, 2 wrong command line or configuration.

mod cli;
pub mod config;
mod context;
pub mod healthcheck;
mod http;
mod keys;
mod logs;
mod metrics;
mod reload;
mod run;

use std::process::ExitCode;

use serde::de::DeserializeOwned;

pub use clap;
pub use cli::{main, run_cli};
pub use config::{
    Authority, CommonConfig, ConfigError, ConfigPath, Http, LoadError, Log, LogFormat, Secret,
    parse_config,
};
pub use context::{Context, Readiness, Waiting};
pub use http::{Limits, serve_router};
pub use metrics::Metrics;
pub use reload::Reloaded;
pub use run::{Handle, SHUTDOWN_GRACE, run_program, start};

/// One of the programs of the stack.
pub trait Role: 'static {
    /// The name in lower case with dashes: `template-provider` is the binary `adit-template-provider`, whose environment
    /// variables begin with `ADIT_TEMPLATE_PROVIDER__`.
    const NAME: &'static str;
    /// One sentence for `--help`.
    const ABOUT: &'static str;
    /// The commented configuration that `init` prints. It must read as the default configuration; a test of the role
    /// holds it to that, with [`parse_config`].
    const EXAMPLE: &'static str;
    /// Whether the role takes in a changed configuration while it runs: it calls [`Context::on_reload`]. `SIGHUP` then has
    /// the file read again instead of ending the process, and there is the command `reload`.
    const RELOADS: bool = false;
    /// The configuration, with `#[serde(deny_unknown_fields)]` on every struct (which rules out `flatten`).
    type Config: DeserializeOwned + CommonConfig + Send + Sync + 'static;

    /// Refuses what reads well but cannot work, such as an address of another network. Runs in `check` as well as before
    /// [`run`](Self::run), so it must not reach out to the network.
    ///
    /// # Errors
    /// The key at fault and what is wrong with it; the caller adds file and line.
    fn check(config: &Self::Config) -> Result<(), ConfigError>;

    /// Does the work until `cx.shutdown` is cancelled or the work is done.
    ///
    /// The role must set at least one condition of `cx.readiness`: without any it never counts as ready.
    fn run(config: Self::Config, cx: Context) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Commands of this role alone.
    fn extra_commands() -> Vec<clap::Command> {
        Vec::new()
    }

    /// Runs one of [`extra_commands`](Self::extra_commands). Logs go to stderr from `warn` up, or as `RUST_LOG` says.
    fn run_extra(
        name: &str,
        args: &clap::ArgMatches,
    ) -> impl Future<Output = anyhow::Result<ExitCode>> + Send {
        let _ = args;
        let message = format!("no command `{name}`");
        async { Err(anyhow::Error::msg(message)) }
    }
}
