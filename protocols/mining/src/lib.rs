//! What Stratum V2 mining means: jobs, targets, extranonce space, share check, channels.

pub mod coinbase;
pub mod extranonce;
pub mod header;
pub mod merkle;
mod sha256;
pub mod target;

pub use coinbase::{Coinbase, CoinbaseError, Payouts};
pub use extranonce::{Extranonce, ExtranonceAllocator};
pub use header::{BlockHash, Header, NonceScan};
pub use sha256::sha256d;
pub use target::Target;
