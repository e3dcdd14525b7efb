//! The program `adit-mining-device`.

use std::process::ExitCode;

use adit_mining_device::{Config, run};
use adit_service::{Http, Log, run_program};
use clap::Parser;
use clap::error::ErrorKind;

fn main() -> ExitCode {
    let config = Config::parse();
    if let Err(message) = config.upstream() {
        let message = format!("--connect {}: {message}", config.connect);
        <Config as clap::CommandFactory>::command()
            .error(ErrorKind::ValueValidation, message)
            .exit();
    }
    let http = Http { listen: config.http };
    let log = Log { level: config.log.clone(), ..Log::default() };
    run_program("mining-device", &http, &log, |cx| run(config, cx))
}
