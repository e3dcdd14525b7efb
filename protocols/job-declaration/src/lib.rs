//! What Stratum V2 job declaration means: tokens, declared jobs, coinbase checks, block assembly.
