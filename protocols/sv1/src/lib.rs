//! Stratum V1 lines to typed requests, replies and notifications, and back.
//!
//! Nothing here knows a socket or a clock: a caller cuts its receive buffer with [`Lines`], hands each line to
//! [`server::parse_request`] (in front of miners) or [`client::parse_message`] (in front of a pool), and appends what
//! it wants to say with the functions of [`server::write`] or with [`client::Requester`]. Writers append exactly one
//! JSON object without the closing line feed, which belongs to whoever sends the line.
//!
//! Miners write JSON with `sprintf`. What can be understood in only one way is understood, and every such repair is
//! reported in a [`Repairs`] set so that the caller can count it per firmware; what cannot is an error that names the
//! field. No input panics, none is parsed recursively, and parsing costs a fixed number of passes over the line.
//!
//! Difficulties stay numbers here; what they mean as targets is `adit-mining`'s business.

pub mod client;
mod error;
pub mod hex;
mod id;
mod json;
mod lines;
mod repairs;
pub mod server;

pub use error::{ErrorCode, LineError, ParamsError};
pub use id::{Id, IdBuf};
pub use json::{Array, Element, Elements, Member, Members, Object, Text, Value};
pub use lines::{Line, LineTooLong, Lines, MAX_LINE};
pub use repairs::Repairs;
