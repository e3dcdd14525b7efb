//! Each token once.

use std::collections::{BTreeSet, HashSet};

use crate::token::{Token, TokenId};

/// Ids of used tokens until they expire.
///
/// Bounded: when full, the one that expires first is forgotten. Only tokens that verified are remembered, so filling it
/// takes as many real tokens, which the JDS gives out slowly.
#[derive(Clone, Debug)]
pub struct UsedTokens {
    ids: HashSet<TokenId>,
    by_expiry: BTreeSet<(u32, TokenId)>,
    capacity: usize,
}

impl UsedTokens {
    /// Remembers up to `capacity`, at about 50 bytes each.
    pub fn new(capacity: usize) -> Self {
        Self { ids: HashSet::new(), by_expiry: BTreeSet::new(), capacity: capacity.max(1) }
    }

    /// Uses a token up; false if it was used before. `now` is in unix seconds.
    pub fn take(&mut self, token: &Token, now: u32) -> bool {
        while let Some((expiry, id)) = self.by_expiry.first().copied()
            && (expiry < now || self.ids.len() >= self.capacity && !self.ids.contains(&token.id))
        {
            self.by_expiry.pop_first();
            self.ids.remove(&id);
        }
        let new = self.ids.insert(token.id);
        if new {
            self.by_expiry.insert((token.expiry, token.id));
        }
        new
    }

    /// Whether it was used; `take` it to use it.
    pub fn contains(&self, id: TokenId) -> bool {
        self.ids.contains(&id)
    }

    /// Gives a token back: nothing came of its use.
    pub fn put_back(&mut self, token: &Token) {
        self.ids.remove(&token.id);
        self.by_expiry.remove(&(token.expiry, token.id));
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{AccountTag, Grant};

    fn token(id: u8, expiry: u32) -> Token {
        let grant = Grant::Allocated { outputs: [0; 32] };
        Token { expiry, id: TokenId([id; 8]), account: AccountTag::of(b"a"), grant }
    }

    #[test]
    fn a_token_is_used_once() {
        let mut used = UsedTokens::new(3);
        assert!(used.take(&token(1, 10), 5) && !used.take(&token(1, 10), 10));
        used.put_back(&token(1, 10));
        assert!(used.is_empty() && used.take(&token(1, 10), 5));
        assert!(used.take(&token(2, 30), 11));
        assert_eq!(used.len(), 1, "the first has expired");
        assert!(used.take(&token(3, 20), 11) && used.take(&token(4, 40), 11));
        assert!(used.take(&token(5, 50), 11));
        assert_eq!(used.len(), 3);
        assert!(!used.contains(TokenId([3; 8])), "it would have expired first");
        assert!(!used.take(&token(2, 30), 11) && !used.take(&token(5, 50), 11));
        assert_eq!(used.len(), 3);
    }
}
