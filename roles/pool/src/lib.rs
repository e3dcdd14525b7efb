//! Stratum V2 pool.
pub mod payout;
pub mod store;
