//! Children that do not outlive this process, however it ends.

use std::{
    env,
    ffi::OsStr,
    io,
    path::Path,
    process::{Child, Command},
    sync::{
        OnceLock,
        mpsc::{Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

/// A command that runs `program`, to be completed and given to [`spawn_tied`]. Where the host has `setpriv`, the kernel
/// kills the program when we are killed and have no time for it. The process id is the program's either way.
pub fn tied(program: impl AsRef<OsStr>) -> Command {
    if !has_setpriv() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Spawns from a thread that lives as long as this process: the kernel's "parent" is the thread that forked, and a
/// test's thread ends before what it shares with other tests does.
pub fn spawn_tied(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in orders {
                // Who asked waits for it.
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (answer, child) = sync_channel(1);
    spawner.send((command, answer)).map_err(io::Error::other)?;
    child.recv().map_err(io::Error::other)?
}

type Order = (Command, SyncSender<io::Result<Child>>);

fn has_setpriv() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let Some(path) = env::var_os("PATH") else { return false };
        env::split_paths(&path).any(|dir| Path::new(&dir).join("setpriv").is_file())
    })
}
