//! A bitcoind client: JSON-RPC, tip watch.
