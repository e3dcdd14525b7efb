//! Workers' names in shares (extension 0x0002): asked for at a pool by extension 0x0001, taken from proxies below us, and
//! in every share for a pool that takes them. To the pool all miners are one channel, so nothing else tells them apart.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_sv2::codec::Seq064K;
use adit_sv2::frame::Header;
use adit_sv2::messages::DecodeError;
use adit_sv2::messages::extensions::{Extensions, RequestExtensions};
use adit_sv2::tlv::{Tlv, WORKER_HASHRATE_TRACKING, worker_name};
use adit_transport::{Now, Outbox};

use super::{Core, Effect};

/// How far a pool and we are about names.
#[derive(Debug, Default)]
pub(super) struct Negotiation {
    /// It takes them.
    pub(super) agreed: bool,
    /// It was asked, and has not answered.
    asked: bool,
    /// Since when opening the channel waits for its answer.
    waiting: Option<Instant>,
    /// It did not answer in time once, so it is not waited for again.
    mute: bool,
}

/// For an answer to `RequestExtensions`: servers that know no extensions say nothing.
const ANSWER_TIME: Duration = Duration::from_secs(1);

impl Negotiation {
    /// The connection is gone.
    pub(super) fn lost(&mut self) {
        *self = Self { mute: self.mute, ..Self::default() };
    }

    /// The field for a share of this worker, where the pool takes it.
    pub(super) fn field<'w>(&self, worker: &'w str) -> Option<Tlv<'w>> {
        let name = worker_name(worker).as_bytes();
        Tlv::user_identity(name).ok().filter(|_| self.agreed)
    }
}

impl Core {
    /// Asks a pool whether it takes names: after the set-up, and where somebody else is behind our channel now. The
    /// channel is opened when it has answered, or not in time.
    pub(super) fn negotiate(&mut self, index: usize, now: Now, out: &mut Outbox<Effect>) {
        let upstream = &mut self.upstreams[index];
        let pool = &mut upstream.pool;
        let Some(peer) = pool.state.ready() else { return };
        pool.names.lost();
        if upstream.worker_names {
            let wanted = [WORKER_HASHRATE_TRACKING];
            let requested_extensions = Seq064K::new(&wanted).unwrap_or_default();
            out.send(peer, &RequestExtensions { request_id: 1, requested_extensions });
            pool.names.asked = true;
            if !pool.names.mute && pool.channel.is_none() {
                pool.names.waiting = Some(now.instant);
                return;
            }
        }
        if pool.channel.is_none() {
            self.open_upstream_channel(index, now, out);
        }
    }

    /// Handles a frame of extension 0x0001; an error is the reason to close the connection.
    pub(super) fn extensions_answered(
        &mut self,
        index: usize,
        header: &Header,
        payload: &[u8],
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), &'static str> {
        let pool = &mut self.upstreams[index].pool;
        let message = match Extensions::decode(header, payload) {
            Ok((message, _)) => message,
            Err(DecodeError::Unknown { .. }) => return Ok(()),
            Err(error) => {
                tracing::warn!(pool = pool.name, %error, "frame cannot be read");
                return Err("malformed-frame");
            }
        };
        if !std::mem::take(&mut pool.names.asked) {
            return Ok(());
        }
        let mut required = Vec::new();
        match message {
            Extensions::RequestExtensionsSuccess(m) => {
                let mut supported = m.supported_extensions.iter();
                pool.names.agreed = supported.any(|id| id == WORKER_HASHRATE_TRACKING);
            }
            Extensions::RequestExtensionsError(m) => {
                required.extend(m.required_extensions.iter().take(MAX_LOGGED));
            }
            Extensions::RequestExtensions(_) => return Err("unexpected-message"),
        }
        if !required.is_empty() {
            let reason = format!("it requires extensions that are not known here: {required:?}");
            self.fail_upstream(index, &reason, now);
            return Err("unknown-extension-required");
        }
        tracing::info!(pool = pool.name, worker_names = pool.names.agreed, "extensions negotiated");
        pool.names.mute = false;
        if pool.names.waiting.take().is_some() {
            self.open_upstream_channel(index, now, out);
        }
        Ok(())
    }

    /// Goes on without an answer that did not come.
    pub(super) fn names_tick(&mut self, index: usize, now: Now, out: &mut Outbox<Effect>) {
        let names = &mut self.upstreams[index].pool.names;
        let late = |since: Instant| now.instant.duration_since(since) >= ANSWER_TIME;
        if names.waiting.is_some_and(late) {
            (names.waiting, names.mute) = (None, true);
            self.open_upstream_channel(index, now, out);
        }
    }
}

/// Extensions that a pool requires that are logged.
const MAX_LOGGED: usize = 16;

/// The workers of one channel, by the names that their shares carry.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<Box<[u8]>, Arc<str>>);

/// Names that are told apart: as many as an aggregating proxy has miners on a channel ...
const MAX_NAMES_PER_CHANNEL: usize = 1 << 16;
/// ... and in all, at about 150 bytes each.
const MAX_NAMES: usize = 1 << 17;

impl Names {
    /// Whose share it is, of a channel that calls itself `identity`: `account.name`, whatever the name says of accounts.
    /// Only `good` shares make a place, since names cost nothing and shares do; without one it is the channel's own.
    pub(super) fn worker(
        &mut self,
        name: Option<&[u8]>,
        identity: &Arc<str>,
        good: bool,
        in_all: &mut usize,
    ) -> Arc<str> {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return identity.clone() };
        if let Some(worker) = self.0.get(name) {
            return worker.clone();
        }
        if !good || self.0.len() >= MAX_NAMES_PER_CHANNEL || *in_all >= MAX_NAMES {
            return identity.clone();
        }
        let account = identity.split_once('.').map_or(&**identity, |(account, _)| account);
        let text = String::from_utf8_lossy(name);
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        let own = text.strip_prefix(account).and_then(|rest| rest.strip_prefix('.'));
        let worker: Arc<str> = format!("{account}.{}", own.unwrap_or(&text)).into();
        self.0.insert(name.into(), worker.clone());
        *in_all += 1;
        worker
    }

    /// Each worker once.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        let workers: BTreeSet<&str> = self.0.values().map(|worker| &**worker).collect();
        workers.into_iter()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_the_channels_account() {
        let (mut names, mut in_all) = (Names::default(), 0);
        let identity = Arc::from("farm.proxy");
        let mut worker =
            |name: &[u8], good| names.worker(Some(name), &identity, good, &mut in_all).to_string();
        assert_eq!(worker(b"rig", false), "farm.proxy", "made up");
        assert_eq!(worker(b"rig", true), "farm.rig");
        assert_eq!(worker(b"rig", false), "farm.rig");
        assert_eq!(worker(b"farm.rig", true), "farm.rig");
        assert_eq!(worker(b"other.rig", true), "farm.other.rig");
        assert_eq!(worker(b"a\nb\xff", true), "farm.ab\u{fffd}");
        assert_eq!(worker(b"", true), "farm.proxy");
        assert_eq!(names.worker(None, &identity, true, &mut in_all), identity);
        assert_eq!((names.len(), in_all), (4, 4));
        let mut full = MAX_NAMES;
        assert_eq!(&*names.worker(Some(b"more"), &identity, true, &mut full), "farm.proxy");
    }
}
