//! Job Declarator Server (spec 6): lets miners choose their own blocks, and vouches for them to the pool.
//!
//! [`engine`] is the logic; [`driver`] puts it between sockets, the nodes and the disk; [`follow`], [`mirror`] and
//! [`checker`] are its dealings with the nodes.

pub mod checker;
pub mod config;
pub mod driver;
pub mod engine;
pub mod follow;
pub mod metrics;
pub mod mirror;

pub use config::Config;
pub use driver::JdsRole;

/// The whole program. Here and not in the binary, so that the role is compiled once.
pub fn program() -> std::process::ExitCode {
    adit_service::main::<JdsRole>()
}
