//! Faults of a node, played by a fake one. What a healthy node says is tested against a real one in `test-env`.

mod config;
mod fake;
mod faults;
mod tip;
