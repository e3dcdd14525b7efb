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
