//! The miner's side of the line: what a pool says, and what it is asked.

mod message;
mod reply;
mod request;

pub use message::{Body, Job, Message, Reconnect, parse_message};
pub use reply::{Configured, Rejection, Reply, Subscribed};
pub use request::{Manner, Requester, Share, pong, version};
