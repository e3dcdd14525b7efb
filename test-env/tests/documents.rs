//! Commands that the documents tell people to run are run.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use adit_test_env::harness::program;

/// The commands in the document's `sh` blocks, in their order.
fn commands(document: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
    let text = fs::read_to_string(&path).unwrap();
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            "" => {}
            command if inside => found.push(command.to_owned()),
            _ => {}
        }
    }
    found
}

/// A folder in which the documents' commands work: the lab as `scripts/lab`, the roles in the path.
struct Desk {
    dir: PathBuf,
    _temp: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let temp = tempfile::Builder::new().prefix("adit-documents-").tempdir().unwrap();
        let dir = temp.path().to_owned();
        for folder in ["scripts", "bin"] {
            fs::create_dir(dir.join(folder)).unwrap();
        }
        symlink(env!("CARGO_BIN_EXE_adit-lab"), dir.join("scripts/lab")).unwrap();
        for role in ["template-provider", "pool", "translator", "jds", "jdc"] {
            let name = format!("adit-{role}");
            symlink(program(role).unwrap(), dir.join("bin").join(name)).unwrap();
        }
        Self { dir, _temp: temp }
    }

    #[track_caller]
    fn run(&self, command: &str) {
        let path = format!("{}:{}", self.dir.join("bin").display(), std::env::var("PATH").unwrap());
        let output = Command::new("sh")
            .args(["-c", command])
            .current_dir(&self.dir)
            .env("ADIT_LAB_ROOT", &self.dir)
            .env("PATH", path)
            .output()
            .unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command}: {}\n{out}\n{err}", output.status);
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let mut down = Command::new(env!("CARGO_BIN_EXE_adit-lab"));
        let _ = down.arg("--dir").arg(self.dir.join(".lab")).arg("down").status();
    }
}

#[test]
fn the_commands_of_the_troubleshooting_page() {
    let commands = commands("docs/troubleshooting.md");
    assert!(commands.len() >= 15, "{commands:?}");
    let desk = Desk::new();
    desk.run("scripts/lab up");
    for command in &commands {
        desk.run(command);
    }
    assert!(!desk.dir.join(".lab/lab.json").exists(), "the last one is: {commands:?}");
}
