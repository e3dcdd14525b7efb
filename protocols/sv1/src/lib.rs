//! Stratum V1 lines to typed requests, replies and notifications.
