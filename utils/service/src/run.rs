//! Starting and stopping a role.

use std::{net::SocketAddr, pin::pin, process::ExitCode, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use tokio::{net::TcpListener, runtime, signal::unix, task::JoinHandle, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    CommonConfig, Context, Http, Log, Reloaded, Role,
    http::{self, Limits},
    logs,
};

/// How long a role may take to stop once told to; below the 10 s after which Docker kills.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(8);

/// Exit code for a wrong command line or configuration.
pub(crate) const MISUSE: u8 = 2;

/// How long threads that block may hold up the exit.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);

/// Starts a role on the current tokio runtime, with its pages but without signals or logs.
///
/// # Errors
/// The role's check refuses the configuration, or `[http] listen` cannot be bound.
pub async fn start<R: Role>(config: R::Config) -> anyhow::Result<Handle> {
    R::check(&config)?;
    let http = config.http().clone();
    start_program(R::NAME, &http, |cx| R::run(config, cx)).await
}

/// [`start`], with what reads the configuration again.
pub(crate) async fn start_with<R: Role>(
    config: R::Config,
    load: impl Fn() -> Result<R::Config, String> + Send + Sync + 'static,
) -> anyhow::Result<Handle> {
    R::check(&config)?;
    let http = config.http().clone();
    let run = |cx: Context| {
        cx.reload.set_load(load);
        R::run(config, cx)
    };
    start_program(R::NAME, &http, run).await
}

/// Runs a program that has a command line of its own as [`main`](crate::main) runs a role: logs, pages, signals and exit
/// code, 2 for a wrong `log.level` included. `RUST_LOG` goes before `log`. `name` is the binary's without `adit-`.
pub fn run_program<F>(
    name: &'static str,
    http: &Http,
    log: &Log,
    run: impl FnOnce(Context) -> F,
) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let rust_log = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let level = rust_log.as_deref().unwrap_or(&log.level);
    if let Err(message) = logs::check_filter(level) {
        eprintln!("adit-{name}: log level: {message}");
        return ExitCode::from(MISUSE);
    }
    let _logs = logs::start(log, rust_log.as_deref());
    match to_the_end(name, until_signal(start_program(name, http, run), false)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(()) => ExitCode::FAILURE,
    }
}

async fn start_program<F>(
    name: &'static str,
    http: &Http,
    run: impl FnOnce(Context) -> F,
) -> anyhow::Result<Handle>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let cx = Context::new(name);
    let pages = CancellationToken::new();
    let http_addr = match http.listen {
        None => None,
        Some(addr) => {
            let listener = TcpListener::bind(addr)
                .await
                .with_context(|| format!("http.listen: cannot listen on {addr}"))?;
            let addr = listener.local_addr()?;
            cx.listening("http", addr);
            tokio::spawn(http::serve(listener, cx.clone(), pages.clone(), Limits::default()));
            Some(addr)
        }
    };
    let role = tokio::spawn(run(cx.clone()));
    let ended = CancellationToken::new();
    let task = tokio::spawn({
        let (cx, ended) = (cx.clone(), ended.clone().drop_guard());
        async move {
            // Pages go last: they tell what a slow shutdown waits for.
            let (_pages, _ended) = (pages.drop_guard(), ended);
            supervise(role, &cx).await
        }
    });
    let shutdown = cx.shutdown.clone().drop_guard();
    Ok(Handle { http_addr, cx, task, ended, _shutdown: shutdown })
}

async fn supervise(mut role: JoinHandle<anyhow::Result<()>>, cx: &Context) -> anyhow::Result<()> {
    let joined = tokio::select! {
        joined = &mut role => joined,
        () = cx.shutdown.cancelled() => {
            cx.readiness.waiting_for("shutdown", "shutting down");
            match timeout(SHUTDOWN_GRACE, &mut role).await {
                Ok(joined) => joined,
                Err(_) => {
                    role.abort();
                    bail!("not stopped within {} s: what was left is given up", SHUTDOWN_GRACE.as_secs());
                }
            }
        }
    };
    // Tasks of the role that watch for it stop as well when the role ends by itself.
    cx.shutdown.cancel();
    joined.unwrap_or_else(|e| Err(anyhow!("the role's main task failed: {e}")))
}

/// A role started by [`start`]. Dropping it stops the role.
#[derive(Debug)]
pub struct Handle {
    /// Where its pages are, if it has any.
    pub http_addr: Option<SocketAddr>,
    cx: Context,
    task: JoinHandle<anyhow::Result<()>>,
    ended: CancellationToken,
    _shutdown: DropGuard,
}

impl Handle {
    /// What the role was given: its metrics and its readiness can be looked at.
    pub fn context(&self) -> &Context {
        &self.cx
    }

    /// Returns once the role is ready.
    ///
    /// # Errors
    /// It ended before.
    pub async fn ready(&self) -> anyhow::Result<()> {
        self.before_end(self.cx.readiness.ready()).await
    }

    /// The address of a listener that the role named with [`Context::listening`], once it listens.
    ///
    /// # Errors
    /// It ended before.
    pub async fn listener(&self, name: &str) -> anyhow::Result<SocketAddr> {
        self.before_end(self.cx.listener(name)).await
    }

    /// Gives the role a changed configuration, without a check. `None` if it takes in none.
    pub fn reload<C: Send + 'static>(&self, config: C) -> Option<Reloaded> {
        self.cx.reload.apply(config)
    }

    /// Tells the role to stop. [`wait`](Self::wait) returns when it has.
    pub fn shutdown(&self) {
        self.cx.shutdown.cancel();
    }

    /// Waits for the role's end; after [`shutdown`](Self::shutdown) for [`SHUTDOWN_GRACE`] at most.
    ///
    /// # Errors
    /// What the role failed with.
    pub async fn wait(self) -> anyhow::Result<()> {
        let Self { task, _shutdown, .. } = self;
        task.await.unwrap_or_else(|e| Err(anyhow!("the supervising task failed: {e}")))
    }

    async fn before_end<T>(&self, wanted: impl Future<Output = T>) -> anyhow::Result<T> {
        tokio::select! {
            got = wanted => Ok(got),
            () = self.ended.cancelled() => bail!("the role has ended"),
        }
    }
}

/// Waits until what was started ends, or a signal ends it.
///
/// With `reloads`, `SIGHUP` has the configuration read again.
pub(crate) async fn until_signal(
    start: impl Future<Output = anyhow::Result<Handle>>,
    reloads: bool,
) -> anyhow::Result<()> {
    let mut interrupt = unix::signal(unix::SignalKind::interrupt())?;
    let mut terminate = unix::signal(unix::SignalKind::terminate())?;
    let mut hangup = reloads.then(|| unix::signal(unix::SignalKind::hangup())).transpose()?;
    let handle = start.await?;
    let (shutdown, reload) = (handle.cx.shutdown.clone(), handle.cx.reload.clone());
    let mut end = pin!(handle.wait());
    loop {
        let hung_up = async {
            match &mut hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        let signal = tokio::select! {
            ended = &mut end => return ended,
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = hung_up => {
                let reload = reload.clone();
                // Logged there. It reads files, which may take long; meanwhile other signals count.
                drop(tokio::task::spawn_blocking(move || reload.run()));
                continue;
            }
        };
        if shutdown.is_cancelled() {
            bail!("{signal} again: not waiting for the shutdown to end");
        }
        tracing::info!(signal, "shutting down");
        shutdown.cancel();
    }
}

/// Runs a whole program and logs how it began and how it ended.
pub(crate) fn to_the_end(
    name: &str,
    work: impl Future<Output = anyhow::Result<()>>,
) -> Result<(), ()> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "adit-{name} starts");
    match in_runtime(work) {
        Ok(()) => {
            tracing::info!("adit-{name} has ended");
            Ok(())
        }
        Err(e) => {
            tracing::error!("adit-{name} failed: {e:#}");
            Err(())
        }
    }
}

/// Runs a future on a runtime of its own.
pub(crate) fn in_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no threads from the system")?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(RUNTIME_GRACE);
    done
}
