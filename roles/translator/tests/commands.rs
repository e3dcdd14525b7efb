//! Commands of the program.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use std::io::Write;
use std::process::{Command, Output, Stdio};

fn hash_password(input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_adit-translator"))
        .arg("hash-password")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_password_is_hashed_for_the_configuration() {
    let output = hash_password("secret\n");
    assert!(output.status.success(), "{output:?}");
    let hash = String::from_utf8(output.stdout).unwrap();
    adit_translator::auth::check_hash(hash.trim()).unwrap();
    assert!(hash.starts_with("$argon2id$") && !hash.contains("secret"));
}

#[test]
fn what_could_not_be_told_from_options_is_refused() {
    for input in ["", "\n", "a,b\n"] {
        let output = hash_password(input);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}
