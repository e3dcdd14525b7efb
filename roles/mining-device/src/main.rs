//! The program `adit-mining-device`.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use adit_mining_device::{Config, Healthcheck, run};
use adit_service::{Http, Log, healthcheck, run_program};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|word| word == "healthcheck") {
        let rest = arguments.into_iter().skip(2);
        let name = OsString::from("adit-mining-device healthcheck");
        return health(&Healthcheck::parse_from(std::iter::once(name).chain(rest)));
    }
    let config = Config::parse_from(arguments);
    let names = std::env::vars_os().map(|(name, _)| name);
    if let Err(message) = config.check().and_then(|()| Config::check_environment(names)) {
        Config::command().error(ErrorKind::ValueValidation, message).exit();
    }
    let http = Http { listen: config.http };
    let log = Log { level: config.log.clone(), ..Log::default() };
    run_program("mining-device", &http, &log, |cx| run(config, cx))
}

fn health(Healthcheck { http, url }: &Healthcheck) -> ExitCode {
    let url = match (url, http) {
        (Some(url), _) => Ok(url.clone()),
        (None, Some(listen)) => healthcheck::url_of(*listen),
        (None, None) => return ExitCode::from(2), // refused by the parser
    };
    match url.and_then(|url| healthcheck::ask(&url)) {
        Ok(answer) => {
            // Whoever asked sees the exit code, whether or not the text can be printed.
            let _ = std::io::stdout().write_all(answer.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("adit-mining-device: {error:#}");
            ExitCode::FAILURE
        }
    }
}
