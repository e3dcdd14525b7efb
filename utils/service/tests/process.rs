//! A role as a process, and inside another program: start, pages, signals, ends.
#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use adit_service::{Http, Log, SHUTDOWN_GRACE, run_program, start};

#[allow(dead_code)]
#[path = "../examples/role.rs"]
mod role;

use role::{Config, Greeter, Greeting, Manner};

const X: &str = "ADIT_POLITE_GREETER__";

/// For what takes a moment.
const DEADLINE: Duration = Duration::from_secs(60);

/// The example of this crate, killed when dropped.
struct Process {
    child: Child,
    log: mpsc::Receiver<String>,
}

/// Cargo builds examples beside the tests, but names their folder to nobody.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples/role");
    assert!(path.exists(), "{} is missing: run the tests of the whole crate", path.display());
    path
}

fn command(env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(example());
    command
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.envs(env.iter().map(|(name, value)| (format!("{X}{name}"), *value)));
    command
}

impl Process {
    fn start(env: &[(&str, &str)]) -> Self {
        Self::of(&mut command(env))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (lines, log) = mpsc::channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
        });
        Self { child, log }
    }

    /// The first line of the log that has all of these.
    fn line_with(&mut self, parts: &[&str]) -> String {
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(DEADLINE) {
                Ok(line) if parts.iter().all(|part| line.contains(part)) => return line,
                Ok(line) => seen.push(line),
                Err(e) => panic!("no line with {parts:?} ({e}) in {seen:#?}"),
            }
        }
    }

    fn http_addr(&mut self) -> String {
        let line = self.line_with(&["listening", "http"]);
        line.split("addr=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
    }

    fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// The exit code and the rest of the log. Stderr ends when the process does.
    fn end(&mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        loop {
            match self.log.recv_timeout(DEADLINE) {
                Ok(line) => rest.push_str(&format!("{line}\n")),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it goes on: {rest}"),
            }
        }
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn signals_end_it_well() {
    for signal in ["TERM", "INT"] {
        let mut process = Process::start(&[("HTTP__LISTEN", "127.0.0.1:0")]);
        let addr = process.http_addr();
        let health = |command: &mut Command| {
            let output = command.output().unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        };
        process.line_with(&["ready", "condition", "door"]);
        let ready = (Some(0), "ready\n".to_owned(), String::new());
        assert_eq!(health(command(&[("HTTP__LISTEN", &addr)]).arg("healthcheck")), ready);
        assert_eq!(
            health(command(&[]).args(["healthcheck", "--url", &format!("http://{addr}")])),
            ready
        );

        process.signal(signal);
        let (code, log) = process.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("has ended"), "{log}");

        let (code, out, err) = health(command(&[("HTTP__LISTEN", &addr)]).arg("healthcheck"));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    }
}

/// As on a file system that does not answer.
#[test]
fn a_configuration_that_cannot_be_read_to_its_end_holds_up_no_signal() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("role.toml");
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    // An opening waits for the other end.
    let open = || {
        let (opened, opening) = mpsc::channel();
        let file = file.clone();
        std::thread::spawn(move || {
            opened.send(std::fs::OpenOptions::new().write(true).open(file).unwrap())
        });
        opening
    };
    let mut process = Process::of(command(&[]).arg("-c").arg(&file));
    // An empty one will do.
    drop(open().recv_timeout(DEADLINE).unwrap());
    process.line_with(&["ready", "condition", "door"]);
    process.signal("HUP");
    let _never_written = open().recv_timeout(DEADLINE).unwrap();
    process.signal("TERM");
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut process =
        Process::start(&[("GREETING__MANNER", "linger"), ("HTTP__LISTEN", "127.0.0.1:0")]);
    let addr = process.http_addr();
    process.line_with(&["ready", "condition", "door"]);
    process.signal("TERM");
    process.line_with(&["not ready", "shutting down"]);
    // Its pages are there until the end.
    let asked = command(&[("HTTP__LISTEN", &addr)]).arg("healthcheck").output().unwrap();
    assert_eq!(asked.status.code(), Some(1));
    let reason = String::from_utf8(asked.stderr).unwrap();
    assert!(
        reason.starts_with("adit-polite-greeter: not ready; shutdown: shutting down (for "),
        "{reason}"
    );
    assert!(reason.ends_with(" s) (HTTP 503)\n"), "{reason}");
    process.signal("TERM");
    let (code, log) = process.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("SIGTERM again"), "{log}");
}

#[test]
fn ends_of_its_own() {
    let ended = |manner: &str| Process::start(&[("GREETING__MANNER", manner)]).end();
    let (code, log) = ended("leave");
    assert_eq!(code, Some(0), "{log}");
    let (code, log) = ended("fail");
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("failed: cannot greet: no guests: it is raining"), "{log}");
    let (code, log) = ended("panic");
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains("the role's main task failed: ") && log.contains("somebody came"),
        "{log}"
    );
}

#[test]
fn a_port_that_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, log) = Process::start(&[("HTTP__LISTEN", &addr)]).end();
    assert_eq!(code, Some(1));
    assert!(
        log.contains(&format!("http.listen: cannot listen on {addr}: Address already in use")),
        "{log}"
    );
}

#[test]
fn logs() {
    let run = |env: &[(&str, &str)], rust_log: Option<&str>| {
        let mut command = command(env);
        command.env(format!("{X}GREETING__MANNER"), "leave");
        rust_log.map(|filter| command.env("RUST_LOG", filter));
        let output = command.output().unwrap();
        assert_eq!(output.stdout, b"", "stdout is for answers");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (_, text) = run(&[], None);
    assert!(text.contains(" INFO ") && !text.contains('\u{1b}'), "{text}");
    let (_, json) = run(&[("LOG__FORMAT", "json")], None);
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(first["message"], "adit-polite-greeter starts");
    assert_eq!(first["version"], env!("CARGO_PKG_VERSION"));
    assert!(
        json.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
        "{json}"
    );
    assert_eq!(run(&[("LOG__LEVEL", "error")], None), (Some(0), String::new()));
    assert_eq!(run(&[], Some("off")), (Some(0), String::new()));
    assert!(run(&[("LOG__LEVEL", "error")], Some("info")).1.contains("has ended"));
}

fn config(manner: Manner) -> Config {
    Config {
        http: Http { listen: Some("127.0.0.1:0".parse().unwrap()) },
        greeting: Greeting { manner, ..Greeting::default() },
        ..Config::default()
    }
}

#[tokio::test]
async fn inside_another_program() {
    let handle = start::<Greeter>(config(Manner::Stay)).await.unwrap();
    handle.ready().await.unwrap();
    let addr = handle.http_addr.unwrap();
    assert_eq!(handle.listener("http").await.unwrap(), addr);
    assert!(handle.context().metrics.encode().unwrap().contains("\nadit_greetings_total 1\n"));
    tokio::net::TcpStream::connect(addr).await.unwrap();
    handle.shutdown();
    handle.wait().await.unwrap();

    // Dropping it stops it as well, pages included.
    let handle = start::<Greeter>(config(Manner::Stay)).await.unwrap();
    let (addr, shutdown) = (handle.http_addr.unwrap(), handle.context().shutdown.clone());
    drop(handle);
    shutdown.cancelled().await;
    let deadline = Instant::now() + DEADLINE;
    while tokio::net::TcpStream::connect(addr).await.is_ok() {
        assert!(Instant::now() < deadline, "it still listens");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn failures_inside_another_program() {
    let handle = start::<Greeter>(config(Manner::Leave)).await.unwrap();
    assert!(handle.listener("nobody").await.is_err());
    handle.wait().await.unwrap();

    let handle = start::<Greeter>(config(Manner::Fail)).await.unwrap();
    assert_eq!(
        format!("{:#}", handle.wait().await.unwrap_err()),
        "cannot greet: no guests: it is raining"
    );

    let mut wrong = config(Manner::Stay);
    wrong.greeting.repeats = 0;
    let refused = start::<Greeter>(wrong).await.unwrap_err();
    assert_eq!(refused.to_string(), "greeting.repeats: expected 1 to 10");
}

#[tokio::test]
async fn a_role_that_does_not_stop_is_given_up() {
    let handle = start::<Greeter>(config(Manner::Linger)).await.unwrap();
    handle.shutdown();
    let began = Instant::now();
    let given_up = handle.wait().await.unwrap_err();
    assert_eq!(given_up.to_string(), "not stopped within 8 s: what was left is given up");
    assert!(began.elapsed() >= SHUTDOWN_GRACE - Duration::from_millis(100));
}

#[test]
fn a_program_with_its_own_command_line() {
    let run = |level: &str, end: anyhow::Result<()>| {
        let log = Log { level: level.to_owned(), ..Log::default() };
        run_program("test", &Http::default(), &log, |cx| async move {
            cx.readiness.ok("all");
            end
        })
    };
    assert_eq!(run("off", Ok(())), ExitCode::SUCCESS);
    assert_eq!(run("off", Err(anyhow::anyhow!("on purpose"))), ExitCode::FAILURE);
    assert_eq!(run("loud", Ok(())), ExitCode::from(2));
}
