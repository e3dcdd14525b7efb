//! Noise and line connections over TCP for sans-IO engines.

mod engine;

pub use engine::{Delivery, Engine, Event, Now, Outbox, PeerId};
