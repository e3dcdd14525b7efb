//! Stratum V2 pool.
