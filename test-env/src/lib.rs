//! Harness, lab and end-to-end tests of Adit.

pub mod bitcoind;
pub mod harness;
pub mod lab;
pub mod sniffer;
