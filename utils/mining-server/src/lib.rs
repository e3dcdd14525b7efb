//! What a server of the mining protocol says and checks, whatever it does with shares: the pool and the job declarator
//! client are two of them.
//!
//! Below it are miners: [`Session`] is what was agreed with one, [`mining_message`] reads what it says then, and
//! [`ChannelRequest`] what it wants to open. Above it are servers that it is a client of: [`LinkState`] is how far such
//! a connection is.

mod link;
mod request;
mod session;

pub use link::{LinkState, REFUSED, SETUP_DEADLINE, setup_connection};
pub use request::{ChannelRequest, is_hash_rate};
pub use session::{Offer, Session, mining_message, reason};
