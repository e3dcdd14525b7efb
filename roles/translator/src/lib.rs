//! Stratum V1 miners in, Stratum V2 extended channels out.
