//! The engine between scripted peers, on simulated time.

mod declaring;
mod failing;
mod history;
mod miners;
mod names;
mod odd;
mod sim;
mod waiting;
