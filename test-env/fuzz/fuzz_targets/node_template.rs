//! From what a node offers to a block: templates within what clients ask for, complete in themselves, that come back from
//! the disk as they were; a solution of each is a block that rust-bitcoin finds nothing wrong with.
#![no_main]

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::sync::Arc;

use adit_fuzz::template::Offer;
use adit_mining::JobFactory;
use adit_sv2::codec::B064K;
use adit_sv2::messages::Message;
use adit_sv2::messages::template_distribution::{NewTemplate, SubmitSolution};
use adit_template_provider::solution::{Found, SolutionError};
use adit_template_provider::store::TemplateStore;
use adit_template_provider::template::{Constraints, Snapshot, Template};
use arbitrary::Arbitrary;
use bitcoin::Block;
use bitcoin::consensus::{deserialize, serialize};
use bitcoin::hashes::Hash;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    offers: Vec<Offer>,
    /// Bytes and sigops of each client's outputs.
    clients: Vec<(u16, u16)>,
    /// Where a file on the disk ends, or differs.
    damage: Option<(u16, u8)>,
    solution: Solution,
}

#[derive(Arbitrary, Debug)]
enum Solution {
    /// Of a job that is what it should be.
    Good(u16),
    /// With another coinbase.
    Coinbase(Vec<u8>),
}

fuzz_target!(|input: Input| {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut store, found) = TemplateStore::open(folder.path(), 7).expect("a folder");
    assert!(found.is_empty());
    let mut last: Option<Snapshot> = None;
    let mut written = Vec::new();
    for offer in input.offers.iter().take(3) {
        let mut snapshot = Snapshot::from_node(offer.template());
        if let Some(last) = &last {
            let plain = snapshot.clone();
            snapshot.share_with(last);
            assert!(snapshot == plain);
        }
        let mut templates = Vec::new();
        for (size, sigops) in input.clients.iter().take(4) {
            let constraints = Constraints { size: (*size).into(), sigops: *sigops };
            let built = Template::build(&snapshot, constraints, store.next_id());
            let Ok(template) = built else {
                assert!(
                    snapshot.weight_limit < constraints.reserved_weight()
                        || snapshot.sigop_limit < u64::from(*sigops)
                );
                continue;
            };
            fits(&snapshot, constraints, &template);
            templates.push(Arc::new(template));
        }
        if let Some(template) = templates.first() {
            solve(template, &input.solution);
        }
        store.write(&templates).expect("it is written");
        written.extend(templates);
        last = Some(snapshot);
    }
    drop(store);
    read_again(folder.path(), &written, input.damage);
});

/// What the client may mine, and nothing that needs what is left out.
fn fits(snapshot: &Snapshot, constraints: Constraints, template: &Template) {
    let offered = &snapshot.transactions;
    let places: HashMap<_, _> = offered.iter().enumerate().map(|(i, t)| (t.raw.wtxid, i)).collect();
    let kept: Vec<_> = template.transactions.iter().map(|t| places[&t.wtxid]).collect();
    assert!(kept.is_sorted());
    let needs = kept.iter().flat_map(|at| &offered[*at].depends);
    assert!(needs.into_iter().all(|parent| kept.contains(&(*parent as usize))));
    let weight: u64 = kept.iter().map(|at| offered[*at].weight).sum();
    let sigops: u64 = kept.iter().map(|at| offered[*at].sigops).sum();
    assert!(weight + constraints.reserved_weight() <= snapshot.weight_limit);
    assert!(sigops + u64::from(constraints.sigops) <= snapshot.sigop_limit);
    let all: u64 = offered.iter().map(|t| t.weight).sum();
    let all_sigops: u64 = offered.iter().map(|t| t.sigops).sum();
    if all + constraints.reserved_weight() <= snapshot.weight_limit
        && all_sigops + u64::from(constraints.sigops) <= snapshot.sigop_limit
    {
        assert_eq!(kept.len(), offered.len());
        assert_eq!(template.coinbase_value, snapshot.coinbase_value);
    }
    let fees = |t: &mut dyn Iterator<Item = u64>| t.map(u128::from).sum::<u128>();
    let lost = fees(&mut offered.iter().map(|t| t.fee))
        - fees(&mut kept.iter().map(|at| offered[*at].fee));
    let expected = u128::from(snapshot.coinbase_value).saturating_sub(lost);
    assert_eq!(u128::from(template.coinbase_value), expected);
}

/// Mines a block of it.
fn solve(template: &Arc<Template>, solution: &Solution) {
    let job = template.new_template(true, |message| {
        let mut payload = Vec::new();
        adit_sv2::frame::encode_frame(message, &mut payload);
        let (read, _) = NewTemplate::decode(&payload[6..]).expect("our own message");
        assert_eq!(read, *message);
        let factory = JobFactory { tag: Vec::new(), ..adit_fuzz::factory() };
        factory.job(1, &adit_mining::Template::from(&read), 8)
    });
    let Ok(job) = job.expect("a short path") else { return };
    let good = job.coinbase().expect("an extended job").full(&[7; 8], &[]).expect("eight bytes");
    let (coinbase, nonces) = match solution {
        Solution::Good(nonce) => (good.clone(), u32::from(*nonce)..u32::from(*nonce) + 64),
        Solution::Coinbase(bytes) => (bytes.clone(), 0..8),
    };
    for header_nonce in nonces {
        let Ok(coinbase_tx) = B064K::new(&coinbase) else { return };
        let solution = SubmitSolution {
            template_id: template.id,
            version: template.version,
            header_timestamp: template.tip.min_time,
            header_nonce,
            coinbase_tx,
        };
        match Found::check(template, &solution) {
            Ok(found) => {
                let block: Block = deserialize(&found.to_block()).expect("a block");
                assert_eq!(block.block_hash().to_byte_array(), found.hash.0);
                assert_eq!(block.txdata.len(), 1 + template.transactions.len());
                assert!(block.check_merkle_root());
                if coinbase == good {
                    assert!(block.check_witness_commitment());
                    let height = block.bip34_block_height();
                    // Small ones are opcodes; larger ones than this are none.
                    let plain = (17..=0x7fff_ffff).contains(&template.tip.height);
                    assert!(!plain || height == Ok(template.tip.height.into()));
                    let value = serialize(&block.txdata[0].output);
                    assert!(!value.is_empty());
                }
                return;
            }
            Err(SolutionError::Coinbase(_)) => assert!(coinbase != good),
            Err(SolutionError::AboveTarget { hash }) => {
                assert!(!template.target().is_met_by(&hash));
            }
        }
    }
}

/// All of it, or what is before the damage.
fn read_again(folder: &std::path::Path, written: &[Arc<Template>], damage: Option<(u16, u8)>) {
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("a file").path())
        .collect();
    files.sort_unstable();
    let damaged = damage.zip(files.last()).map(|((at, flip), path)| {
        let mut bytes = fs::read(path).expect("a file");
        match (bytes.get_mut(usize::from(at)), flip) {
            (Some(_), 0) => {
                let file = OpenOptions::new().write(true).open(path).expect("a file");
                file.set_len(at.into()).expect("a shorter one");
            }
            (Some(byte), flip) => {
                *byte ^= flip;
                fs::write(path, &bytes).expect("a file");
            }
            (None, _) => {}
        }
    });
    let (mut store, found) = TemplateStore::open(folder, 1).expect("a folder");
    match damaged {
        None => assert_eq!(found, written),
        // What is in the damaged file is of the last tip; and a check of four bytes is right now and then.
        Some(()) => assert!(written.starts_with(&found)),
    }
    if let Some(last) = found.last() {
        assert!(store.next_id() > last.id);
    }
}
