//! A client of any bitcoind (Core, Knots) over its plain JSON-RPC, and a watch of its best tip.
//!
//! [`Node`] is a cheap handle that is cloned freely. It keeps a few connections alive, reads the cookie again when the
//! node was restarted, bounds each call in time and each answer in size, and says in [`NodeError`] what an operator has
//! to mend. Results are typed leanly: only fields that are used, hex decoded straight to bytes.
//!
//! [`Submitter`] brings solved blocks into the best chain, from the disk where need be; [`Network`] is what the rules of
//! a chain say; [`NodeKeys`] is a node in a role's configuration, [`CallMetrics`] what is counted of its calls, [`Board`]
//! how all of them are doing.
//!
//! [`TipWatch`] tells of a new best tip within milliseconds, and of the node's going and coming back.

mod blocks;
mod board;
mod calls;
mod chain;
mod config;
mod credentials;
mod error;
mod hex;
mod http;
mod keys;
mod metrics;
mod node;
mod submitter;
mod tip;
mod types;

pub use blocks::{BlockStore, Record, SolvedBlock, State, lock_dir, sync_dir};
pub use board::{Board, NodeState, choose, monitor};
pub use calls::Rules;
pub use chain::Network;
pub use config::{Auth, ConfigError, NodeConfig};
pub use error::NodeError;
pub use keys::{NodeKeys, Solutions};
pub use metrics::CallMetrics;
pub use node::{CallReport, Node};
pub use submitter::{BlockMetrics, Chain, Standing, Submitter, look_after};
pub use tip::{TipEvent, TipWatch};
pub use types::{
    BlockHeaderInfo, BlockTemplate, BlockchainInfo, MempoolEntry, MempoolTxids, NetworkInfo,
    ProposalResult, SubmitResult, TemplateTransaction, Tip,
};

#[cfg(test)]
mod tests;
