//! Templates on disk, so that a solution can be made a block after a restart.
//!
//! One file for each tip and run, only ever appended to: each transaction once, and templates as lists of positions among
//! them. It is written before a template is sent, which a killed process survives, and synced right after, which a lost
//! machine survives. A record that is torn ends the file: what is before it counts.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use adit_mining::{BlockHash, sha256d};
use adit_node::sync_dir;

use crate::engine::KEPT_TIPS;
use crate::template::{RawTransaction, Template, Tip};

/// The templates that solutions may still come for.
#[derive(Debug)]
pub struct TemplateStore {
    dir: PathBuf,
    /// Oldest first.
    files: VecDeque<(BlockHash, PathBuf)>,
    open: Option<TipFile>,
    next_id: u64,
}

impl TemplateStore {
    /// Opens the folder, which is made where there is none, and reads what earlier runs left, in the order of ids.
    ///
    /// # Errors
    /// Where the folder cannot be made or listed. Files that cannot be read are passed over with a warning.
    pub fn open(dir: &Path, unix_ms: u64) -> io::Result<(Self, Vec<Arc<Template>>)> {
        fs::create_dir_all(dir)?;
        let mut paths: Vec<(u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.strip_suffix(SUFFIX));
            if let Some(id) = name.and_then(|id| id.parse().ok()) {
                paths.push((id, path));
            }
        }
        paths.sort_unstable();
        let mut files = VecDeque::new();
        let mut all = Vec::new();
        for (first_id, path) in paths {
            let templates = match fs::read(&path) {
                Ok(bytes) => read_file(&path, &bytes),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "templates of an earlier run cannot be read");
                    Vec::new()
                }
            };
            match templates.first() {
                Some(template) if template.id == first_id => {
                    files.push_back((template.tip.prev_hash, path));
                    all.extend(templates);
                }
                // Torn within its first template, which was not sent then.
                _ => remove(&path),
            }
        }
        // The clock may have been set back since; ids are not.
        let last_id = all.last().map_or(0, |template| template.id);
        let next_id = (unix_ms * IDS_PER_MS).max(last_id.saturating_add(1));
        let mut store = Self { dir: dir.to_owned(), files, open: None, next_id };
        store.prune();
        Ok((store, all))
    }

    /// A new template id, larger than any before.
    pub fn next_id(&mut self) -> u64 {
        let id = self.next_id;
        // Of a forged file only.
        self.next_id = id.saturating_add(1);
        id
    }

    /// Writes `templates`, all of one tip, in the order of their ids. They may be sent when this returns.
    ///
    /// # Errors
    /// Of the file system. The file is given up then: the next call begins another.
    pub fn write(&mut self, templates: &[Arc<Template>]) -> io::Result<()> {
        let Some(first) = templates.first() else { return Ok(()) };
        let mut file = match self.open.take() {
            Some(file) if file.prev_hash == first.tip.prev_hash => file,
            _ => {
                let path = self.dir.join(format!("{}{SUFFIX}", first.id));
                let file = TipFile::create(&path, first.tip.prev_hash)?;
                self.files.push_back((first.tip.prev_hash, path));
                self.prune();
                file
            }
        };
        file.append(templates)?;
        self.open = Some(file);
        Ok(())
    }

    /// What was written and may not be on the disk itself yet. Syncing takes the disk's time, so nobody waits for it here.
    ///
    /// # Errors
    /// Of the file system.
    pub fn unsynced(&mut self) -> io::Result<Option<Unsynced>> {
        let Some(file) = &mut self.open else { return Ok(None) };
        let new_in = std::mem::take(&mut file.new).then(|| self.dir.clone());
        Ok(Some(Unsynced { file: file.file.try_clone()?, new_in }))
    }

    /// Removes the files of tips that are too old.
    fn prune(&mut self) {
        // Several runs on one tip leave several files of it.
        let tips = |files: &VecDeque<(BlockHash, PathBuf)>| {
            files.iter().zip(files.iter().skip(1)).filter(|(a, b)| a.0 != b.0).count() + 1
        };
        while tips(&self.files) > KEPT_TIPS {
            if let Some((_, path)) = self.files.pop_front() {
                remove(&path);
            }
        }
    }
}

/// See [`TemplateStore::unsynced`].
#[derive(Debug)]
pub struct Unsynced {
    file: File,
    /// The folder that does not know the file yet.
    new_in: Option<PathBuf>,
}

impl Unsynced {
    /// Brings it onto the disk itself.
    ///
    /// # Errors
    /// Of the file system.
    pub fn sync(self) -> io::Result<()> {
        self.file.sync_data()?;
        self.new_in.map_or(Ok(()), |dir| sync_dir(&dir))
    }
}

#[derive(Debug)]
struct TipFile {
    prev_hash: BlockHash,
    file: File,
    /// Not yet known to its folder.
    new: bool,
    /// Position in the file of each transaction, by wtxid.
    known: HashMap<[u8; 32], u32>,
    buffer: Vec<u8>,
}

impl TipFile {
    fn create(path: &Path, prev_hash: BlockHash) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        Ok(Self { prev_hash, file, new: true, known: HashMap::new(), buffer: MAGIC.to_vec() })
    }

    fn append(&mut self, templates: &[Arc<Template>]) -> io::Result<()> {
        for template in templates {
            let mut positions = Vec::with_capacity(template.transactions.len());
            for RawTransaction { wtxid, bytes } in &template.transactions {
                let next = self.known.len() as u32;
                let position = *self.known.entry(*wtxid).or_insert_with(|| {
                    // The wtxid is the record's check, so that nothing need be hashed.
                    record(&mut self.buffer, TRANSACTION, bytes, wtxid);
                    next
                });
                positions.push(position);
            }
            let body = write_template(template, &positions);
            record(&mut self.buffer, TEMPLATE, &body, &sha256d(&body));
        }
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// Kind, length, body, and the first bytes of the body's double SHA-256.
fn record(out: &mut Vec<u8>, kind: u8, body: &[u8], hash: &[u8; 32]) {
    out.push(kind);
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(&hash[..CHECK_LEN]);
}

fn read_file(path: &Path, bytes: &[u8]) -> Vec<Arc<Template>> {
    let mut templates = Vec::new();
    let mut transactions = Vec::new();
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
        tracing::warn!(path = %path.display(), "not a file of templates");
        return templates;
    };
    while !rest.is_empty() {
        let read = read_record(rest).and_then(|(Record { kind, body, hash }, after)| {
            match kind {
                TRANSACTION => {
                    transactions.push(RawTransaction { wtxid: hash, bytes: body.into() })
                }
                TEMPLATE => templates.push(Arc::new(read_template(body, &transactions)?)),
                _ => return None,
            }
            Some(after)
        });
        let Some(after) = read else {
            let offset = bytes.len() - rest.len();
            tracing::warn!(path = %path.display(), offset, "torn file of templates: the rest is not used");
            break;
        };
        rest = after;
    }
    templates
}

/// A record as it is read.
struct Record<'a> {
    kind: u8,
    body: &'a [u8],
    hash: [u8; 32],
}

/// The first record of `bytes`, and the rest.
fn read_record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (body, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let (check, rest) = rest.split_first_chunk::<CHECK_LEN>()?;
    let hash = sha256d(body);
    hash.starts_with(check).then_some((Record { kind, body, hash }, rest))
}

fn write_template(template: &Template, positions: &[u32]) -> Vec<u8> {
    let Template {
        id,
        tip,
        version,
        coinbase_value,
        merkle_path,
        witness_commitment,
        transactions: _,
    } = template;
    let mut body = Vec::with_capacity(160 + 32 * merkle_path.len() + 4 * positions.len());
    body.extend_from_slice(&id.to_le_bytes());
    body.extend_from_slice(&coinbase_value.to_le_bytes());
    for number in [tip.height, tip.n_bits, tip.min_time, *version] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    body.extend_from_slice(&tip.prev_hash.0);
    body.extend_from_slice(witness_commitment);
    body.extend_from_slice(&(merkle_path.len() as u32).to_le_bytes());
    merkle_path.iter().for_each(|hash| body.extend_from_slice(hash));
    positions.iter().for_each(|position| body.extend_from_slice(&position.to_le_bytes()));
    body
}

fn read_template(body: &[u8], transactions: &[RawTransaction]) -> Option<Template> {
    let mut rest = body;
    let id = u64::from_le_bytes(take(&mut rest)?);
    let coinbase_value = u64::from_le_bytes(take(&mut rest)?);
    let mut number = || Some(u32::from_le_bytes(take(&mut rest)?));
    let (height, n_bits, min_time, version) = (number()?, number()?, number()?, number()?);
    let prev_hash = BlockHash(take(&mut rest)?);
    let witness_commitment = take(&mut rest)?;
    let steps = u32::from_le_bytes(take(&mut rest)?) as usize;
    let (path, rest) = rest.split_at_checked(steps.checked_mul(32)?)?;
    let (merkle_path, _) = path.as_chunks();
    let (positions, over) = rest.as_chunks();
    let transaction =
        |position: &[u8; 4]| transactions.get(u32::from_le_bytes(*position) as usize).cloned();
    let template = Template {
        id,
        tip: Tip { prev_hash, height, n_bits, min_time },
        version,
        coinbase_value,
        merkle_path: merkle_path.to_vec(),
        witness_commitment,
        transactions: positions.iter().map(transaction).collect::<Option<_>>()?,
    };
    over.is_empty().then_some(template)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "old templates cannot be removed");
    }
}

const SUFFIX: &str = ".templates";
const MAGIC: &[u8] = b"adit templates 1\n";
const TRANSACTION: u8 = 1;
const TEMPLATE: u8 = 2;
const CHECK_LEN: usize = 4;
/// Ids are microseconds since 1970, so that they grow across restarts even without the files.
const IDS_PER_MS: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::tests::{snapshot, tip};
    use crate::template::{Constraints, Snapshot};

    fn template(store: &mut TemplateStore, snapshot: &Snapshot) -> Arc<Template> {
        Arc::new(Template::build(snapshot, Constraints::default(), store.next_id()).unwrap())
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let mut files: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn templates_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, found) = TemplateStore::open(&dir.path().join("templates"), 1_000).unwrap();
        assert!(found.is_empty());
        let empty = template(&mut store, &snapshot(tip(5, 1), 0, 0));
        let small = template(&mut store, &snapshot(tip(5, 1), 3, 10));
        let large = template(&mut store, &snapshot(tip(5, 1), 7, 10));
        assert_eq!(empty.id, 1_000_000);
        store.write(std::slice::from_ref(&empty)).unwrap();
        store.write(&[small.clone(), large.clone()]).unwrap();
        store.unsynced().unwrap().unwrap().sync().unwrap();
        let length = fs::metadata(&store.files[0].1).unwrap().len();
        let bytes: usize = large.transactions.iter().map(|t| t.bytes.len()).sum();
        assert!((length as usize) < bytes + 1_500, "each transaction is there once: {length}");

        // Another run with the clock set back: ids go on.
        let (mut store, found) = TemplateStore::open(&dir.path().join("templates"), 5).unwrap();
        assert_eq!(found, [empty, small, large.clone()]);
        assert_eq!(store.next_id(), large.id + 1);
    }

    #[test]
    fn old_tips_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = Vec::new();
        for run in 0..3 {
            let (mut store, found) = TemplateStore::open(dir.path(), run).unwrap();
            assert_eq!(found.len(), all.len().min(KEPT_TIPS), "run {run}");
            for height in 1..=4 {
                let template = template(
                    &mut store,
                    &snapshot(tip(height, 9 * run as u8 + height as u8), 2, 10),
                );
                store.write(std::slice::from_ref(&template)).unwrap();
                all.push(template);
            }
            assert_eq!(files(dir.path()).len(), KEPT_TIPS);
        }
        // Runs on one and the same tip.
        let last = all.last().unwrap().tip;
        for _ in 0..5 {
            let (mut store, _) = TemplateStore::open(dir.path(), 0).unwrap();
            let template = template(&mut store, &snapshot(last, 2, 10));
            store.write(&[template]).unwrap();
        }
        assert_eq!(files(dir.path()).len(), KEPT_TIPS + 5);
        let (mut store, found) = TemplateStore::open(dir.path(), 0).unwrap();
        assert_eq!(found.len(), KEPT_TIPS + 5);
        let template = template(&mut store, &snapshot(tip(1, 77), 2, 10));
        store.write(&[template]).unwrap();
        assert_eq!(files(dir.path()).len(), KEPT_TIPS - 1 + 6);
    }

    #[test]
    fn a_torn_or_spoilt_file_yields_what_is_before_the_damage() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = TemplateStore::open(dir.path(), 1).unwrap();
        let first = template(&mut store, &snapshot(tip(5, 1), 2, 10));
        let second = template(&mut store, &snapshot(tip(5, 1), 4, 10));
        store.write(std::slice::from_ref(&first)).unwrap();
        let path = files(dir.path()).remove(0);
        let whole = fs::metadata(&path).unwrap().len() as usize;
        store.write(std::slice::from_ref(&second)).unwrap();
        let bytes = fs::read(&path).unwrap();
        for end in 0..=bytes.len() {
            let expected = if end == bytes.len() {
                vec![first.clone(), second.clone()]
            } else if end >= whole {
                vec![first.clone()]
            } else {
                vec![]
            };
            assert_eq!(read_file(&path, &bytes[..end]), expected, "cut at {end}");
        }
        for at in 0..bytes.len() {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 0x41;
            let found = read_file(&path, &spoilt);
            let at_most = usize::from(at >= whole);
            assert_eq!(found, [first.clone()][..at_most], "spoilt at {at}");
        }
        // A file torn in its first template is nobody's.
        fs::write(&path, &bytes[..whole - 1]).unwrap();
        let (_, found) = TemplateStore::open(dir.path(), 1).unwrap();
        assert!(found.is_empty() && files(dir.path()).is_empty());
    }

    #[test]
    fn behind_the_largest_id_there_is_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = TemplateStore::open(dir.path(), 1).unwrap();
        let snapshot = snapshot(tip(5, 1), 2, 10);
        let last = Template::build(&snapshot, Constraints::default(), u64::MAX).unwrap();
        store.write(&[Arc::new(last)]).unwrap();
        let (mut store, found) = TemplateStore::open(dir.path(), 1).unwrap();
        assert_eq!((found.len(), store.next_id(), store.next_id()), (1, u64::MAX, u64::MAX));
    }

    proptest::proptest! {
        #[test]
        fn no_file_is_read_with_a_panic(records in proptest::collection::vec((0u8..4, proptest::collection::vec(proptest::num::u8::ANY, 0..200)), 0..6)) {
            let mut bytes = MAGIC.to_vec();
            for (kind, body) in records {
                record(&mut bytes, kind, &body, &sha256d(&body));
            }
            let templates = read_file(Path::new("any"), &bytes);
            proptest::prop_assert!(templates.len() <= 6);
        }
    }
}
