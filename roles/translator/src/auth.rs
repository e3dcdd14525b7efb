//! Passwords: hashing them for the configuration, and verifying those of miners.
//!
//! Argon2id makes guessing expensive, and a farm that reconnects must not pay for that a thousand times. So what was
//! verified is remembered as a keyed digest, with a key that this process alone has: the same password again costs one
//! HMAC. One password at a time is verified, and only so many wait.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

#[cfg(test)]
use argon2::Version;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params};
use ring::hmac;
use tokio::sync::Semaphore;

/// Verifications that wait for their turn. Each takes some 30 ms: more would wait for longer than a miner does.
const MAX_WAITING: usize = 256;
/// Wrong passwords that are remembered for each user: those of devices that were set up wrongly and come again and again.
const WRONG_REMEMBERED: usize = 64;
/// Bytes of salt.
const SALT: usize = 16;

/// What became of a password.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is right.
    Right,
    /// It is wrong.
    Wrong,
    /// There is no such user.
    UnknownUser,
    /// Too many wait already.
    Busy,
}

impl Verdict {
    /// Name for counters.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Wrong => "wrong",
            Self::UnknownUser => "unknown-user",
            Self::Busy => "busy",
        }
    }
}

/// What is verified, and whether the text of a hash says so.
///
/// # Errors
/// Why the text is no hash that [`hash_password`] could have made.
pub fn check_hash(text: &str) -> Result<(), String> {
    let hash = PasswordHash::new(text).map_err(|_| "not a hash".to_owned())?;
    if Algorithm::try_from(hash.algorithm.as_str()).is_err() {
        return Err("not a hash by Argon2".to_owned());
    }
    Params::try_from(&hash).map_err(|error| error.to_string())?;
    Ok(())
}

/// Hashes a password for `[auth.users]`.
///
/// # Errors
/// It cannot be told from a miner's options, or the system has no random numbers.
pub fn hash_password(password: &str) -> Result<String, String> {
    if secret_of(password) != password {
        return Err("a password has no comma and no semicolon: behind it are a miner's options, such as d=1024".to_owned());
    }
    if password.is_empty() {
        return Err("an empty password".to_owned());
    }
    hash_with(&Argon2::default(), password)
}

fn hash_with(argon2: &Argon2<'_>, password: &str) -> Result<String, String> {
    let mut salt = [0; SALT];
    getrandom::fill(&mut salt).map_err(|error| error.to_string())?;
    let hash = argon2.hash_password_with_salt(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string()).map_err(|error| error.to_string())
}

/// A hash that is cheap to verify, for tests.
#[cfg(test)]
pub(crate) fn cheap_hash(password: &str) -> String {
    let params = Params::new(8, 1, 1, None).unwrap();
    hash_with(&Argon2::new(Algorithm::Argon2id, Version::V0x13, params), password).unwrap()
}

/// The part of what a miner gives as password that is one: up to its options.
pub(crate) fn secret_of(password: &str) -> &str {
    password.split([',', ';']).next().unwrap_or_default()
}

/// Verifies passwords. Clones are the same one.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    key: hmac::Key,
    users: RwLock<HashMap<String, Arc<User>>>,
    turn: Semaphore,
    waiting: AtomicUsize,
    /// How often a hash was computed.
    computed: AtomicUsize,
}

struct User {
    hash: String,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    right: Option<hmac::Tag>,
    wrong: VecDeque<hmac::Tag>,
}

impl Verifier {
    /// For these users: names and hashes.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(users: &BTreeMap<String, String>) -> std::io::Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|e| std::io::Error::other(e.to_string()))?;
        let verifier = Self(Arc::new(Inner {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            users: RwLock::default(),
            turn: Semaphore::new(1),
            waiting: AtomicUsize::new(0),
            computed: AtomicUsize::new(0),
        }));
        verifier.set_users(users);
        Ok(verifier)
    }

    /// Other users from now on. What is known of those that stay the same stays.
    pub fn set_users(&self, users: &BTreeMap<String, String>) {
        let mut known = self.0.users.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::take(&mut *known);
        *known = users
            .iter()
            .map(|(name, hash)| {
                let same = old.get(name).filter(|user| user.hash == *hash).cloned();
                let new = || Arc::new(User { hash: hash.clone(), known: Mutex::default() });
                (name.clone(), same.unwrap_or_else(new))
            })
            .collect();
    }

    /// Verifies what a miner says. `user` is its own name or that of one of its workers.
    pub async fn verify(&self, user: &str, password: &str) -> Verdict {
        let inner = &*self.0;
        let Some(found) = inner.user(user) else { return Verdict::UnknownUser };
        let secret = secret_of(password);
        let tag = hmac::sign(&inner.key, secret.as_bytes());
        if let Some(verdict) = found.remembers(&tag) {
            return verdict;
        }
        if inner.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            inner.waiting.fetch_sub(1, Ordering::Relaxed);
            return Verdict::Busy;
        }
        let turn = inner.turn.acquire().await;
        let verdict = match found.remembers(&tag) {
            // The one before was of the same farm.
            Some(verdict) => verdict,
            None => {
                inner.computed.fetch_add(1, Ordering::Relaxed);
                let (user, secret) = (found.clone(), secret.to_owned());
                let computed = tokio::task::spawn_blocking(move || user.is_right(&secret)).await;
                let right = computed.unwrap_or(false);
                found.remember(tag, right);
                if right { Verdict::Right } else { Verdict::Wrong }
            }
        };
        drop(turn);
        inner.waiting.fetch_sub(1, Ordering::Relaxed);
        verdict
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl Inner {
    fn user(&self, name: &str) -> Option<Arc<User>> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        let account = name.split('.').next().unwrap_or_default();
        users.get(name).or_else(|| users.get(account)).cloned()
    }
}

impl User {
    fn remembers(&self, tag: &hmac::Tag) -> Option<Verdict> {
        // A keyed digest: how long a comparison takes tells nothing about a password.
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |other: &hmac::Tag| other.as_ref() == tag.as_ref();
        if known.right.as_ref().is_some_and(same) {
            return Some(Verdict::Right);
        }
        known.wrong.iter().any(same).then_some(Verdict::Wrong)
    }

    fn remember(&self, tag: hmac::Tag, right: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if right {
            known.right = Some(tag);
            return;
        }
        if known.wrong.len() == WRONG_REMEMBERED {
            known.wrong.pop_front();
        }
        known.wrong.push_back(tag);
    }

    /// Takes some 30 ms.
    fn is_right(&self, secret: &str) -> bool {
        let Ok(hash) = PasswordHash::new(&self.hash) else { return false };
        // Cost and variant are those of the hash.
        Argon2::default().verify_password(secret.as_bytes(), &hash).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verifier() -> Verifier {
        let users = [("farm", "secret"), ("farm.special", "other")];
        let users = users.map(|(name, password)| (name.to_owned(), cheap_hash(password)));
        Verifier::new(&users.into()).unwrap()
    }

    #[tokio::test]
    async fn users_and_their_workers() {
        let verifier = verifier();
        for (user, password, verdict) in [
            ("farm", "secret", Verdict::Right),
            ("farm.rig1", "secret", Verdict::Right),
            ("farm.rig1.a", "secret,d=1024", Verdict::Right),
            ("farm.rig1", "secret;d=1024", Verdict::Right),
            ("farm.special", "other", Verdict::Right),
            ("farm.special", "secret", Verdict::Wrong),
            ("farm", "other", Verdict::Wrong),
            ("farm", "", Verdict::Wrong),
            ("Farm", "secret", Verdict::UnknownUser),
            ("", "secret", Verdict::UnknownUser),
        ] {
            assert_eq!(verifier.verify(user, password).await, verdict, "{user} {password}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_farm_that_reconnects_costs_one_hash() {
        let verifier = verifier();
        // Fewer at once than may wait; all with an empty memory.
        let all: Vec<_> = (0..200)
            .map(|rig| {
                let verifier = verifier.clone();
                tokio::spawn(
                    async move { verifier.verify(&format!("farm.rig{rig}"), "secret").await },
                )
            })
            .collect();
        for one in all {
            assert_eq!(one.await.unwrap(), Verdict::Right);
        }
        for _ in 0..1_000 {
            assert_eq!(verifier.verify("farm.a", "wrong").await, Verdict::Wrong);
        }
        assert_eq!(verifier.0.computed.load(Ordering::Relaxed), 2, "one right, one wrong");
        assert_eq!(verifier.0.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn guesses_do_not_stand_in_the_way_of_who_is_known() {
        let verifier = verifier();
        assert_eq!(verifier.verify("farm", "secret").await, Verdict::Right);
        let held = verifier.0.turn.acquire().await.unwrap();
        let mut guesses = Vec::new();
        for guess in 0..MAX_WAITING {
            let verifier = verifier.clone();
            guesses.push(tokio::spawn(async move {
                verifier.verify("farm", &format!("guess {guess}")).await
            }));
        }
        while verifier.0.waiting.load(Ordering::Relaxed) < MAX_WAITING {
            tokio::task::yield_now().await;
        }
        assert_eq!(verifier.verify("farm", "one more guess").await, Verdict::Busy);
        assert_eq!(verifier.verify("farm.rig", "secret").await, Verdict::Right);
        drop(held);
        for guess in guesses {
            assert_eq!(guess.await.unwrap(), Verdict::Wrong);
        }
        let known = verifier.0.user("farm").unwrap();
        assert_eq!(known.known.lock().unwrap().wrong.len(), WRONG_REMEMBERED);
    }

    #[tokio::test]
    async fn users_are_replaced() {
        let verifier = verifier();
        assert_eq!(verifier.verify("farm", "secret").await, Verdict::Right);
        verifier.set_users(&[("farm".to_owned(), cheap_hash("new"))].into());
        assert_eq!(verifier.verify("farm", "secret").await, Verdict::Wrong);
        assert_eq!(verifier.verify("farm", "new").await, Verdict::Right);
        assert_eq!(verifier.verify("farm.special", "other").await, Verdict::Wrong);
    }

    #[test]
    fn hashes() {
        let hash = hash_password("secret").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
        check_hash(&hash).unwrap();
        assert_ne!(hash_password("secret").unwrap(), hash, "salted");
        for password in ["", "a,b", "a;d=1"] {
            assert!(hash_password(password).is_err(), "{password}");
        }
        for text in
            ["", "secret", "$2b$12$abcdefghijklmnopqrstuv", "$argon2id$v=19$m=0,t=0,p=0$AAAA$AAAA"]
        {
            assert!(check_hash(text).is_err(), "{text}");
        }
    }
}
