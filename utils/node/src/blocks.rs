//! Solved blocks on disk, from before they are submitted until the chain has settled about them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use adit_mining::BlockHash;
use bitcoin::consensus::encode;
use bitcoin::hashes::Hash;
use serde::{Deserialize, Serialize};

/// A solved block.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SolvedBlock {
    /// The block's hash.
    pub hash: BlockHash,
    /// What is kept about it.
    pub record: Record,
    /// Consensus serialization.
    pub raw: Arc<[u8]>,
}

/// What is kept about a block, as `HASH.json`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Record {
    /// Its height.
    pub height: u32,
    /// The template or declared job that it was mined from; 0 where that is not known any more.
    pub template_id: u64,
    /// When it was found, milliseconds since 1970.
    pub found_unix_ms: u64,
    /// How it stands.
    pub state: State,
}

/// How a block stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In no node's best chain: submitted again and again.
    Pending,
    /// In a node's best chain, not yet so deep that it is forgotten.
    InChain,
}

impl SolvedBlock {
    /// A block that was just solved.
    pub fn new(
        hash: BlockHash,
        height: u32,
        template_id: u64,
        raw: Vec<u8>,
        found_unix_ms: u64,
    ) -> Self {
        let record = Record { height, template_id, found_unix_ms, state: State::Pending };
        Self { hash, record, raw: raw.into() }
    }
}

/// The folder: `HASH.block`, raw, and `HASH.json` for each block.
#[derive(Debug)]
pub struct BlockStore {
    dir: PathBuf,
}

impl BlockStore {
    /// Opens the folder, which is made where there is none, and reads the blocks in it.
    ///
    /// # Errors
    /// Where the folder cannot be made or listed. What is no block is set aside as `*.broken`.
    pub fn open(dir: &Path) -> io::Result<(Self, Vec<SolvedBlock>)> {
        fs::create_dir_all(dir)?;
        let store = Self { dir: dir.to_owned() };
        let mut blocks = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("block") => match store.read(&path) {
                    Ok(block) => blocks.push(block),
                    Err(error) => {
                        tracing::error!(path = %path.display(), error, "a solved block cannot be read: set aside");
                        let _ = fs::rename(&path, path.with_extension("broken"));
                    }
                },
                // Left by a process that was killed before it had the block whole; the block's name does not exist then.
                Some("new") => drop(fs::remove_file(&path)),
                _ => {}
            }
        }
        Ok((store, blocks))
    }

    /// Writes a block so that nothing but a broken disk can lose it.
    ///
    /// # Errors
    /// Of the file system.
    pub fn save(&self, block: &SolvedBlock) -> io::Result<()> {
        let json = serde_json::to_vec(&block.record).map_err(io::Error::other)?;
        self.put(&self.path(block.hash, "json"), &json)?;
        self.put(&self.path(block.hash, "block"), &block.raw)?;
        sync_dir(&self.dir)
    }

    /// Writes anew what is kept about a block. Not synced: it can be asked of the node again.
    ///
    /// # Errors
    /// Of the file system.
    pub fn update(&self, block: &SolvedBlock) -> io::Result<()> {
        fs::write(
            self.path(block.hash, "json"),
            serde_json::to_vec(&block.record).map_err(io::Error::other)?,
        )
    }

    /// Removes a block.
    ///
    /// # Errors
    /// Of the file system.
    pub fn remove(&self, hash: BlockHash) -> io::Result<()> {
        fs::remove_file(self.path(hash, "block"))?;
        fs::remove_file(self.path(hash, "json"))
    }

    fn path(&self, hash: BlockHash, extension: &str) -> PathBuf {
        self.dir.join(format!("{hash}.{extension}"))
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    }

    fn read(&self, path: &Path) -> Result<SolvedBlock, String> {
        let raw = fs::read(path).map_err(|error| error.to_string())?;
        let block: bitcoin::Block = encode::deserialize(&raw).map_err(|error| error.to_string())?;
        let hash = BlockHash(block.block_hash().to_byte_array());
        if path != self.path(hash, "block") || !block.check_merkle_root() {
            return Err("it is another block than its name says".to_owned());
        }
        let record = fs::read(self.path(hash, "json"))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok());
        let record = match (record, block.bip34_block_height()) {
            (Some(record), _) => record,
            (None, Ok(height)) => Record {
                height: height as u32,
                template_id: 0,
                found_unix_ms: u64::from(block.header.time) * 1000,
                state: State::Pending,
            },
            (None, Err(error)) => return Err(format!("no height: {error}")),
        };
        Ok(SolvedBlock { hash, record, raw: raw.into() })
    }
}

/// Takes a folder for this process, making it where there is none: two processes in one would take each other's files
/// away. Released when the process ends, however it does, or the file is dropped.
///
/// # Errors
/// Where another process has it, or of the file system.
pub fn lock_dir(dir: &Path) -> io::Result<File> {
    fs::create_dir_all(dir)?;
    let file = File::create(dir.join("lock"))?;
    file.try_lock().map_err(|_| io::Error::other("used by another process"))?;
    Ok(file)
}

/// Makes new names in a folder outlive the machine.
///
/// # Errors
/// Of the file system.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bitcoin::absolute::LockTime;
    use bitcoin::transaction::Version;
    use bitcoin::{CompactTarget, ScriptBuf, Transaction, TxIn, TxOut, Witness};

    /// A solved block at `height` upon `prev`.
    pub(crate) fn solved(height: u32, prev: BlockHash, extranonce: u8) -> SolvedBlock {
        let script = bitcoin::script::Builder::new()
            .push_int(i64::from(height))
            .push_slice([extranonce; 4])
            .into_script();
        let coinbase = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                script_sig: script,
                witness: Witness::from_slice(&[[0; 32]]),
                ..Default::default()
            }],
            output: vec![TxOut {
                value: bitcoin::Amount::ONE_BTC,
                script_pubkey: ScriptBuf::new(),
            }],
        };
        let mut block = bitcoin::Block {
            header: bitcoin::block::Header {
                version: bitcoin::block::Version::TWO,
                prev_blockhash: bitcoin::BlockHash::from_byte_array(prev.0),
                merkle_root: bitcoin::TxMerkleNode::all_zeros(),
                time: 1_700_000_000,
                bits: CompactTarget::from_consensus(0x207f_ffff),
                nonce: 0,
            },
            txdata: vec![coinbase],
        };
        block.header.merkle_root = block.compute_merkle_root().unwrap();
        while block.header.validate_pow(block.header.target()).is_err() {
            block.header.nonce += 1;
        }
        let hash = BlockHash(block.block_hash().to_byte_array());
        SolvedBlock::new(hash, height, 7, encode::serialize(&block), 1_700_000_000_000)
    }

    #[test]
    fn blocks_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let (store, blocks) = BlockStore::open(&dir.path().join("solutions")).unwrap();
        assert!(blocks.is_empty());
        let mut block = solved(200, BlockHash([3; 32]), 1);
        store.save(&block).unwrap();
        store.save(&block).unwrap();
        block.record.state = State::InChain;
        store.update(&block).unwrap();
        let (store, blocks) = BlockStore::open(&dir.path().join("solutions")).unwrap();
        assert_eq!(blocks, [block.clone()]);

        // The block alone says enough.
        fs::write(store.path(block.hash, "json"), "{\"hei").unwrap();
        let (_, blocks) = BlockStore::open(&dir.path().join("solutions")).unwrap();
        let record = Record {
            height: 200,
            template_id: 0,
            found_unix_ms: 1_700_000_000_000,
            state: State::Pending,
        };
        assert_eq!(blocks, [SolvedBlock { record, ..block.clone() }]);

        store.remove(block.hash).unwrap();
        assert!(BlockStore::open(&dir.path().join("solutions")).unwrap().1.is_empty());
        assert_eq!(fs::read_dir(dir.path().join("solutions")).unwrap().count(), 0);
    }

    #[test]
    fn torn_files_are_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = BlockStore::open(dir.path()).unwrap();
        let block = solved(200, BlockHash([3; 32]), 1);
        let other = solved(200, BlockHash([3; 32]), 2);
        store.save(&block).unwrap();
        let path = store.path(block.hash, "block");
        fs::write(&path, &block.raw[..block.raw.len() - 1]).unwrap();
        fs::write(store.path(other.hash, "block"), &block.raw).unwrap();
        fs::write(dir.path().join("abc.block.new"), "x").unwrap();
        let (_, blocks) = BlockStore::open(dir.path()).unwrap();
        assert!(blocks.is_empty());
        assert!(!path.exists() && path.with_extension("broken").exists());
        assert!(!dir.path().join("abc.block.new").exists());
    }
}
