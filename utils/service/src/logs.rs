//! Log events, to stderr only: stdout belongs to the answers of commands.
//!
//! A thread of its own writes them, since whoever logs may hold a lock that all connections need: a reader of the log
//! that stalls costs lines, which are counted, and nothing else.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::config::{ConfigError, Log, LogFormat};

/// Lines that wait to be written; those beyond are dropped.
const LINES: usize = 8_192;

/// Lines that were dropped.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Starts logging for the whole process; the first call wins. `rust_log` is the value of `RUST_LOG`. What waits is written
/// when the guard is dropped: at the end of the program.
pub(crate) fn start(log: &Log, rust_log: Option<&str>) -> WorkerGuard {
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(LINES).finish(std::io::stderr());
    let dropped = writer.error_counter();
    // Checked before: what does not parse here is left out of the filter.
    let filter = EnvFilter::builder().parse_lossy(rust_log.unwrap_or(&log.level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // Fails only if the program has its own logging, which is then used.
    let started = match log.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if started.is_ok() {
        let _ = DROPPED.set(dropped);
    }
    guard
}

/// Lines that were dropped because whoever reads the log does not keep up.
pub(crate) fn dropped() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Refuses a level that is none. The filter itself takes any word for the name of a module.
pub(crate) fn check(log: &Log) -> Result<(), ConfigError> {
    check_filter(&log.level).map_err(|message| ConfigError::new("log.level", message))
}

/// Refuses a filter with a part that is neither `LEVEL` nor `MODULE=LEVEL`.
pub(crate) fn check_filter(filter: &str) -> Result<(), String> {
    let level = |text: &str| text.parse::<LevelFilter>().is_ok() && text.parse::<usize>().is_err();
    let bad = filter.split(',').map(str::trim).find(|part| match part.rsplit_once('=') {
        Some((module, name)) => module.is_empty() || !level(name),
        None => !level(part),
    });
    match bad {
        Some(part) => Err(format!(
            "`{part}` is not a level: expected off, error, warn, info, debug, trace or parts like `info,adit_pool=debug`"
        )),
        None => EnvFilter::try_new(filter).map(drop).map_err(|e| e.to_string()),
    }
}
