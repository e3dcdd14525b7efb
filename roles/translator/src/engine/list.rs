//! The list of upstreams: which one to dial, and when.

use std::time::{Duration, Instant};

use adit_transport::{Backoff, DialTarget};

use crate::config;

/// After an upstream did something against the protocol it is left alone for this time, where there are others.
const PENALTY: Duration = Duration::from_secs(60);

/// One attempt to connect. Never used again.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DialId(pub u32);

/// An attempt that the driver is to make: it connects with `Link::Upstream(id)`, or says
/// [`dial_failed`](super::TranslatorEngine::dial_failed).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dial {
    /// Names the attempt.
    pub id: DialId,
    /// Where, and whom to expect there.
    pub target: DialTarget,
}

/// All upstreams, in order of preference.
#[derive(Debug)]
pub(super) struct Upstreams {
    list: Vec<Configured>,
    dialling: Option<(Dial, usize)>,
    last_dial: u32,
    random: u64,
    backoff: Backoff,
    /// Whom it was last tried with, and why that came to nothing.
    last: (String, String),
}

/// One upstream of the list.
#[derive(Debug)]
pub(super) struct Configured {
    pub(super) config: config::Upstream,
    /// Bytes of extranonce that it granted last, where miners share a channel.
    pub(super) granted: Option<usize>,
    /// It has refused to grant more bytes of extranonce than these.
    pub(super) grants_most: Option<usize>,
    /// It closed a connection at the first request for a channel: perhaps it serves nobody without extensions.
    pub(super) wants_extensions: bool,
    /// Where it asked us to connect, once.
    redirect: Option<DialTarget>,
    /// How often it asked for that, one time soon after the other.
    redirects: u32,
    failures: u32,
    /// It is not tried before.
    not_before: Option<Instant>,
    /// Why it is not worked for, for people; logged when it changes.
    reason: String,
}

impl Configured {
    fn new(config: &config::Upstream) -> Self {
        Self {
            config: config.clone(),
            granted: None,
            grants_most: None,
            wants_extensions: false,
            redirect: None,
            redirects: 0,
            failures: 0,
            not_before: None,
            reason: "not connected yet".to_owned(),
        }
    }

    /// Bytes of extranonce that it grants, as far as is known.
    pub(super) fn room(&self) -> Option<usize> {
        self.granted.or(self.grants_most)
    }
}

impl Upstreams {
    /// # Panics
    /// If there is no upstream in the list.
    pub(super) fn new(configured: &[config::Upstream], seed: u64) -> Self {
        let list: Vec<_> = configured.iter().map(Configured::new).collect();
        let first = list.first().expect("a checked configuration has an upstream");
        let first = DialTarget::from(&first.config.url);
        Self {
            last: (first.to_string(), "not connected yet".to_owned()),
            list,
            dialling: None,
            last_dial: 0,
            // Zero would stay zero.
            random: seed | 1,
            backoff: Backoff::default(),
        }
    }

    pub(super) fn get(&self, index: usize) -> &Configured {
        &self.list[index.min(self.list.len() - 1)]
    }

    pub(super) fn get_mut(&mut self, index: usize) -> &mut Configured {
        let last = self.list.len() - 1;
        &mut self.list[index.min(last)]
    }

    /// Where the first one is.
    pub(super) fn first(&self) -> DialTarget {
        DialTarget::from(&self.get(0).config.url)
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The attempt to make now, with one of the first `among`; one at a time.
    pub(super) fn dial(&mut self, among: usize, now: Instant) -> Option<Dial> {
        if self.dialling.is_some() {
            return None;
        }
        let due = |one: &Configured| one.not_before.is_none_or(|at| now >= at);
        let index = self.list[..among.min(self.list.len())].iter().position(due)?;
        let configured = &mut self.list[index];
        // Where a redirection comes to nothing, the configured address is next.
        let target = configured.redirect.take();
        let target = target.unwrap_or_else(|| DialTarget::from(&configured.config.url));
        self.last_dial = self.last_dial.wrapping_add(1);
        let dial = Dial { id: DialId(self.last_dial), target };
        self.dialling = Some((dial.clone(), index));
        Some(dial)
    }

    /// An attempt has come to something: with which of the list, and where. None if nobody asked for it any more.
    pub(super) fn connected(&mut self, id: DialId) -> Option<(usize, DialTarget)> {
        let (dial, index) = self.dialling.take_if(|(dial, _)| dial.id == id)?;
        Some((index, dial.target))
    }

    /// An attempt has come to nothing.
    pub(super) fn failed(&mut self, id: DialId, reason: &str, now: Instant) {
        if let Some((dial, index)) = self.dialling.take_if(|(dial, _)| dial.id == id) {
            self.lost(index, &dial.target, reason, now);
        }
    }

    /// It was worked for, so it is a good one, whatever happens next.
    pub(super) fn is_good(&mut self, index: usize) {
        let configured = self.get_mut(index);
        configured.failures = 0;
        configured.not_before = None;
        configured.reason.clear();
    }

    /// A connection to it has ended or was not made.
    pub(super) fn lost(&mut self, index: usize, target: &DialTarget, reason: &str, now: Instant) {
        let random = self.random();
        let wait = self.backoff.wait(self.get(index).failures, random);
        self.wait(index, target, reason, now + wait);
    }

    /// It did something against the protocol.
    pub(super) fn misbehaved(
        &mut self,
        index: usize,
        target: &DialTarget,
        reason: &str,
        now: Instant,
    ) {
        match self.list.len() {
            1 => self.lost(index, target, reason, now),
            _ => self.wait(index, target, reason, now + PENALTY),
        }
    }

    /// It asked us to connect anew: to the same place, or to `elsewhere`. That is done at once the first time, and where
    /// the connection had `lasted`; otherwise as after a failure, each time later. Whether it is done at once.
    pub(super) fn redirect(
        &mut self,
        index: usize,
        elsewhere: Option<DialTarget>,
        lasted: bool,
        now: Instant,
    ) -> bool {
        let random = self.random();
        let configured = self.get_mut(index);
        let before = if lasted { 0 } else { configured.redirects };
        configured.redirects = before.saturating_add(1);
        configured.redirect = elsewhere.clone();
        let at_once = before == 0 && elsewhere.is_some();
        if at_once {
            configured.not_before = None;
        } else {
            let target = elsewhere.unwrap_or_else(|| DialTarget::from(&configured.config.url));
            let wait = self.backoff.wait(before.saturating_sub(1), random);
            self.wait(index, &target, "asked to reconnect", now + wait);
        }
        at_once
    }

    /// Whom it was last tried with, and why that came to nothing.
    pub(super) fn last(&self) -> (&str, &str) {
        (&self.last.0, &self.last.1)
    }

    /// Every upstream: where it is, and why it is not worked for; empty where that is not known.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&config::Upstream, &str)> {
        self.list.iter().map(|one| (&one.config, one.reason.as_str()))
    }

    /// Another list. Those that stay keep what is known of them. Where the one at `index` is now, if it still is.
    pub(super) fn replace(
        &mut self,
        configured: &[config::Upstream],
        index: usize,
    ) -> Option<usize> {
        let current = self.get(index).config.url.clone();
        let mut old = std::mem::take(&mut self.list);
        self.list = configured.iter().map(Configured::new).collect();
        for new in &mut self.list {
            if let Some(place) = old.iter().position(|one| one.config.url == new.config.url) {
                *new = Configured { config: new.config.clone(), ..old.swap_remove(place) };
            }
        }
        // An attempt under way may be with one that is gone, or has another place now.
        self.dialling = None;
        self.list.iter().position(|one| one.config.url == current)
    }

    fn wait(&mut self, index: usize, target: &DialTarget, reason: &str, until: Instant) {
        let configured = self.get_mut(index);
        // A server that stays away is not news.
        if configured.reason != reason {
            tracing::warn!(upstream = %target, reason, "not worked for, trying again");
            reason.clone_into(&mut configured.reason);
        }
        configured.failures = configured.failures.saturating_add(1);
        configured.not_before = Some(until);
        self.last = (target.to_string(), reason.to_owned());
    }

    /// Spreads translators, so that not all come at once to a pool that is back.
    fn random(&mut self) -> u16 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u16
    }
}
