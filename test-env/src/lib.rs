//! Harness, lab and end-to-end tests of Adit.

pub mod bitcoind;
#[cfg(feature = "harness")]
pub mod harness;
pub mod lab;
pub mod ports;
#[cfg(feature = "harness")]
pub mod sniffer;
mod temp;
