//! Job Declarator Client: miners below it work on blocks that their own node chose, and are paid by a pool for it.
//!
//! [`engine`] is the logic, without sockets or disk; [`store`] keeps found blocks; [`config`] is what an
//! operator says. [`Jdc`] is the role that ties them together.

pub mod config;
mod driver;
pub mod engine;
pub mod metrics;
pub mod store;

pub use driver::{Jdc, run};

/// The whole program. Here and not in the binary, so that the role is compiled once.
pub fn program() -> std::process::ExitCode {
    adit_service::main::<Jdc>()
}
