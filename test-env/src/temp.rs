//! Folders that go with what uses them.

use std::env;
use std::io;
use std::path::Path;

use rustix::fs::statvfs;
use tempfile::{Builder, TempDir};

/// Where the host keeps files in memory.
const MEMORY: &str = "/dev/shm";
/// Bytes that must be free there; a node alone takes 20 MB.
const MEMORY_FREE: u64 = 1 << 30;

/// A new folder, in memory where there is room and `TMPDIR` does not say otherwise.
///
/// What a process has written survives its `kill -9` there as on a disk. A disk that is busy with what a compiler wrote
/// a minute ago takes seconds to sync a file, and tests of how fast something comes back would measure that.
pub(crate) fn folder(prefix: &str) -> io::Result<TempDir> {
    let mut builder = Builder::new();
    builder.prefix(prefix);
    let memory = Path::new(MEMORY);
    let has_room = || statvfs(memory).is_ok_and(|fs| fs.f_bavail * fs.f_frsize >= MEMORY_FREE);
    if env::var_os("TMPDIR").is_none()
        && has_room()
        && let Ok(folder) = builder.tempdir_in(memory)
    {
        return Ok(folder);
    }
    builder.tempdir()
}
