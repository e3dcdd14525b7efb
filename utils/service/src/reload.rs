//! Taking in a changed configuration while the role runs: by `SIGHUP`, or by the command `reload`.
//!
//! The file is read and checked as at the start; only what is good goes to the role, which says what it has taken in and
//! what has to wait for a restart.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// What became of a changed configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reloaded {
    /// Keys that hold from now on.
    pub applied: Vec<String>,
    /// Keys that have changed and hold from the next start on.
    pub needs_restart: Vec<String>,
}

impl Reloaded {
    /// Notes a key that has changed.
    pub fn note(&mut self, key: impl Into<String>, changed: bool, applied: bool) {
        if changed {
            let list = if applied { &mut self.applied } else { &mut self.needs_restart };
            list.push(key.into());
        }
    }
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.applied.is_empty(), self.needs_restart.is_empty()) {
            (true, true) => f.write_str("nothing has changed"),
            (false, true) => write!(f, "applied: {}", self.applied.join(", ")),
            (true, false) => write!(f, "needs a restart: {}", self.needs_restart.join(", ")),
            (false, false) => write!(
                f,
                "applied: {}; needs a restart: {}",
                self.applied.join(", "),
                self.needs_restart.join(", ")
            ),
        }
    }
}

type Config = Box<dyn Any + Send>;
type Load = dyn Fn() -> Result<Config, String> + Send + Sync;
type Apply = dyn Fn(Config) -> Reloaded + Send + Sync;

/// Both halves: how the program reads its configuration, and what the role does with it.
#[derive(Clone, Default)]
pub(crate) struct Reload(Arc<RwLock<Halves>>);

#[derive(Clone, Default)]
struct Halves {
    load: Option<Arc<Load>>,
    apply: Option<Arc<Apply>>,
    /// Held from reading to applying: else what was read first might be applied last, and stay.
    turn: Arc<Mutex<()>>,
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reload")
    }
}

impl Reload {
    pub(crate) fn set_load<C: Send + 'static>(
        &self,
        load: impl Fn() -> Result<C, String> + Send + Sync + 'static,
    ) {
        let load = move || load().map(|config| Box::new(config) as Config);
        self.write(|halves| halves.load = Some(Arc::new(load)));
    }

    pub(crate) fn set_apply<C: 'static>(
        &self,
        apply: impl Fn(C) -> Reloaded + Send + Sync + 'static,
    ) {
        let apply = move |config: Config| match config.downcast::<C>() {
            Ok(config) => apply(*config),
            // The role's own type, as its `run` got it.
            Err(_) => Reloaded::default(),
        };
        self.write(|halves| halves.apply = Some(Arc::new(apply)));
    }

    /// Whether the role takes in changes, and the program has something to read.
    pub(crate) fn is_possible(&self) -> bool {
        let halves = self.halves();
        halves.load.is_some() && halves.apply.is_some()
    }

    /// Reads, checks, applies. With an error nothing has changed.
    pub(crate) fn run(&self) -> Result<Reloaded, String> {
        let Halves { load: Some(load), apply: Some(apply), turn } = self.halves() else {
            return Err("this role takes in no changes while it runs: restart it".to_owned());
        };
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = load().map(|config| apply(config));
        match &outcome {
            Ok(reloaded) => tracing::info!("configuration read again: {reloaded}"),
            Err(error) => {
                tracing::error!("configuration not taken in, all goes on as it was: {error}")
            }
        }
        outcome
    }

    /// Applies a configuration that was read otherwise.
    pub(crate) fn apply<C: Send + 'static>(&self, config: C) -> Option<Reloaded> {
        self.halves().apply.map(|apply| apply(Box::new(config)))
    }

    fn halves(&self) -> Halves {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, f: impl FnOnce(&mut Halves)) {
        f(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// A signal and the command may come together, and the file may change between them.
    #[test]
    fn what_was_read_last_is_applied_last() {
        let reload = Reload::default();
        let (begun, has_begun) = mpsc::channel();
        let (second, second_is_through) = mpsc::channel();
        let reads = Mutex::new((0, Some(second_is_through)));
        reload.set_load(move || {
            let (number, wait) = {
                let mut reads = reads.lock().unwrap();
                reads.0 += 1;
                (reads.0, reads.1.take())
            };
            begun.send(()).unwrap();
            // The first one dawdles, as long as the other could overtake it.
            wait.map(|wait: mpsc::Receiver<()>| wait.recv_timeout(Duration::from_millis(300)));
            Ok::<u32, String>(number)
        });
        let applied = Arc::new(Mutex::new(Vec::new()));
        reload.set_apply({
            let applied = applied.clone();
            move |number: u32| {
                applied.lock().unwrap().push(number);
                Reloaded::default()
            }
        });
        thread::scope(|scope| {
            scope.spawn(|| reload.run().unwrap());
            has_begun.recv().unwrap();
            reload.run().unwrap();
            let _ = second.send(());
        });
        assert_eq!(*applied.lock().unwrap(), [1, 2]);
    }
}
