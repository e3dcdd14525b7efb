//! Noise and line connections over TCP for sans-IO engines.
