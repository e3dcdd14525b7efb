//! What Stratum V2 mining means: jobs, targets, extranonce space, share check, channels.
