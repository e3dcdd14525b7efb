//! What a server shows to everybody who connects.

use super::Certificate;
use super::primitives::{KeyPair, x_only};
use crate::keys::{AuthorityPublicKey, AuthoritySecretKey};

/// A certificate is signed anew once it is this old (seconds): a signature costs a third of a handshake.
const RENEW_AFTER: u32 = 60;

/// The times that certificates are given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    /// Seconds from signing to `not_valid_after`.
    pub seconds: u32,
    /// Seconds by which `valid_from` lies before signing, for clients whose clock is behind and allows no tolerance.
    pub backdate: u32,
}

impl Default for Validity {
    /// An hour, and five minutes back.
    fn default() -> Self {
        Self { seconds: 3600, backdate: 300 }
    }
}

/// A server's static key, its encoding and its certificate: all that is the same in every handshake, made beforehand.
///
/// Shared by all connections; [`renew`](Self::renew) is for whoever has a clock.
pub struct ResponderIdentity {
    authority: AuthoritySecretKey,
    authority_public: AuthorityPublicKey,
    static_key: KeyPair,
    static_x_only: [u8; 32],
    validity: Validity,
    signed_at: u32,
    certificate: Certificate,
}

impl ResponderIdentity {
    /// Makes the static key and certifies it at `now` (unix seconds).
    ///
    /// `entropy` comes from a cryptographic random generator: the secret, its encoding's choice, the signature's nonce.
    pub fn new(
        authority: AuthoritySecretKey,
        validity: Validity,
        now: u32,
        entropy: [[u8; 32]; 3],
    ) -> Self {
        let [secret, encoding, signing] = entropy;
        let static_key = KeyPair::from_entropy(secret, encoding);
        let static_x_only = x_only(&static_key.ellswift());
        let certificate = certify(&authority, &static_x_only, validity, now, &signing);
        Self {
            authority_public: authority.public(),
            authority,
            static_key,
            static_x_only,
            validity,
            signed_at: now,
            certificate,
        }
    }

    /// Whether the certificate is a minute old, has used up half its validity, or was signed in what is now the future.
    pub fn is_due(&self, now: u32) -> bool {
        match now.checked_sub(self.signed_at) {
            Some(age) => age >= RENEW_AFTER.min(self.validity.seconds / 2),
            None => true,
        }
    }

    /// Signs a new certificate if it [`is due`](Self::is_due) at `now` (unix seconds). The static key stays.
    pub fn renew(&mut self, now: u32, entropy: &[u8; 32]) {
        if self.is_due(now) {
            self.certificate =
                certify(&self.authority, &self.static_x_only, self.validity, now, entropy);
            self.signed_at = now;
        }
    }

    /// The key that clients expect.
    pub fn authority(&self) -> AuthorityPublicKey {
        self.authority_public
    }

    /// The certificate that is being handed out.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    pub(super) fn static_key(&self) -> &KeyPair {
        &self.static_key
    }
}

impl std::fmt::Debug for ResponderIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponderIdentity")
            .field("authority", &self.authority_public)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

fn certify(
    authority: &AuthoritySecretKey,
    static_x_only: &[u8; 32],
    validity: Validity,
    now: u32,
    entropy: &[u8; 32],
) -> Certificate {
    let valid_from = now.saturating_sub(validity.backdate);
    let not_valid_after = now.saturating_add(validity.seconds);
    Certificate::sign(authority, static_x_only, valid_from, not_valid_after, entropy)
}
