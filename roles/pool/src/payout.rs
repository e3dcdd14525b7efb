//! Where the reward goes.

pub use adit_payout::{Payout, PayoutError};
