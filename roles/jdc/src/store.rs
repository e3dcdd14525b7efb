//! Found blocks on disk, a file each: a block that a template provider has not taken yet survives our end.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A block whose fate is not known, as it is submitted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FoundBlock {
    /// Header hash, internal byte order.
    #[serde(with = "hex_bytes")]
    pub hash: Vec<u8>,
    /// Header field, internal byte order.
    #[serde(with = "hex_bytes")]
    pub prev_hash: Vec<u8>,
    /// Milliseconds since 1970.
    pub found_unix_ms: u64,
    /// `user_identity` of the channel.
    pub identity: String,
    /// The pool that its coinbase pays, none where it was found solo.
    #[serde(default)]
    pub pool: Option<String>,
    /// Address of the template provider that made the template.
    pub template_provider: String,
    /// Its id there.
    pub template_id: u64,
    /// Header field.
    pub version: u32,
    /// Header field, unix seconds.
    pub ntime: u32,
    /// Header field.
    pub nonce: u32,
    /// The whole coinbase, BIP141 fields included.
    #[serde(with = "hex_bytes")]
    pub coinbase_tx: Vec<u8>,
}

impl FoundBlock {
    /// As explorers show it.
    pub fn display_hash(&self) -> String {
        self.hash.iter().rev().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What is told of a block.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BlockRecord {
    /// As explorers show it.
    pub hash: String,
    /// Where its coinbase says it.
    pub height: Option<u32>,
    /// Milliseconds since 1970.
    pub found_unix_ms: u64,
    /// Account and worker.
    pub identity: String,
    /// Who is paid: `host:port` of a pool, or `solo`.
    #[serde(rename = "for")]
    pub for_whom: String,
    /// Whose the template was.
    pub job: JobOrigin,
    /// What became of it.
    pub state: BlockState,
}

/// Whose template a block was made of.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobOrigin {
    /// Ours.
    Custom,
    /// The pool's.
    Template,
}

/// What became of a block.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockState {
    /// Submitted again until its fate is known.
    Submitted,
    /// One of many on a tip: submitted once.
    Rival,
    /// On a job of the pool's own, which submits it.
    Pool,
    /// It was the tip.
    Accepted,
    /// Another was the tip at its height, and was built upon.
    Overtaken,
    /// We ended before that was kept, or it may have been the tip while nobody looked.
    Unknown,
}

/// A worker's best share ever.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BestShare {
    /// Account and worker.
    pub identity: String,
    /// How hard it was.
    pub difficulty: f64,
    /// When it came, milliseconds since 1970.
    pub unix_ms: u64,
}

/// What is remembered over restarts.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Past {
    /// The last blocks, oldest first.
    pub blocks: Vec<BlockRecord>,
    /// In any order.
    pub workers: Vec<BestShare>,
}

impl BlockRecord {
    /// A block of ours that is looked after.
    pub fn submitted(block: &FoundBlock) -> Self {
        Self {
            hash: block.display_hash(),
            height: coinbase_height(&block.coinbase_tx),
            found_unix_ms: block.found_unix_ms,
            identity: block.identity.clone(),
            for_whom: block.pool.clone().unwrap_or_else(|| "solo".to_owned()),
            job: JobOrigin::Custom,
            state: BlockState::Submitted,
        }
    }
}

/// The height that a coinbase begins with (BIP34).
pub fn coinbase_height(transaction: &[u8]) -> Option<u32> {
    let coinbase: bitcoin::Transaction = bitcoin::consensus::deserialize(transaction).ok()?;
    match *coinbase.input.first()?.script_sig.as_bytes() {
        [op @ 0x51..=0x60, ..] => Some(u32::from(op - 0x50)),
        [len @ 1..=4, ref rest @ ..] => {
            let bytes = rest.get(..usize::from(len))?;
            Some(bytes.iter().rev().fold(0, |height, byte| height << 8 | u32::from(*byte)))
        }
        _ => None,
    }
}

/// The folder.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// A file larger than this is not a block's: a coinbase has at most 65,535 bytes.
const MAX_FILE: u64 = 200_000;
/// The file of what is remembered. No block's: those end with `.json`.
const PAST: &str = "history";
/// It has at most 100 blocks and 10,000 workers.
const MAX_PAST: u64 = 8 << 20;

impl Folder {
    /// Makes the folder if it is missing.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self(path.to_owned()))
    }

    /// What is there. Files that are not ours, or cut off, are left alone and logged.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn pending(&self) -> io::Result<Vec<FoundBlock>> {
        let mut blocks: Vec<FoundBlock> = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok(block) => blocks.push(block),
                Err(error) => {
                    tracing::error!(file = %path.display(), %error, "not a block, left alone")
                }
            }
        }
        blocks.sort_by_key(|block| block.found_unix_ms);
        Ok(blocks)
    }

    /// Writes a block and waits for the disk.
    ///
    /// # Errors
    /// The operating system's.
    pub fn keep(&self, block: &FoundBlock) -> io::Result<()> {
        self.write(&self.file(&block.display_hash()), &serde_json::to_vec(block)?)
    }

    /// What a former run remembered. Nothing hangs on it: where it cannot be read it is logged and begins anew.
    pub fn past(&self) -> Past {
        let path = self.0.join(PAST);
        let read = || -> io::Result<Past> {
            if fs::metadata(&path)?.len() > MAX_PAST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "too large"));
            }
            Ok(serde_json::from_slice(&fs::read(&path)?)?)
        };
        read().unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::error!(file = %path.display(), %error, "what was remembered cannot be read");
            }
            Past::default()
        })
    }

    /// Writes what is to be remembered and waits for the disk.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remember(&self, past: &Past) -> io::Result<()> {
        self.write(&self.0.join(PAST), &serde_json::to_vec(past)?)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let part = path.with_extension("part");
        let mut file = fs::File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        fs::File::open(&self.0)?.sync_all()
    }

    /// Forgets a block by its hash, internal byte order; one that is not there is no error.
    ///
    /// # Errors
    /// The operating system's.
    pub fn forget(&self, hash: &[u8; 32]) -> io::Result<()> {
        let name: String = hash.iter().rev().map(|byte| format!("{byte:02x}")).collect();
        match fs::remove_file(self.file(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.json"))
    }
}

fn read(path: &Path) -> io::Result<FoundBlock> {
    let invalid = |message: &str| io::Error::new(io::ErrorKind::InvalidData, message.to_owned());
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(invalid("too large"));
    }
    let block: FoundBlock = serde_json::from_slice(&fs::read(path)?)?;
    if block.hash.len() != 32 || block.prev_hash.len() != 32 {
        return Err(invalid("a hash has 32 bytes"));
    }
    Ok(block)
}

mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        bitcoin::hex::FromHex::from_hex(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(last: u8) -> FoundBlock {
        let mut hash = vec![0; 32];
        hash[31] = last;
        FoundBlock {
            hash,
            prev_hash: vec![1; 32],
            found_unix_ms: u64::from(last),
            identity: "miner".to_owned(),
            pool: None,
            template_provider: "localhost:8442".to_owned(),
            template_id: u64::MAX,
            version: 0x2000_0000,
            ntime: 1,
            nonce: 2,
            coinbase_tx: vec![1, 2, 3],
        }
    }

    #[test]
    fn what_is_kept_is_found_again_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(&dir.path().join("deep/blocks")).unwrap();
        assert!(folder.pending().unwrap().is_empty());
        folder.keep(&block(2)).unwrap();
        folder.keep(&block(1)).unwrap();
        folder.keep(&block(1)).unwrap();
        assert_eq!(folder.pending().unwrap(), [block(1), block(2)]);
        let hash = block(1).hash.try_into().unwrap();
        folder.forget(&hash).unwrap();
        folder.forget(&hash).unwrap();
        assert_eq!(folder.pending().unwrap(), [block(2)]);
    }

    #[test]
    fn what_is_remembered_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert_eq!(folder.past(), Past::default());
        let past = Past {
            blocks: vec![BlockRecord {
                state: BlockState::Accepted,
                ..BlockRecord::submitted(&block(1))
            }],
            workers: vec![BestShare { identity: "a.b".to_owned(), difficulty: 0.1, unix_ms: 5 }],
        };
        folder.remember(&past).unwrap();
        assert_eq!(folder.past(), past);
        assert!(folder.pending().unwrap().is_empty());
        fs::write(dir.path().join(PAST), b"{\"blocks\":[{").unwrap();
        assert_eq!(folder.past(), Past::default());
    }

    #[test]
    fn heights_are_read_from_coinbases() {
        use bitcoin::hashes::Hash as _;
        let coinbase = |script_sig: &[u8]| {
            let input = bitcoin::TxIn {
                previous_output: bitcoin::OutPoint::new(bitcoin::Txid::all_zeros(), u32::MAX),
                script_sig: bitcoin::ScriptBuf::from_bytes(script_sig.to_vec()),
                ..bitcoin::TxIn::default()
            };
            let transaction = bitcoin::Transaction {
                version: bitcoin::transaction::Version::TWO,
                lock_time: bitcoin::absolute::LockTime::ZERO,
                input: vec![input],
                output: Vec::new(),
            };
            coinbase_height(&bitcoin::consensus::serialize(&transaction))
        };
        assert_eq!(coinbase(&[0x60, 1, 2]), Some(16));
        assert_eq!(coinbase(&[3, 0x40, 0x0d, 0x03, 9]), Some(200_000));
        assert_eq!(coinbase(&[4, 1, 2]), None);
        assert_eq!(coinbase(&[0x6a]), None);
        assert_eq!(coinbase_height(&[1, 2, 3]), None);
    }

    #[test]
    fn what_is_no_block_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        fs::write(dir.path().join("cut.json"), b"{\"hash\":\"00\"").unwrap();
        fs::write(dir.path().join("short.json"), br#"{"hash":"00","prev_hash":"00","found_unix_ms":1,"identity":"","template_provider":"","template_id":1,"version":1,"ntime":1,"nonce":1,"coinbase_tx":""}"#).unwrap();
        fs::write(dir.path().join("large.json"), vec![b' '; 300_000]).unwrap();
        fs::write(dir.path().join("other.txt"), b"text").unwrap();
        assert!(folder.pending().unwrap().is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    }
}
