//! Channels: who works on what, judged by which target.
//!
//! [`ServerChannel`] is the side that gives work and judges shares, [`ClientChannel`] the side that
//! gets work. Both keep their jobs in the same table; standard and extended channels differ in data
//! only. [`Channels`] and [`ClientChannels`] are all that one connection has, and their groups.

mod acceptance;
mod channels;
mod client;
mod jobs;
mod server;

pub use acceptance::Acceptance;
pub use channels::{Channels, CustomError, Group, GroupError, Grouping, Retargeted};
pub use client::connection::ClientChannels;
pub use client::{ActiveWork, Change, ClientChannel, ClientError, JobNews};
pub use jobs::{JobTableError, MAX_LIVE_JOBS, Solution};
pub use server::{ChannelOptions, PrefixError, ServerChannel};

/// Standard or extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelKind {
    /// Header-only mining: the extranonce is fixed, so is each job's merkle root (spec 5.2.1).
    Standard,
    /// The client rolls a part of the extranonce (spec 5.2.2).
    Extended,
}
