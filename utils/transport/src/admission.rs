//! Counts a listener's connections, in all and of each address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::{AddressLimits, CloseReason, ListenLimits};

/// Addresses that are remembered at least; beyond, those without connections and with a full bucket are forgotten.
const REMEMBERED: usize = 4_096;

/// One part in so many of the handshakes at once is what one address may have. It is many more than it needs for the
/// connections per second that it may make.
const SHARE: usize = 4;

/// Who may come in.
#[derive(Clone, Debug)]
pub(crate) struct Admission(Arc<Mutex<Counts>>);

#[derive(Debug)]
struct Counts {
    limits: ListenLimits,
    open: usize,
    /// Bounded by the connections there are and those that came within the time in which a bucket fills up.
    addresses: HashMap<IpAddr, Address>,
    /// Size of `addresses` at which to forget some.
    sweep_at: usize,
}

/// A token bucket and a count.
#[derive(Debug)]
struct Address {
    open: u32,
    tokens: f32,
    at: Instant,
    /// Refused until then.
    banned: Option<Instant>,
    turns: Arc<Semaphore>,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Admission,
    address: IpAddr,
    /// For the handshakes of its address: a part of those of all, else one address could keep all others out by
    /// connections that never speak.
    pub(crate) turns: Arc<Semaphore>,
}

impl Admission {
    pub(crate) fn new(limits: ListenLimits) -> Self {
        let addresses = HashMap::new();
        Self(Arc::new(Mutex::new(Counts { limits, open: 0, addresses, sweep_at: REMEMBERED })))
    }

    pub(crate) fn admit(&self, address: IpAddr, now: Instant) -> Result<Place, CloseReason> {
        let address = bucket_of(address);
        let turns = self.lock().admit(address, now)?;
        Ok(Place { admission: self.clone(), address, turns })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn admit(&mut self, key: IpAddr, now: Instant) -> Result<Arc<Semaphore>, CloseReason> {
        if self.addresses.len() >= self.sweep_at {
            self.forget(now);
        }
        let (limits, ban) = (*self.limits.of(key), self.limits.ban);
        let handshakes = self.limits.handshakes;
        let address = self.addresses.entry(key).or_insert_with(|| Address {
            open: 0,
            tokens: limits.burst as f32,
            at: now,
            banned: None,
            turns: Arc::new(Semaphore::new((handshakes / SHARE).max(1))),
        });
        // A refused connection takes a token, too: it costs us as much.
        address.fill(&limits, now);
        if address.banned.is_some_and(|until| now < until) {
            return Err(CloseReason::Banned);
        }
        if address.tokens < 1.0 {
            address.banned = (!ban.is_zero()).then(|| now + ban);
            return Err(CloseReason::RateLimited);
        }
        address.banned = None;
        address.tokens -= 1.0;
        if self.open >= self.limits.max_connections || address.open >= limits.connections {
            return Err(CloseReason::TooManyConnections);
        }
        address.open += 1;
        self.open += 1;
        Ok(address.turns.clone())
    }

    /// Forgets addresses of which nothing is known that a new one would not have.
    fn forget(&mut self, now: Instant) {
        let limits = &self.limits;
        self.addresses.retain(|key, address| {
            let limits = limits.of(*key);
            address.fill(limits, now);
            address.open > 0 || address.tokens < limits.burst as f32 || address.is_banned(now)
        });
        self.sweep_at = REMEMBERED.max(2 * self.addresses.len());
    }
}

impl Address {
    fn is_banned(&self, now: Instant) -> bool {
        self.banned.is_some_and(|until| now < until)
    }

    fn fill(&mut self, limits: &AddressLimits, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f32();
        self.tokens = (self.tokens + seconds * limits.per_second).min(limits.burst as f32);
        self.at = now;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.lock();
        counts.open -= 1;
        if let Some(address) = counts.addresses.get_mut(&self.address) {
            address.open -= 1;
        }
    }
}

/// Addresses that one host can have are one: an IPv6 /64, an IPv4 address however written.
fn bucket_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn admission(max_connections: usize, address: AddressLimits) -> Admission {
        Admission::new(ListenLimits { max_connections, address, ..ListenLimits::default() })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_are_given_back() {
        let one = AddressLimits { connections: 1, burst: 100, per_second: 1.0 };
        let (admission, now) = (admission(2, one), Instant::now());
        let first = admission.admit(ip("192.0.2.1"), now).unwrap();
        let again = admission.admit(ip("::ffff:192.0.2.1"), now);
        assert_eq!(again.unwrap_err(), CloseReason::TooManyConnections);
        let _second = admission.admit(ip("2001:db8::1"), now).unwrap();
        let third = admission.admit(ip("192.0.2.3"), now);
        assert_eq!(third.unwrap_err(), CloseReason::TooManyConnections);
        drop(first);
        assert!(admission.admit(ip("192.0.2.1"), now).is_ok());
        let same_host = admission.admit(ip("2001:db8::ffff"), now);
        assert_eq!(same_host.unwrap_err(), CloseReason::TooManyConnections);
    }

    #[test]
    fn a_bucket_fills_up_again_and_not_beyond_its_burst() {
        let limits = AddressLimits { connections: 100, burst: 3, per_second: 2.0 };
        let (admission, start) = (admission(100, limits), Instant::now());
        let take =
            |now| (0..10).take_while(|_| admission.admit(ip("192.0.2.1"), now).is_ok()).count();
        assert_eq!(take(start), 3);
        assert_eq!(take(start), 0);
        assert_eq!(take(start + Duration::from_secs(1)), 2);
        assert_eq!(take(start + Duration::from_secs(60)), 3);
        assert!(admission.admit(ip("192.0.2.2"), start).is_ok());
    }

    #[test]
    fn a_storm_is_banned_and_nobody_else() {
        let address = AddressLimits { connections: 100, burst: 3, per_second: 1.0 };
        let ban = Duration::from_secs(300);
        let limits = ListenLimits { address, ban, ..ListenLimits::default() };
        let (admission, start) = (Admission::new(limits), Instant::now());
        let after = |seconds| {
            let now = start + Duration::from_secs(seconds);
            admission.admit(ip("192.0.2.1"), now).map(drop).unwrap_err()
        };
        for _ in 0..3 {
            drop(admission.admit(ip("192.0.2.1"), start).unwrap());
        }
        assert_eq!(after(0), CloseReason::RateLimited);
        assert_eq!(after(0), CloseReason::Banned);
        assert_eq!(after(299), CloseReason::Banned, "although its bucket is full again");
        assert!(admission.admit(ip("192.0.2.2"), start).is_ok());
        let later = start + Duration::from_secs(301);
        assert!(admission.admit(ip("192.0.2.1"), later).is_ok());
    }

    #[test]
    fn addresses_are_forgotten() {
        let limits = AddressLimits { connections: 1, burst: 1, per_second: 1.0 };
        let (admission, start) = (admission(10, limits), Instant::now());
        let kept = admission.admit(ip("198.51.100.1"), start).unwrap();
        for i in 0..50_000u32 {
            let address = IpAddr::V4((0x0a00_0000 + i).into());
            let now = start + Duration::from_millis(u64::from(i));
            drop(admission.admit(address, now).unwrap());
        }
        let counts = admission.lock();
        assert!(counts.addresses.len() <= REMEMBERED, "{}", counts.addresses.len());
        assert!(counts.addresses.contains_key(&kept.address));
        assert_eq!(counts.open, 1);
    }

    #[test]
    fn addresses_that_find_it_full_are_forgotten_too() {
        let limits = AddressLimits { connections: 1, burst: 1, per_second: 1.0 };
        let (admission, start) = (admission(1, limits), Instant::now());
        let _kept = admission.admit(ip("198.51.100.1"), start).unwrap();
        for i in 0..50_000u32 {
            let address = IpAddr::V4((0x0a00_0000 + i).into());
            let now = start + Duration::from_millis(u64::from(i));
            assert_eq!(admission.admit(address, now).unwrap_err(), CloseReason::TooManyConnections);
        }
        let known = admission.lock().addresses.len();
        assert!(known <= REMEMBERED, "{known}");
    }
}
