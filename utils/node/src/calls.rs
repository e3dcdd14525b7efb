//! The RPCs a mining stack lives on, typed.

use std::{sync::atomic::Ordering, time::Duration};

use bitcoin::{BlockHash, OutPoint, Txid};
use serde::Serialize;
use serde_json::json;

use crate::{
    BlockHeaderInfo, BlockTemplate, BlockchainInfo, MempoolEntry, MempoolTxids, NetworkInfo, Node,
    NodeError, ProposalResult, SubmitResult, Tip,
    hex::{BytesResult, HashResult, encode},
    types::TxOutValue,
};

/// A block that cost its work gets more time than a question: a slow node validates it within the call.
const SUBMIT_DEADLINE: Duration = Duration::from_secs(60);

/// `RPC_MISC_ERROR`, which comes with the help text for a wrong number of parameters.
const RPC_MISC_ERROR: i64 = -1;
/// `RPC_DESERIALIZATION_ERROR`.
const RPC_DESERIALIZATION_ERROR: i64 = -22;

/// Rules a client claims to understand in `getblocktemplate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// `segwit`, on every chain but signet.
    Segwit,
    /// `segwit` and `signet`: a template of a signet is given only to who knows of its block solution.
    SegwitSignet,
}

impl Rules {
    /// What the chain of [`BlockchainInfo::chain`] asks for.
    pub fn for_chain(chain: &str) -> Self {
        if chain == "signet" { Self::SegwitSignet } else { Self::Segwit }
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Segwit => &["segwit"],
            Self::SegwitSignet => &["segwit", "signet"],
        }
    }
}

pub(crate) const NO_PARAMS: [u8; 0] = [];

impl Node {
    /// Chain, heights and whether the node is still catching up.
    pub async fn getblockchaininfo(&self) -> Result<BlockchainInfo, NodeError> {
        self.query("getblockchaininfo", NO_PARAMS).await
    }

    /// The node's version and its peers.
    pub async fn getnetworkinfo(&self) -> Result<NetworkInfo, NodeError> {
        self.query("getnetworkinfo", NO_PARAMS).await
    }

    /// The best block.
    pub async fn getbestblockhash(&self) -> Result<BlockHash, NodeError> {
        Ok(self.query::<HashResult<_>>("getbestblockhash", NO_PARAMS).await?.0)
    }

    /// A header with its height and median time.
    pub async fn getblockheader(&self, hash: &BlockHash) -> Result<BlockHeaderInfo, NodeError> {
        self.query("getblockheader", (Text(hash), true)).await
    }

    /// A template on the current tip. On main and test nets a node that syncs or has no peers refuses
    /// ([`NodeError::Syncing`], [`NodeError::NoPeers`]).
    pub async fn getblocktemplate(&self, rules: Rules) -> Result<BlockTemplate, NodeError> {
        self.query("getblocktemplate", [json!({ "rules": rules.names() })]).await
    }

    /// The transactions that wait at the node.
    pub async fn getrawmempool(&self) -> Result<MempoolTxids, NodeError> {
        self.query("getrawmempool", (false, true)).await
    }

    /// Of each transaction its serialization; `None` for one that is not in the mempool (any more).
    pub async fn getrawtransactions(
        &self,
        txids: &[Txid],
    ) -> Result<Vec<Option<Vec<u8>>>, NodeError> {
        let params = txids.iter().map(|txid| (Text(txid), false));
        let results = self.query_many::<BytesResult>("getrawtransaction", params).await?;
        Ok(results.into_iter().map(|result| result.ok().map(|bytes| bytes.0)).collect())
    }

    /// Of each transaction what the mempool knows about it; `None` for one that is not there (any more).
    pub async fn getmempoolentries(
        &self,
        txids: &[Txid],
    ) -> Result<Vec<Option<MempoolEntry>>, NodeError> {
        let params = txids.iter().map(|txid| [Text(txid)]);
        let results = self.query_many("getmempoolentry", params).await?;
        Ok(results.into_iter().map(Result::ok).collect())
    }

    /// The satoshis of unspent outputs in the chain; `None` for one that is spent, unknown or only in the mempool.
    pub async fn gettxouts(&self, outputs: &[OutPoint]) -> Result<Vec<Option<u64>>, NodeError> {
        let params = outputs.iter().map(|output| (Text(&output.txid), output.vout, false));
        let results = self.query_many::<Option<TxOutValue>>("gettxout", params).await?;
        results.into_iter().map(|result| Ok(result?.map(|output| output.value))).collect()
    }

    /// Has a serialized block judged without its work.
    pub async fn propose_block(
        &self,
        block: &[u8],
        rules: Rules,
    ) -> Result<ProposalResult, NodeError> {
        #[derive(Serialize)]
        struct Proposal {
            mode: &'static str,
            rules: &'static [&'static str],
            data: String,
        }
        let proposal = Proposal { mode: "proposal", rules: rules.names(), data: encode(block) };
        let reason: Result<Option<String>, _> = self.query("getblocktemplate", [proposal]).await;
        match undecodable(reason) {
            Ok(reason) => Ok(ProposalResult::from_node(reason.as_deref())),
            Err(e) => Err(e),
        }
    }

    /// Hands a serialized block in. It waits for no other call, and may be sent twice: a repeat is `Duplicate`.
    pub async fn submitblock(&self, block: &[u8]) -> Result<SubmitResult, NodeError> {
        let deadline = SUBMIT_DEADLINE.max(self.timeout());
        let reason: Result<Option<String>, _> =
            self.query_within("submitblock", [encode(block)], deadline).await;
        match undecodable(reason) {
            Ok(reason) => Ok(SubmitResult::from_node(reason.as_deref())),
            Err(e) => Err(e),
        }
    }

    /// Waits at the node until its tip is another than `current_tip`, and gives the tip as it is then or after
    /// `wait`. It has a connection to itself and the usual deadline on top of `wait`.
    ///
    /// A node that does not know the second parameter waits for the next change instead, so a change before the call
    /// goes unseen there: such a caller looks at `getbestblockhash` now and then.
    pub async fn waitfornewblock(
        &self,
        wait: Duration,
        current_tip: &BlockHash,
    ) -> Result<Tip, NodeError> {
        let deadline = wait + self.timeout();
        // 0 would be for ever.
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        if !self.waits_without_tip().load(Ordering::Relaxed) {
            let params = (wait_ms, Text(current_tip));
            match self.query_within("waitfornewblock", params, deadline).await {
                Err(NodeError::Rpc { code: RPC_MISC_ERROR, .. }) => {
                    tracing::debug!(node = self.url(), "waitfornewblock takes no tip");
                    self.waits_without_tip().store(true, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        self.query_within("waitfornewblock", [wait_ms], deadline).await
    }
}

/// A block the node cannot even read is refused like any other.
fn undecodable(reason: Result<Option<String>, NodeError>) -> Result<Option<String>, NodeError> {
    match reason {
        Err(NodeError::Rpc { code: RPC_DESERIALIZATION_ERROR, message }) => Ok(Some(message)),
        other => other,
    }
}

/// Written as the node writes hashes.
struct Text<'a, T>(&'a T);

impl<T: std::fmt::Display> Serialize for Text<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}
