//! A scripted job declarator: a test's own end of a JDS, with jobs that it chooses.

use std::time::Duration;

use adit_sv2::codec::{B016M, B032, B064K, B0255, Seq064K, Str0255};
use adit_sv2::messages::AnyMessage;
use adit_sv2::messages::common::PROTOCOL_JOB_DECLARATION;
use adit_sv2::messages::job_declaration::{
    AllocateMiningJobToken, DECLARE_TX_DATA, DeclareMiningJob, JobDeclaration,
    ProvideMissingTransactionsSuccess, PushSolution,
};
use anyhow::{Context, Result, bail};
use bitcoin::block::{Header, Version};
use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::{Hash, sha256d};
use bitcoin::{
    Amount, Block, BlockHash, CompactTarget, OutPoint, ScriptBuf, Sequence, Transaction, TxIn,
    TxMerkleNode, TxOut, Witness, absolute, merkle_tree, script, transaction,
};
use bitcoincore_rpc::RpcApi;

use super::{Endpoint, Sv2Peer};
use crate::bitcoind::Bitcoind;

/// For an answer.
const SOON: Duration = Duration::from_secs(60);
/// Header version that is declared.
const VERSION: i32 = 0x2000_0000;
/// Bytes of extranonce.
const EXTRANONCE: usize = 8;

/// A client of a JDS.
pub struct Declarer(Sv2Peer);

/// What a JDS allocated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Allocated {
    /// The token.
    pub token: Vec<u8>,
    /// The outputs that the pool wants, serialized.
    pub outputs: Vec<u8>,
}

/// What became of a declaration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The new token, or code and details.
    pub result: Result<Vec<u8>, (String, String)>,
    /// Transactions that were asked for.
    pub asked: usize,
}

impl Declarer {
    /// Connects in full-template mode.
    ///
    /// # Errors
    /// The server refuses.
    pub fn connect(server: &Endpoint) -> Result<Self> {
        Ok(Self(Sv2Peer::set_up(server, PROTOCOL_JOB_DECLARATION, DECLARE_TX_DATA)?))
    }

    /// The connection, to say what no client should.
    pub fn peer(&mut self) -> &mut Sv2Peer {
        &mut self.0
    }

    /// Asks for a token.
    ///
    /// # Errors
    /// None comes.
    pub fn token(&mut self) -> Result<Allocated> {
        let user_identifier = Str0255::cut("alice.rig");
        self.0.send(&AllocateMiningJobToken { user_identifier, request_id: 1 })?;
        let record = self.0.wait_for("AllocateMiningJobToken.Success", SOON)?;
        match record.message()?.0 {
            AnyMessage::JobDeclaration(JobDeclaration::AllocateMiningJobTokenSuccess(m)) => {
                Ok(Allocated {
                    token: m.mining_job_token.as_bytes().to_vec(),
                    outputs: m.coinbase_tx_outputs.as_bytes().to_vec(),
                })
            }
            other => bail!("{other}"),
        }
    }

    /// Declares a job.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn declare(&mut self, request_id: u32, token: &[u8], job: &Job) -> Result<()> {
        self.0.send(&DeclareMiningJob {
            request_id,
            mining_job_token: B0255::new(token)?,
            version: VERSION as u32,
            coinbase_tx_prefix: B064K::new(&job.prefix)?,
            coinbase_tx_suffix: B064K::new(&job.suffix)?,
            wtxid_list: Seq064K::new(&job.wtxids)?,
            excess_data: B064K::default(),
        })
    }

    /// Waits for the answer to a declaration, and provides what is asked for meanwhile.
    ///
    /// # Errors
    /// None comes.
    pub fn answer(&mut self, job: &Job) -> Result<Answer> {
        let mut asked = 0;
        loop {
            let record = self.0.receive(SOON)?.context("the connection ended")?;
            match record.message()?.0 {
                AnyMessage::JobDeclaration(JobDeclaration::ProvideMissingTransactions(m)) => {
                    asked = m.unknown_tx_position_list.len();
                    let raw: Vec<_> = m
                        .unknown_tx_position_list
                        .iter()
                        .map(|at| B016M::new(&job.raw[usize::from(at)]))
                        .collect::<Result<_, _>>()?;
                    self.0.send(&ProvideMissingTransactionsSuccess {
                        request_id: m.request_id,
                        transaction_list: Seq064K::new(&raw)?,
                    })?;
                }
                AnyMessage::JobDeclaration(JobDeclaration::DeclareMiningJobSuccess(m)) => {
                    let result = Ok(m.new_mining_job_token.as_bytes().to_vec());
                    return Ok(Answer { result, asked });
                }
                AnyMessage::JobDeclaration(JobDeclaration::DeclareMiningJobError(m)) => {
                    let details = String::from_utf8_lossy(m.error_details.as_bytes()).into_owned();
                    let result = Err((m.error_code.to_clean_string(), details));
                    return Ok(Answer { result, asked });
                }
                other => bail!("{other}"),
            }
        }
    }

    /// Takes a token, declares, and waits for the answer.
    ///
    /// # Errors
    /// None comes.
    pub fn run(&mut self, request_id: u32, job: &Job) -> Result<Answer> {
        let token = self.token()?.token;
        self.declare(request_id, &token, job)?;
        self.answer(job)
    }

    /// Sends a solution.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn push(&mut self, block: &Block) -> Result<()> {
        let script = block.txdata[0].input[0].script_sig.as_bytes();
        let Header { version, prev_blockhash, time, bits, nonce, .. } = block.header;
        self.0.send(&PushSolution {
            extranonce: B032::new(&script[script.len() - EXTRANONCE..])?,
            prev_hash: prev_blockhash.to_byte_array(),
            nonce,
            ntime: time,
            nbits: bits.to_consensus(),
            version: version.to_consensus() as u32,
        })
    }
}

/// A block to be, upon the tip that a node had when it was made.
#[derive(Clone, Debug)]
pub struct Job {
    /// `coinbase_tx_prefix`.
    pub prefix: Vec<u8>,
    /// `coinbase_tx_suffix`.
    pub suffix: Vec<u8>,
    /// Transactions without the coinbase.
    pub transactions: Vec<Transaction>,
    /// The hashes of these.
    pub wtxids: Vec<[u8; 32]>,
    raw: Vec<Vec<u8>>,
    coinbase: Transaction,
    prev_hash: BlockHash,
    bits: CompactTarget,
    time: u32,
}

impl Job {
    /// A job of these transactions, which pay `fees`, with everything to `payout`. Those with another `tag` have another
    /// coinbase.
    ///
    /// # Errors
    /// The node does not answer.
    pub fn new(
        node: &Bitcoind,
        transactions: Vec<Transaction>,
        fees: Amount,
        payout: ScriptBuf,
        tag: u32,
    ) -> Result<Self> {
        let client = node.client()?;
        let prev_hash = client.get_best_block_hash()?;
        let tip = client.get_block_header_info(&prev_hash)?;
        let height = tip.height as u32 + 1;
        let subsidy = Amount::from_int_btc(50) / (1 << (height / 150));
        let wtxids: Vec<_> =
            transactions.iter().map(|t| t.compute_wtxid().to_byte_array()).collect();
        let mut leaves = vec![sha256d::Hash::all_zeros()];
        leaves.extend(wtxids.iter().map(|wtxid| sha256d::Hash::from_byte_array(*wtxid)));
        let root = merkle_tree::calculate_root(leaves.into_iter()).context("no leaves")?;
        let commitment = sha256d::Hash::hash(&[root.to_byte_array(), [0; 32]].concat());
        let commitment =
            [&[0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed][..], &commitment.to_byte_array()].concat();
        let script_sig = script::Builder::new()
            .push_int(i64::from(height))
            .push_slice(tag.to_le_bytes())
            .push_slice([0; EXTRANONCE])
            .into_script();
        let coinbase = Transaction {
            version: transaction::Version::TWO,
            lock_time: absolute::LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint::null(),
                script_sig,
                sequence: Sequence::MAX,
                witness: Witness::from_slice(&[[0; 32]]),
            }],
            output: vec![
                TxOut { value: subsidy + fees, script_pubkey: payout },
                TxOut { value: Amount::ZERO, script_pubkey: ScriptBuf::from_bytes(commitment) },
            ],
        };
        let mut job = Self {
            prefix: Vec::new(),
            suffix: Vec::new(),
            raw: transactions.iter().map(serialize).collect(),
            wtxids,
            transactions,
            coinbase,
            prev_hash,
            bits: CompactTarget::from_unprefixed_hex(&tip.bits)?,
            time: tip.median_time.context("no median time")? as u32 + 1,
        };
        job.cut();
        Ok(job)
    }

    /// The coinbase, to be changed; the witness commitment is its last output.
    pub fn change(&mut self, change: impl FnOnce(&mut Transaction)) {
        change(&mut self.coinbase);
        self.cut();
    }

    /// The block with this extranonce, solved (on regtest).
    ///
    /// # Errors
    /// There is no coinbase any more.
    pub fn solve(&self, extranonce: [u8; EXTRANONCE]) -> Result<Block> {
        let mut coinbase = self.coinbase.clone();
        let input = coinbase.input.first_mut().context("no input")?;
        let mut script = input.script_sig.to_bytes();
        let at = script.len() - EXTRANONCE;
        script[at..].copy_from_slice(&extranonce);
        input.script_sig = ScriptBuf::from_bytes(script);
        let mut block = Block {
            header: Header {
                version: Version::from_consensus(VERSION),
                prev_blockhash: self.prev_hash,
                merkle_root: TxMerkleNode::all_zeros(),
                time: self.time,
                bits: self.bits,
                nonce: 0,
            },
            txdata: std::iter::once(coinbase).chain(self.transactions.iter().cloned()).collect(),
        };
        block.header.merkle_root = block.compute_merkle_root().context("no transactions")?;
        while block.header.validate_pow(block.header.target()).is_err() {
            block.header.nonce += 1;
        }
        Ok(block)
    }

    /// Cuts the coinbase in two around the extranonce, BIP141 fields kept.
    fn cut(&mut self) {
        let raw = serialize(&self.coinbase);
        // nVersion, marker and flag, input count, previous output, a length of one byte.
        let script = self.coinbase.input.first().map_or(0, |input| input.script_sig.len());
        let end = 4 + 2 + 1 + 36 + 1 + script;
        self.prefix = raw[..end - EXTRANONCE].to_vec();
        self.suffix = raw[end..].to_vec();
    }
}
