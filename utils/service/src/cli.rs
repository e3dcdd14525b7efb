//! The command line.

use std::{
    ffi::{OsStr, OsString},
    io::Write,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Arg, ArgMatches, Command, builder::ValueParser};

use crate::{
    CommonConfig, LoadError, Log, Role,
    config::{self, Origins},
    healthcheck, keys, logs,
    run::{self, MISUSE},
};

/// The whole program of a role.
pub fn main<R: Role>() -> ExitCode {
    run_cli::<R>(
        std::env::args_os().collect(),
        std::env::vars_os().collect(),
        &mut std::io::stdout(),
        &mut std::io::stderr(),
    )
}

/// [`main`] with everything that it takes from the process as arguments; `args` begins with the program's name. Logs of
/// a running role still go to the process's stderr.
pub fn run_cli<R: Role>(
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> ExitCode {
    let matches = match command::<R>().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(e) => {
            let to: &mut dyn Write = if e.use_stderr() { err } else { out };
            // A closed pipe takes nothing away from the exit code.
            let _ = write!(to, "{}", e.render());
            return ExitCode::from(if e.use_stderr() { MISUSE } else { 0 });
        }
    };
    let outcome = dispatch::<R>(&matches, &env, out);
    match outcome {
        Ok(code) => code,
        Err(Failure::Config(e)) => {
            let _ = writeln!(err, "{e}");
            ExitCode::from(MISUSE)
        }
        Err(Failure::Run(e)) => {
            let _ = writeln!(err, "{}: {e:#}", binary::<R>());
            ExitCode::FAILURE
        }
        Err(Failure::Logged) => ExitCode::FAILURE,
    }
}

enum Failure {
    Config(LoadError),
    Run(anyhow::Error),
    /// Already in the log.
    Logged,
}

impl From<LoadError> for Failure {
    fn from(e: LoadError) -> Self {
        Self::Config(e)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(e: anyhow::Error) -> Self {
        Self::Run(e)
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::Run(e.into())
    }
}

fn dispatch<R: Role>(
    matches: &ArgMatches,
    env: &[(OsString, OsString)],
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    match matches.subcommand() {
        None => run_role::<R>(matches, env)?,
        Some(("run", matches)) => run_role::<R>(matches, env)?,
        Some(("check", matches)) => {
            checked::<R>(matches, env)?;
            writeln!(
                out,
                "{}: good",
                file(matches).map_or("environment".to_owned(), |f| f.display().to_string())
            )?;
        }
        Some(("init", _)) => out.write_all(R::EXAMPLE.as_bytes())?,
        Some(("keys", matches)) => {
            keys::generate(matches.get_one::<PathBuf>("out").map(PathBuf::as_path), out)?
        }
        Some(("healthcheck", matches)) => {
            let url = match matches.get_one::<String>("url") {
                Some(url) => url.clone(),
                None => {
                    let (config, _) = load::<R>(matches, env)?;
                    let listen = config.http().listen;
                    let listen = listen
                        .ok_or_else(|| anyhow::anyhow!("http.listen is not set: nothing to ask"))?;
                    healthcheck::url_of(listen)?
                }
            };
            out.write_all(healthcheck::ask(&url)?.as_bytes())?;
        }
        Some(("reload", matches)) if R::RELOADS => {
            let url = match matches.get_one::<String>("url") {
                Some(url) => url.clone(),
                None => {
                    // What is asked is the running one, wherever the changed file will have it listen.
                    let (config, _) = load::<R>(matches, env)?;
                    let listen = config.http().listen;
                    let listen = listen
                        .ok_or_else(|| anyhow::anyhow!("http.listen is not set: send SIGHUP"))?;
                    healthcheck::url_of(listen)?.replace("/readyz", "/reload")
                }
            };
            out.write_all(healthcheck::post(&url)?.as_bytes())?;
        }
        Some((name, matches)) => {
            let log = Log { level: "warn".to_owned(), ..Log::default() };
            let _logs = logs::start(&log, rust_log(env)?);
            return Ok(run::in_runtime(R::run_extra(name, matches))?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run_role<R: Role>(matches: &ArgMatches, env: &[(OsString, OsString)]) -> Result<(), Failure> {
    let config = checked::<R>(matches, env)?;
    let _logs = logs::start(config.log(), rust_log(env)?);
    let (matches, env) = (matches.clone(), env.to_vec());
    let load = move || {
        checked::<R>(&matches, &env).map_err(|failure| match failure {
            Failure::Config(error) => error.to_string(),
            Failure::Run(error) => format!("{error:#}"),
            Failure::Logged => String::new(),
        })
    };
    let start = run::start_with::<R>(config, load);
    run::to_the_end(R::NAME, run::until_signal(start, R::RELOADS)).map_err(|()| Failure::Logged)
}

fn checked<R: Role>(
    matches: &ArgMatches,
    env: &[(OsString, OsString)],
) -> Result<R::Config, Failure> {
    let (config, origins) = load::<R>(matches, env)?;
    logs::check(config.log()).and_then(|()| R::check(&config)).map_err(|e| origins.locate(&e))?;
    Ok(config)
}

fn load<R: Role>(
    matches: &ArgMatches,
    env: &[(OsString, OsString)],
) -> Result<(R::Config, Origins), LoadError> {
    config::load(file(matches).map(PathBuf::as_path), env, &env_prefix::<R>())
}

fn file(matches: &ArgMatches) -> Option<&PathBuf> {
    matches.get_one("config")
}

fn rust_log(env: &[(OsString, OsString)]) -> Result<Option<&str>, LoadError> {
    let Some((_, value)) =
        env.iter().find(|(name, value)| name == OsStr::new("RUST_LOG") && !value.is_empty())
    else {
        return Ok(None);
    };
    let value = value.to_str().ok_or_else(|| "not a text in UTF-8".to_owned());
    let checked = value.and_then(|value| logs::check_filter(value).map(|()| value));
    checked.map(Some).map_err(|message| LoadError {
        place: "RUST_LOG".to_owned(),
        key: String::new(),
        message,
    })
}

fn binary<R: Role>() -> String {
    format!("adit-{}", R::NAME)
}

fn env_prefix<R: Role>() -> String {
    format!("{}__", binary::<R>().replace('-', "_").to_ascii_uppercase())
}

fn command<R: Role>() -> Command {
    let name = binary::<R>();
    let config = || {
        Arg::new("config")
            .short('c')
            .long("config")
            .value_name("FILE")
            .value_parser(ValueParser::path_buf())
            .help("Configuration in TOML; not needed where the environment says everything")
    };
    let sub = |command: &'static str, about: &'static str| {
        Command::new(command).about(about).display_name(format!("{name} {command}"))
    };
    let examples = format!(
        "Examples:\n  {name} init > {0}.toml       write a commented configuration\n  {name} check -c {0}.toml     \
         look for mistakes in it\n  {name} -c {0}.toml           run\n  {name} healthcheck -c {0}.toml\n\nEvery key \
         is also an environment variable: `listen` in [http] is {1}HTTP__LISTEN.",
        R::NAME,
        env_prefix::<R>(),
    );
    let reload = sub(
        "reload",
        "Have a running one read its configuration again, as SIGHUP does: prints what holds now and what needs a restart",
    )
    .arg(config())
    .arg(Arg::new("url").long("url").value_name("URL").help("Ask here, not at http.listen"));
    Command::new(R::NAME)
        .bin_name(&name)
        .display_name(&name)
        .arg(config())
        .about(R::ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(examples)
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true)
        .subcommand(sub("run", "Run (what is done without a command, too)").arg(config()))
        .subcommand(
            sub("check", "Check a configuration: exit code 0 if it is good, else 2 and the place")
                .arg(config()),
        )
        .subcommand(sub("init", "Print a commented configuration"))
        .subcommand(
            sub("keys", "Make an authority key pair: what clients know a server by")
                .arg(
                    Arg::new("out")
                        .long("out")
                        .value_name("FILE")
                        .value_parser(ValueParser::path_buf())
                        .help(
                            "Write the secret key into this new file, readable by its owner alone",
                        ),
                )
                .after_help("Prints the public key; without --out the secret key as well."),
        )
        .subcommand(
            sub(
                "healthcheck",
                "Ask a running one if it is ready: exit code 0, or 1 and what is missing",
            )
            .arg(config())
            .arg(
                Arg::new("url").long("url").value_name("URL").help("Ask here, not at http.listen"),
            ),
        )
        .subcommands(R::RELOADS.then_some(reload))
        .subcommands(R::extra_commands())
}
