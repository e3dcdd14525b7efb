//! What Stratum V2 job declaration (spec 6) means: tokens, declared jobs, coinbase checks, block assembly.
//!
//! No sockets, no clock, no random numbers: bytes, time and entropy are arguments.
//!
//! | To | use |
//! | --- | --- |
//! | give out and check tokens | [`Token`], [`TokenError`], [`UsedTokens`] |
//! | bind a token to a job | [`Commitment`]: [`Commitment::declared`] at the JDS, [`Commitment::of`] at the pool |
//! | read a declared coinbase | [`DeclaredCoinbase::parse`] |
//! | see whom a coinbase pays | [`CoinbaseOutputs`] |
//! | hold a declared job and solve it | [`DeclaredJob`], [`Transaction`] |
//!
//! A Job Declarator Server and a pool share no database. What the one accepted it states in a [`Token`] that it signs;
//! the other has the public half of the key and checks `SetCustomMiningJob` against the [`Commitment`] inside.

mod coinbase;
mod commitment;
mod job;
mod outputs;
mod read;
mod token;
mod used;

pub use coinbase::{CoinbaseRefused, DeclaredCoinbase, MAX_EXTRANONCE_SIZE};
pub use commitment::{Commitment, Field};
pub use job::{Block, DeclaredJob, SolutionError, Transaction, TransactionError};
pub use outputs::{CoinbaseOutputs, MAX_MONEY, OutputsError};
pub use token::{AccountTag, Grant, Token, TokenError, TokenId, outputs_hash};
pub use used::UsedTokens;
