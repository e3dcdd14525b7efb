//! Noise and line connections over TCP for sans-IO engines.
//!
//! A role's logic is an [`Engine`]: it is told what arrives and says what is to be sent, and knows neither sockets nor
//! tasks. A [`Hub`] drives it with tokio: it listens, dials, encrypts, and bounds what a peer can cost. All limits are in
//! [`ListenLimits`], [`ConnectionLimits`] and [`DialOptions`], each with what it is against; a connection that breaks
//! one is closed with a [`CloseReason`], which is its metric label, its log line, and what the engine is told.

mod admission;
mod close;
mod connection;
mod deliver;
mod dial;
mod engine;
mod hub;
mod listen;
mod metrics;
mod noise;
mod options;
mod proxy;
mod reader;
mod slot;
mod state;
mod tls;

pub use close::CloseReason;
pub use dial::{DialError, DialState, Dialed, Protocol, reach};
pub use engine::{Delivery, Engine, Event, Now, Outbox, PeerId, Shared};
pub use hub::{Hub, HubFailed};
pub use metrics::TransportMetrics;
pub use noise::NoiseServer;
pub use options::{
    AddressLimits, Backoff, ConnectionLimits, DialOptions, DialTarget, HubOptions, LineOptions,
    ListenLimits,
};
pub use proxy::{Network, NotANetwork};
pub use tls::{TlsError, TlsServer};
