//! Harness, lab and end-to-end tests of Adit.

pub mod bitcoind;
#[cfg(feature = "harness")]
pub mod harness;
pub mod lab;
#[cfg(feature = "harness")]
pub mod sniffer;
