//! Every test exists that docs/conformance.md and docs/sri-tests.md name.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of the crates by name, as the workspace lists them.
fn crates(root: &Path) -> BTreeMap<String, PathBuf> {
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let members = manifest.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    members
        .split('"')
        .skip(1)
        .step_by(2)
        .map(|member| {
            let folder = root.join(member);
            let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
            let name = manifest.split('"').nth(1).unwrap().to_owned();
            (name, folder)
        })
        .collect()
}

/// The names of all functions under `#[test]`, `#[tokio::test]` or inside `proptest!`.
fn tests(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            // Crates inside of crates are their own.
            if !path.join("Cargo.toml").exists() {
                tests(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut marked = false;
            for line in text.lines().map(str::trim) {
                match line.split_once("fn ") {
                    Some((_, rest)) if marked => {
                        let name = rest.split(|c: char| !(c.is_alphanumeric() || c == '_'));
                        found.extend(name.take(1).map(str::to_owned));
                        marked = false;
                    }
                    _ => marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test"),
                }
            }
        }
    }
}

/// Checks the rows of a page whose column of this number, from 1, names tests or says why there is none; gives the number
/// of rows and of tests.
fn check(document: &str, column: usize) -> (usize, usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join(document)).unwrap();
    let crates = crates(&root);
    let mut known = BTreeMap::new();
    let (mut rows, mut named) = (0, 0);
    let mut missing = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        rows += 1;
        let shown = row.split('|').nth(column).expect("all columns");
        assert!(!shown.trim().is_empty(), "a row says what shows it, or why nothing does: {row}");
        for reference in shown.split('`').skip(1).step_by(2).filter(|text| text.contains("::")) {
            let (crate_name, test) = reference.split_once("::").unwrap();
            let folder = crates.get(crate_name).unwrap_or_else(|| panic!("no crate {crate_name}"));
            let tests = known.entry(crate_name).or_insert_with(|| {
                let mut found = Vec::new();
                tests(folder, &mut found);
                found
            });
            named += 1;
            if !tests.iter().any(|known| known == test) {
                missing.push(reference);
            }
        }
    }
    assert!(missing.is_empty(), "{document} names tests that do not exist: {missing:#?}");
    (rows, named)
}

#[test]
fn every_test_named_for_a_sentence_exists() {
    let (rows, named) = check("docs/conformance.md", 4);
    assert!(rows > 100 && named > 100, "{rows} rows, {named} tests");
}

#[test]
fn every_test_named_for_one_of_the_reference_implementation_exists() {
    let (rows, named) = check("docs/sri-tests.md", 2);
    assert!(rows > 50 && named > 50, "{rows} rows, {named} tests");
}

/// Where the codes of `.Error` messages are written down.
const CODES: [&str; 13] = [
    "protocols/job-declaration/src/commitment.rs",
    "protocols/mining/src/share.rs",
    "roles/jdc/src/engine/downstream.rs",
    "roles/jdc/src/engine/open.rs",
    "roles/jds/src/engine/client.rs",
    "roles/jds/src/engine/declare.rs",
    "roles/pool/src/engine/custom.rs",
    "roles/pool/src/engine/downstream.rs",
    "roles/pool/src/engine/open.rs",
    "utils/mining-server/src/request.rs",
    "utils/mining-server/src/session.rs",
    "docs/error-codes.md",
    "docs/roles/jds.md",
];

/// What looks like a code between these marks: words in small letters with dashes between them.
fn codes<'t>(text: &'t str, mark: char, found: &mut Vec<&'t str>) {
    let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    let code = |text: &&str| text.contains('-') && text.split('-').all(word);
    found.extend(text.split(mark).skip(1).step_by(2).filter(code));
}

#[test]
fn every_error_code_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let texts = CODES.map(|file| (file, fs::read_to_string(root.join(file)).unwrap()));
    let (mut sent, mut explained) = (Vec::new(), Vec::new());
    for (file, text) in &texts {
        if file.ends_with(".md") {
            let rows = text.lines().filter(|line| line.starts_with("| `"));
            rows.for_each(|row| codes(row.split('|').nth(1).unwrap(), '`', &mut explained));
            continue;
        }
        // Reasons of closings are constants; what tells refusals apart for metrics is a label.
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
        let lines = lines.filter(|line| !line.contains("const ") && !line.contains("label"));
        lines.for_each(|line| codes(line, '"', &mut sent));
    }
    sent.retain(|code| !code.starts_with("token-"));
    sent.sort_unstable();
    sent.dedup();
    assert!(sent.len() > 30, "{sent:?}");
    sent.retain(|code| !explained.contains(code));
    assert!(sent.is_empty(), "not explained in docs/error-codes.md: {sent:?}");
}
