//! Tokens: what is signed comes back, nothing else is believed, and each is used once.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use adit_job_declaration::{AccountTag, Grant, Token, TokenId, UsedTokens};
use adit_sv2::keys::{AuthorityPublicKey, AuthoritySecretKey};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<(AuthoritySecretKey, [AuthorityPublicKey; 1])> = LazyLock::new(|| {
    let key = AuthoritySecretKey::from_entropy([1; 32]).expect("a secret key");
    let public = [key.public()];
    (key, public)
});

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Any bytes.
    Invented(&'a [u8]),
    /// Any bytes behind a format and a kind that are known.
    Format(bool, &'a [u8]),
    /// A token, perhaps damaged.
    Signed { expiry: u32, id: [u8; 8], who: &'a [u8], now: u32, at: u8, flip: u8 },
    /// Tokens by id and expiry, and what becomes of them.
    Used { capacity: u8, steps: Vec<(Use, u8, u8)> },
}

#[derive(Arbitrary, Debug)]
enum Use {
    Take,
    PutBack,
    Wait,
}

fuzz_target!(|input: Input<'_>| {
    let (key, public) = &*KEY;
    match input {
        Input::Invented(bytes) => assert!(Token::verify(bytes, public, 0).is_err()),
        Input::Format(declared, bytes) => {
            let bytes = [&[1, 1 + u8::from(declared)], bytes].concat();
            assert!(Token::verify(&bytes, public, 0).is_err());
        }
        Input::Signed { expiry, id, who, now, at, flip } => {
            let token = token(id, expiry, who);
            let mut bytes = token.sign(key, &[9; 32]);
            let at = usize::from(at) % bytes.len();
            bytes[at] ^= flip;
            // Mostly near the edge.
            let now = if now % 4 > 0 { expiry.saturating_add(now % 4 - 1) } else { now };
            let verified = Token::verify(&bytes, public, now);
            assert_eq!(verified.is_ok(), flip == 0 && now <= expiry);
            if let Ok(read) = verified {
                assert_eq!(read, token);
                assert_eq!(read.check_account(who), Ok(()));
            }
        }
        Input::Used { capacity, steps } => used(usize::from(capacity % 8), &steps),
    }
});

fn token(id: [u8; 8], expiry: u32, who: &[u8]) -> Token {
    let grant = Grant::Allocated { outputs: [7; 32] };
    Token { expiry, id: TokenId(id), account: AccountTag::of(who), grant }
}

fn used(capacity: usize, steps: &[(Use, u8, u8)]) {
    let mut tokens = UsedTokens::new(capacity);
    let capacity = capacity.max(1);
    // An id and its expiry are signed together, so that there is one for each.
    let mut expiries: BTreeMap<[u8; 8], u32> = BTreeMap::new();
    let mut now = 0;
    for (step, id, life) in steps {
        let id = [id % 16; 8];
        let expiry = *expiries.entry(id).or_insert(now + u32::from(*life % 32));
        let token = token(id, expiry, b"a");
        match step {
            Use::Take => {
                let known = tokens.contains(token.id) && expiry >= now;
                let new = tokens.take(&token, now);
                assert_eq!(new, !known);
                assert!(tokens.contains(token.id));
            }
            Use::PutBack => {
                tokens.put_back(&token);
                assert!(!tokens.contains(token.id));
            }
            Use::Wait => now += u32::from(*life % 8),
        }
        assert!(tokens.len() <= capacity);
        if tokens.is_empty() {
            assert_eq!(tokens.len(), 0);
        }
    }
}
