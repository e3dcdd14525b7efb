//! Stratum V1 miners in, Stratum V2 extended channels out.
//!
//! [`engine`] is the logic, without sockets or clock; [`config`] is what an operator says. [`TranslatorRole`] is the role
//! that ties them together.

pub mod auth;
pub mod config;
mod driver;
pub mod engine;
pub mod metrics;

pub use driver::{TranslatorRole, run};

/// The whole program. Here and not in the binary, so that the role is compiled once.
pub fn program() -> std::process::ExitCode {
    adit_service::main::<TranslatorRole>()
}
