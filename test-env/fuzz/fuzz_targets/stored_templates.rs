//! The template provider's files, with records as they should be and as they should not: what is read is what a model
//! reads, and the provider goes on behind it.
#![no_main]

use std::fs;
use std::sync::Arc;

use adit_mining::{BlockHash, sha256d};
use adit_template_provider::store::TemplateStore;
use adit_template_provider::template::{RawTransaction, Template, Tip};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

/// What each file begins with.
const MAGIC: &[u8] = b"adit templates 1\n";

#[derive(Arbitrary, Debug)]
struct Input {
    /// How far the first id of a file is from the last of the one before; and what is in it.
    files: Vec<(u8, Vec<Record>)>,
    /// Ids are as large as they can be.
    last_ids: bool,
    /// The last file is cut off.
    cut: u16,
    unix_ms: u32,
}

#[derive(Arbitrary, Debug)]
enum Record {
    Transaction(Vec<u8>),
    Template {
        tip: u8,
        numbers: [u8; 6],
        path: Vec<u8>,
        positions: Vec<u8>,
        over: Vec<u8>,
    },
    /// Of any kind, with the right check.
    Other(u8, Vec<u8>),
    /// Any bytes.
    Bytes(Vec<u8>),
}

fuzz_target!(|input: Input| {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |id: u64| folder.path().join(format!("{id}.templates"));
    let mut next_id = if input.last_ids { u64::MAX - 5 } else { 5 };
    let mut expected: Vec<Vec<Arc<Template>>> = Vec::new();
    let files = &input.files[..input.files.len().min(4)];
    for (at, (skipped, records)) in files.iter().enumerate() {
        let first = next_id.saturating_add(u64::from(*skipped));
        if path(first).exists() {
            break;
        }
        let (mut bytes, mut templates) = model(records, first);
        if at + 1 == files.len() && input.cut > 0 {
            bytes.truncate(usize::from(input.cut));
            templates.retain(|(_, end)| *end <= bytes.len());
        }
        next_id = first.saturating_add(1 + records.len() as u64);
        fs::write(path(first), &bytes).expect("a file");
        if !templates.is_empty() {
            expected.push(templates.into_iter().map(|(template, _)| Arc::new(template)).collect());
        }
    }
    let (mut store, found) =
        TemplateStore::open(folder.path(), input.unix_ms.into()).expect("a folder");
    assert_eq!(found, expected.concat());
    // What it goes on with is there again, behind the last of what was.
    let id = store.next_id();
    assert!(found.last().is_none_or(|last| id > last.id || last.id >= u64::MAX - 1));
    assert!(store.next_id() >= id);
    if found.last().is_some_and(|last| last.id >= u64::MAX - 1) {
        return;
    }
    let mine = Arc::new(Template { id, ..template(9, &[0; 6], &[], Vec::new()) });
    store.write(std::slice::from_ref(&mine)).expect("it is written");
    let (_, again) = TemplateStore::open(folder.path(), 0).expect("a folder");
    assert_eq!(again.last(), Some(&mine));
    let kept = &again[..again.len() - 1];
    assert!(found.ends_with(kept), "what is left are the last tips");
});

/// The file, and the templates in it with their ends.
fn model(records: &[Record], first: u64) -> (Vec<u8>, Vec<(Template, usize)>) {
    let (mut file, mut transactions, mut templates) = (MAGIC.to_vec(), Vec::new(), Vec::new());
    let (mut good, mut id) = (true, first);
    for record in records {
        match record {
            Record::Transaction(body) => {
                transactions
                    .push(RawTransaction { wtxid: sha256d(body), bytes: (&body[..]).into() });
                write(&mut file, 1, body);
            }
            Record::Template { tip, numbers, path, positions, over } => {
                let kept = (positions.iter())
                    .map(|at| transactions.get(usize::from(*at)).cloned())
                    .collect::<Option<Vec<_>>>();
                let read = Template {
                    id,
                    ..template(*tip, numbers, path, kept.clone().unwrap_or_default())
                };
                let mut body = bytes(&read);
                body.extend(positions.iter().flat_map(|at| u32::from(*at).to_le_bytes()));
                // Too few bytes for a position.
                let over = &over[..over.len().min(3)];
                body.extend_from_slice(over);
                write(&mut file, 2, &body);
                good &= kept.is_some() && over.is_empty();
                if good {
                    templates.push((read, file.len()));
                    id = id.saturating_add(1);
                }
            }
            Record::Other(kind, body) => {
                // One that is of our kinds is for the reader alone to judge.
                let kind = if *kind <= 2 { 0 } else { *kind };
                write(&mut file, kind, body);
                good = false;
            }
            Record::Bytes(bytes) => {
                // No record begins so.
                file.push(0);
                file.extend_from_slice(bytes);
                good = false;
            }
        }
        if !good {
            break;
        }
    }
    (file, templates)
}

fn template(tip: u8, numbers: &[u8; 6], path: &[u8], kept: Vec<RawTransaction>) -> Template {
    let [value, height, n_bits, min_time, version, commitment] = *numbers;
    let wide = |byte: u8| u32::from_le_bytes([byte; 4]);
    Template {
        id: 0,
        tip: Tip {
            prev_hash: BlockHash([tip; 32]),
            height: wide(height),
            n_bits: wide(n_bits),
            min_time: wide(min_time),
        },
        version: wide(version),
        coinbase_value: u64::from_le_bytes([value; 8]),
        merkle_path: path.iter().map(|step| [*step; 32]).collect(),
        witness_commitment: [commitment; 32],
        transactions: kept,
    }
}

/// All of a template's record but the positions of its transactions.
fn bytes(template: &Template) -> Vec<u8> {
    let Template { id, tip, version, coinbase_value, .. } = template;
    let numbers = [tip.height, tip.n_bits, tip.min_time, *version];
    let mut body = [id.to_le_bytes(), coinbase_value.to_le_bytes()].concat();
    body.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    body.extend(tip.prev_hash.0);
    body.extend(template.witness_commitment);
    body.extend((template.merkle_path.len() as u32).to_le_bytes());
    body.extend(template.merkle_path.concat());
    body
}

fn write(file: &mut Vec<u8>, kind: u8, body: &[u8]) {
    file.push(kind);
    file.extend((body.len() as u32).to_le_bytes());
    file.extend_from_slice(body);
    file.extend(&sha256d(body)[..4]);
}
