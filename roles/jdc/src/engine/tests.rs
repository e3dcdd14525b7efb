//! The engine between scripted peers, on simulated time.

mod declaring;
mod failing;
mod miners;
mod odd;
mod sim;
