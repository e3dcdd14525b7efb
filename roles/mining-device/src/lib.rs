//! Mining device simulator: SV2 standard, SV2 extended, SV1.
//!
//! Each connection has one or several miners, each with its own channel, or a V1 session ([`engine`]); all share the
//! hashing threads ([`hasher`]). The driver ([`Role::run`](adit_service::Role::run)) carries work one way and finds the other.

mod config;
mod driver;
pub mod engine;
pub mod hasher;
mod report;
mod requests;
mod sv1;
mod sv2;

pub use config::{Config, HashRate, Healthcheck, Mode, Upstream};
pub use driver::run;
pub use report::{ConnectionReport, Report};
