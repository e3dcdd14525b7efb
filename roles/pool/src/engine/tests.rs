//! The engine as lists of inputs and outputs, on simulated time.

mod blocks;
mod channels;
mod connections;
mod custom;
mod extensions;
mod fuzz;
mod groups;
mod prefixes;
mod providers;
mod shares;
mod sim;
