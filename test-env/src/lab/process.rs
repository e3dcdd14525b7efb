//! Processes that outlive the command that started them.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// A process, known by more than an id that the system will use again.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its start, in clock ticks since the machine's.
    pub started: u64,
}

impl Process {
    /// Whether it still runs; one that has ended and waits for its parent does not.
    pub fn is_alive(&self) -> bool {
        start_of(self.pid) == Some(self.started)
    }

    fn signal(&self, signal: Signal) {
        if let (true, Some(pid)) = (self.is_alive(), Pid::from_raw(self.pid)) {
            // It may end between the look and the signal, which is as good.
            let _ = kill_process(pid, signal);
        }
    }
}

/// Starts `command` in a process group of its own, so that Ctrl-C in the terminal does not reach it, with both outputs
/// appended to `log`.
pub(super) fn start(mut command: Command, log: &Path) -> Result<Process> {
    let program = command.get_program().to_string_lossy().into_owned();
    let file: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("opening {}", log.display()))?;
    let child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let pid = child.id() as i32;
    match start_of(pid) {
        Some(started) => Ok(Process { pid, started }),
        None => bail!("{program} ended at once; see {}", log.display()),
    }
}

/// Asks a process to end, waits, and ends it if it does not.
pub(super) fn stop(process: &Process) -> Result<()> {
    process.signal(Signal::TERM);
    if wait_gone(process, GRACE) {
        return Ok(());
    }
    process.signal(Signal::KILL);
    if wait_gone(process, GRACE) { Ok(()) } else { bail!("process {} does not end", process.pid) }
}

/// Longer than any role's own time for an orderly end; bitcoind flushes its chain in less.
const GRACE: Duration = Duration::from_secs(15);

fn wait_gone(process: &Process, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while process.is_alive() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// The start time of a process that runs: field 22 of its stat file, behind the name in parentheses.
fn start_of(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_started_seen_and_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("60");
        let process = start(command, &dir.path().join("log")).unwrap();
        assert!(process.is_alive());
        assert!(!Process { started: process.started + 1, ..process.clone() }.is_alive());
        stop(&process).unwrap();
        assert!(!process.is_alive());
        stop(&process).unwrap();
    }
}
