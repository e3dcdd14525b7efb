//! `mining.authorize`: who a miner is.
//!
//! Where passwords are asked for, the driver verifies them, since that takes longer than anything may take here. Until
//! then what the miner says is kept and not looked at, so that it is answered in order.

use std::time::{Duration, Instant};

use adit_sv1::server::{Authorize, PasswordOptions, write};
use adit_sv1::{ErrorCode, Id, IdBuf};
use adit_transport::{Now, Outbox, PeerId};

use super::miner::Miner;
use super::session::Next;
use super::{Core, Effect, TranslatorEngine};
use crate::auth::Verdict;
use crate::config::{AuthMode, MAX_USER};

/// Bytes that are kept of a miner whose password is being verified.
const MAX_HELD: usize = 8 << 10;
/// Users that a connection may fail to be. Against guesses: each further one costs a new connection.
const MAX_FAILED: u8 = 3;
/// Answers that wait for that to `mining.authorize`: how long, and how many bytes.
const WAIT: Duration = Duration::from_millis(500);
const MAX_WAITING: usize = 4 << 10;
/// How long it is believed that coinbases are still as long as they were.
const COINBASE_KNOWN: Duration = Duration::from_secs(60);

/// A miner that says who it is: for the driver to verify.
#[derive(Clone, Eq, PartialEq)]
pub struct Login {
    /// The miner.
    pub peer: PeerId,
    /// As it names itself.
    pub user: Box<str>,
    /// Its password, and behind a comma perhaps its options.
    pub password: Box<str>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("peer", &self.peer).field("user", &self.user).finish()
    }
}

/// A miner whose password is being verified.
#[derive(Debug)]
pub(super) struct Held {
    id: Option<IdBuf>,
    user: Box<str>,
    options: PasswordOptions,
    /// What it said since, in lines.
    lines: Vec<u8>,
}

impl Held {
    /// Keeps a line for later.
    pub(super) fn keep(&mut self, line: &[u8]) -> Next {
        if self.lines.len() + line.len() >= MAX_HELD {
            return Next::Close("too-much-before-authorised");
        }
        self.lines.extend_from_slice(line);
        self.lines.push(b'\n');
        Next::Stay
    }
}

impl Miner {
    pub(super) fn authorize(
        &mut self,
        peer: PeerId,
        id: Option<Id<'_>>,
        authorize: &Authorize<'_>,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Next {
        let user: Box<str> = match authorize.user.trim() {
            "" => core.settings.anonymous_user.clone(),
            user => user.into(),
        };
        if user.len() > MAX_USER || user.contains(char::is_control) {
            core.metrics.login("unusable-name");
            return self.refuse_login(peer, id, "User name too long", core, out);
        }
        if let Some(text) = self.coinbase_too_long(core, now) {
            let code = ErrorCode::Unauthorized;
            self.answer_login(peer, id, core, out, |line, id| write::error(line, id, code, &text));
            return Next::Close("coinbase-too-long");
        }
        let options = authorize.options();
        if core.listener(self.listener).auth == AuthMode::Local {
            let password = authorize.password.as_deref().unwrap_or_default().into();
            out.effect(Effect::Verify(Login { peer, user: user.clone(), password }));
            let id = id.map(Id::to_buf);
            self.held = Some(Box::new(Held { id, user, options, lines: Vec::new() }));
            return Next::Stay;
        }
        core.metrics.login("open");
        self.log_in(peer, id, user, options, core, out)
    }

    fn log_in(
        &mut self,
        peer: PeerId,
        id: Option<Id<'_>>,
        user: Box<str>,
        options: PasswordOptions,
        core: &Core,
        out: &mut Outbox<Effect>,
    ) -> Next {
        let introduced = self.is_introduced();
        // The first one owns the channel; further ones are welcome to mine on it.
        if self.user.is_none() {
            self.wishes.set_password(options);
            self.user = Some(user);
        }
        self.answer_login(peer, id, core, out, |line, id| write::result_bool(line, id, true));
        if !introduced && self.is_introduced() { Next::Introduced } else { Next::Stay }
    }

    fn refuse_login(
        &mut self,
        peer: PeerId,
        id: Option<Id<'_>>,
        text: &str,
        core: &Core,
        out: &mut Outbox<Effect>,
    ) -> Next {
        let code = ErrorCode::Unauthorized;
        self.answer_login(peer, id, core, out, |line, id| write::error(line, id, code, text));
        self.conduct.failed_logins += 1;
        if self.conduct.failed_logins >= MAX_FAILED {
            Next::Close("not-authorised")
        } else {
            Next::Stay
        }
    }

    /// Answers, and then says what had to wait for that.
    fn answer_login(
        &mut self,
        peer: PeerId,
        id: Option<Id<'_>>,
        core: &Core,
        out: &mut Outbox<Effect>,
        write: impl FnOnce(&mut Vec<u8>, Id<'_>),
    ) {
        if let Some(id) = id {
            core.answer(peer, out, |line| write(line, id));
        }
        self.say_waiting(peer, out);
    }

    /// Answers something else than the three requests of a hello. cgminer takes the first line behind its
    /// `mining.authorize` for the answer to that, so between its subscription and that answer all others wait, though not
    /// for long: it may be another miner, which waits for them.
    pub(super) fn answer_later(
        &mut self,
        peer: PeerId,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        if self.extranonce1.is_none() || self.user.is_some() {
            return core.answer(peer, out, write);
        }
        if self.waiting.is_empty() {
            core.waiting.push_back((peer, now.instant + WAIT));
        }
        write(&mut self.waiting);
        self.waiting.push(b'\n');
        if self.waiting.len() > MAX_WAITING {
            self.say_waiting(peer, out);
        }
    }

    /// Says what waits.
    fn say_waiting(&mut self, peer: PeerId, out: &mut Outbox<Effect>) {
        let waiting = std::mem::take(&mut self.waiting);
        if !waiting.is_empty() {
            out.say(peer, |lines| lines.extend_from_slice(&waiting));
        }
    }

    /// Why it could not be given work, if its firmware takes no coinbase as long as they are now.
    fn coinbase_too_long(&self, core: &Core, now: Now) -> Option<String> {
        let (size, at) = core.coinbase_seen?;
        let firmware = core.firmware.get(self.firmware);
        let known = now.instant.saturating_duration_since(at) < COINBASE_KNOWN;
        (known && size > firmware.max_coinbase_bytes).then(|| {
            core.metrics.coinbase_too_long(core.firmware.label(self.firmware));
            too_long(size, firmware.max_coinbase_bytes)
        })
    }
}

/// What the owner of a miner reads.
pub(super) fn too_long(size: usize, most: usize) -> String {
    format!(
        "The pool's coinbase of {size} bytes is longer than the {most} that this firmware takes"
    )
}

impl TranslatorEngine {
    /// The driver has verified what [`Effect::Verify`] asked.
    pub fn verified(&mut self, peer: PeerId, verdict: Verdict, now: Now, out: &mut Outbox<Effect>) {
        self.core.metrics.login(verdict.label());
        // It may have left meanwhile.
        let Some(miner) = self.miners.get_mut(&peer) else { return };
        let Some(held) = miner.held.take() else { return };
        let Held { id, user, options, lines } = *held;
        let id = id.as_ref().map(IdBuf::as_id);
        let core = &mut self.core;
        let next = match verdict {
            Verdict::Right => miner.log_in(peer, id, user, options, core, out),
            Verdict::Wrong | Verdict::UnknownUser => {
                tracing::info!(%peer, remote = %miner.remote, user, reason = verdict.label(), "a miner was refused");
                miner.refuse_login(peer, id, ErrorCode::Unauthorized.text(), core, out)
            }
            Verdict::Busy => Next::Close("too-many-logins"),
        };
        self.after(peer, next, now, out);
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Some(miner) = self.miners.get_mut(&peer) else { return };
            let next = miner.hear(peer, line, &mut self.core, now, out);
            self.after(peer, next, now, out);
        }
    }

    /// Says what has waited for too long for an answer to `mining.authorize`.
    pub(super) fn say_waiting(&mut self, now: Instant, out: &mut Outbox<Effect>) {
        while let Some((peer, until)) = self.core.waiting.front().copied()
            && now >= until
        {
            self.core.waiting.pop_front();
            if let Some(miner) = self.miners.get_mut(&peer) {
                miner.say_waiting(peer, out);
            }
        }
    }
}
