//! Template Distribution Protocol server for any bitcoind.
