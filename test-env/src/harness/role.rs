//! A role that runs.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use adit_service::Handle;
use adit_sv2::keys::AuthorityPublicKey;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::config::KEY_FILE;
use super::{Endpoint, POLL, Setup, program};
use crate::bitcoind::{spawn_tied, tied};

/// For an orderly end, which a role itself gives up before this.
const STOP: Duration = Duration::from_secs(60);
/// For an answer of a page, on a machine busy with other tests.
const HTTP_SECONDS: u64 = 60;
/// Of each log, shown when a test fails.
const SHOWN_LINES: usize = 60;

/// Which role.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    TemplateProvider,
    Pool,
    Translator,
    Jds,
    Jdc,
    Explorer,
    Device,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::TemplateProvider => "template-provider",
            Self::Pool => "pool",
            Self::Translator => "translator",
            Self::Jds => "jds",
            Self::Jdc => "jdc",
            Self::Device => "mining-device",
            Self::Explorer => "explorer",
        }
    }
}

/// A role that was started, and maybe killed since. Dropped, it is killed and its folder removed.
pub struct Role {
    setup: Setup,
    in_process: bool,
    http: SocketAddr,
    listen: Option<SocketAddr>,
    key: Option<AuthorityPublicKey>,
    running: Option<Running>,
    /// Last, so that the role is gone when its folder goes.
    dir: TempDir,
}

enum Running {
    Process(Child),
    /// The handle goes first: it stops the role.
    InProcess(Box<(Handle, Runtime)>),
}

impl Role {
    pub(super) fn start(setup: Setup, in_process: bool) -> Result<Self> {
        let dir = crate::temp::folder(&format!("adit-{}-", setup.kind.name()))?;
        let written = setup.write()?;
        let config = dir.path().join("config.toml");
        fs::write(&config, &written.text)?;
        if let Some(key) = &written.key {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            let mut file = options.open(dir.path().join(KEY_FILE))?;
            std::io::Write::write_all(&mut file, key.to_text().as_bytes())?;
        }
        let mut role = Self {
            in_process,
            http: written.http,
            listen: written.listen,
            key: written.key.map(|key| key.public()),
            running: None,
            dir,
            setup,
        };
        role.launch()?;
        Ok(role)
    }

    /// `template-provider`, `pool`, `translator`, `jds`, `jdc` or `mining-device`.
    pub fn name(&self) -> &'static str {
        self.setup.kind.name()
    }

    /// Where it serves its protocol, and its authority key.
    ///
    /// # Panics
    /// For mining devices, which serve none.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { addr: self.listen.expect("a role that listens"), key: self.key }
    }

    /// Where its pages are.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its folder: `config.toml`, `authority.key`, data, `log`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process, while it runs as one.
    pub fn pid(&self) -> Option<u32> {
        match &self.running {
            Some(Running::Process(child)) => Some(child.id()),
            _ => None,
        }
    }

    /// What it logged since its first start; nothing of one that runs in this process.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// What it printed on stdout since its first start.
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.dir.path().join("stdout")).unwrap_or_default()
    }

    /// Whether it does its job; if not, what it says is missing.
    ///
    /// # Errors
    /// The answer of `/readyz`, or why there is none.
    pub fn ready(&self) -> Result<(), String> {
        let (status, text) = self.get("/readyz").map_err(|error| format!("{error:#}"))?;
        if status == 200 { Ok(()) } else { Err(text.trim().to_owned()) }
    }

    /// Waits until it does its job.
    ///
    /// # Errors
    /// It does not in time, or has ended.
    pub fn wait_ready(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            let Err(missing) = self.ready() else { return Ok(()) };
            if Instant::now() > deadline {
                bail!("{} is not ready after {within:?}: {missing}\n{}", self.name(), self.tail());
            }
            thread::sleep(POLL);
        }
    }

    /// Its `/status`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Value> {
        serde_json::from_str(&self.get("/status")?.1).context("reading /status")
    }

    /// Its `/metrics`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics(self.get("/metrics")?.1))
    }

    /// SIGKILL, or for one in this process the sudden end of its threads.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill9(&mut self) -> Result<()> {
        match self.running.take() {
            None => {}
            Some(Running::Process(mut child)) => {
                child.kill()?;
                child.wait()?;
            }
            Some(Running::InProcess(running)) => running.1.shutdown_background(),
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// It does not end in time, or not well.
    pub fn stop(&mut self) -> Result<()> {
        match self.running.take() {
            None => Ok(()),
            Some(Running::Process(child)) => {
                let pid = Pid::from_child(&child);
                self.running = Some(Running::Process(child));
                kill_process(pid, Signal::TERM)?;
                let status = self.wait_exit(STOP)?;
                ensure!(status.success(), "{} ended with {status}\n{}", self.name(), self.tail());
                Ok(())
            }
            Some(Running::InProcess(running)) => {
                let (handle, runtime) = *running;
                handle.shutdown();
                runtime.block_on(handle.wait())
            }
        }
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Errors
    /// It does not in time, or is no process.
    pub fn wait_exit(&mut self, within: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            let Some(Running::Process(child)) = &mut self.running else { bail!("no process") };
            if let Some(status) = child.try_wait()? {
                self.running = None;
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "{} still runs\n{}", self.name(), self.tail());
            thread::sleep(POLL);
        }
    }

    /// Starts it again after its end, at the same addresses with the same data and key.
    ///
    /// # Errors
    /// It runs still, or cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "{} runs still", self.name());
        self.launch()
    }

    /// Asks one of its pages: status code and text.
    ///
    /// # Errors
    /// It does not answer.
    pub fn get(&self, page: &str) -> Result<(i32, String)> {
        let url = format!("http://{}{page}", self.http);
        let answer = minreq::get(url).with_timeout(HTTP_SECONDS).send()?;
        Ok((answer.status_code, answer.as_str()?.to_owned()))
    }

    fn launch(&mut self) -> Result<()> {
        let config = self.config_file();
        if self.in_process {
            let text = fs::read_to_string(&config)?;
            self.running = Some(in_process(self.setup.kind, &text, self.dir.path())?);
            return Ok(());
        }
        let mut command = tied(program(self.name())?);
        match self.setup.kind {
            Kind::Device => command.arg("--http").arg(self.http.to_string()),
            _ => command.args(["run", "-c"]).arg(&config),
        };
        let log = OpenOptions::new().create(true).append(true).open(self.log_file())?;
        let out: File =
            OpenOptions::new().create(true).append(true).open(self.dir.path().join("stdout"))?;
        command
            .args(&self.setup.args)
            .envs(self.setup.env.iter().cloned())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(log);
        let child = spawn_tied(command).with_context(|| format!("starting {}", self.name()))?;
        self.running = Some(Running::Process(child));
        Ok(())
    }

    fn config_file(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        format!("--- the log of {} at {} ends with:\n{}", self.name(), self.http, shown.join("\n"))
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // What a failure here could mean, the next test's start will say.
        let _ = self.kill9();
        if thread::panicking() {
            eprintln!("{}", self.tail());
        }
    }
}

fn in_process(kind: Kind, text: &str, dir: &Path) -> Result<Running> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let handle = match kind {
        Kind::TemplateProvider => {
            start::<adit_template_provider::TemplateProviderRole>(&runtime, text, dir)?
        }
        Kind::Pool => start::<adit_pool::Pool>(&runtime, text, dir)?,
        Kind::Translator => start::<adit_translator::TranslatorRole>(&runtime, text, dir)?,
        Kind::Jds | Kind::Jdc | Kind::Explorer | Kind::Device => {
            bail!("{} runs as a process", kind.name())
        }
    };
    Ok(Running::InProcess(Box::new((handle, runtime))))
}

fn start<R: adit_service::Role>(runtime: &Runtime, text: &str, dir: &Path) -> Result<Handle> {
    let config = adit_service::parse_config::<R::Config>(text, dir)?;
    runtime.block_on(adit_service::start::<R>(config))
}

/// What `/metrics` answered.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    /// The sum of all samples of this name whose labels include these.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut wanted = Vec::new();
        for (label, value) in labels {
            let mut text = String::new();
            let _ = write!(text, "{label}=\"{value}\"");
            wanted.push(text);
        }
        let samples = self.0.lines().filter_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            let (found, labels) = key.split_once('{').unwrap_or((key, ""));
            let fits =
                found == name && wanted.iter().all(|wanted| labels.contains(wanted.as_str()));
            fits.then(|| value.parse::<f64>().ok()).flatten()
        });
        samples.sum()
    }

    /// The text itself.
    pub fn text(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_label() {
        let text = "# TYPE a counter\na_total{r=\"x\",l=\"m\"} 2\na_total{r=\"y\",l=\"m\"} 3\na_total_b 9\nb 0.5\n";
        let metrics = Metrics(text.into());
        assert_eq!(metrics.sum("a_total", &[]), 5.0);
        assert_eq!(metrics.sum("a_total", &[("l", "m"), ("r", "y")]), 3.0);
        assert_eq!(metrics.sum("a_total", &[("r", "z")]), 0.0);
        assert_eq!(metrics.sum("b", &[]), 0.5);
    }
}
