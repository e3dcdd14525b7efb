//! Mining device simulator: SV2 standard, SV2 extended, SV1.

pub mod hasher;
