//! Explorer and dashboard of a lab: blocks, transactions, miners, roles.
