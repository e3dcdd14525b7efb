//! Stratum V2 pool: gives miners work from a template provider, checks and stores their shares, submits their blocks.
//!
//! [`engine`] is the logic, without sockets or disk; [`store`] is the disk; [`config`] and [`payout`] are what an operator
//! says. [`Pool`] is the role that ties them together.

pub mod config;
mod driver;
pub mod engine;
pub mod metrics;
pub mod payout;
pub mod store;

pub use driver::{Pool, run};

/// The whole program. Here and not in the binary, so that the role is compiled once.
pub fn program() -> std::process::ExitCode {
    adit_service::main::<Pool>()
}
