//! What a miner says, and what it is answered: everything at once, in order, and without asking anybody.

use adit_sv1::server::write::{self, ExtensionAnswer};
use adit_sv1::server::{
    Authorize, Configure, Extension, Method, Request, Subscribe, parse_request,
};
use adit_sv1::{ErrorCode, Id, LineError};
use adit_transport::{Now, Outbox, PeerId};

use super::miner::Miner;
use super::{Core, Effect};
use crate::config::MAX_USER;
use crate::metrics::Reject;

/// Lines that are no message, after which a connection is of no use. Some firmware has a broken one now and then.
const MAX_BAD_LINES: u8 = 10;
/// Characters of a user agent that are kept.
const MAX_USER_AGENT: usize = 64;

/// What is to be done after a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// Nothing.
    Stay,
    /// It has introduced itself: it needs a channel.
    Introduced,
    /// Close it.
    Close(&'static str),
}

impl Miner {
    /// One line of the miner.
    pub(super) fn line(
        &mut self,
        peer: PeerId,
        line: &[u8],
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Next {
        let request = match parse_request(line) {
            Ok(request) => request,
            Err(error) => return self.bad_line(error, core),
        };
        let Request { id, method, repairs } = request;
        if !repairs.is_empty() {
            core.metrics.repairs(repairs);
            self.stats.repaired_lines += 1;
        }
        if let Method::Submit(share) = &method {
            self.submit(peer, id, share, core, now, out);
            return Next::Stay;
        }
        core.metrics.request(method.label());
        let introduced = self.is_introduced();
        let mut answer = |write: &dyn Fn(&mut Vec<u8>, Id<'_>)| {
            if let Some(id) = id {
                core.answer(peer, out, |line| write(line, id));
            }
        };
        match method {
            Method::Configure(configure) => self.configure(peer, id, &configure, core, out),
            Method::Subscribe(subscribe) => {
                if !self.subscribe(peer, id, &subscribe, core, out) {
                    return Next::Close("no-extranonce-left");
                }
            }
            Method::Authorize(authorize) => self.authorize(peer, id, &authorize, core, out),
            Method::SuggestDifficulty { .. } | Method::SuggestTarget { .. } => {
                self.suggested(peer, id, core, out);
            }
            // Nothing of the kind is ever sent, so that there is nothing to follow.
            Method::ExtranonceSubscribe | Method::Capabilities => {
                answer(&|line, id| write::result_bool(line, id, true));
            }
            Method::MultiVersion => {
                answer(&|line, id| {
                    write::error(line, id, ErrorCode::Other, "Use mining.configure")
                });
            }
            Method::GetTransactions => answer(&|line, id| write::result_empty_list(line, id)),
            Method::Ping => answer(&|line, id| write::result_text(line, id, "pong")),
            Method::Invalid { method: "mining.submit", .. } => {
                self.reject(peer, id, Reject::Malformed, core, out);
            }
            Method::Invalid { error, .. } => {
                let text = error.to_string();
                answer(&|line, id| write::error(line, id, ErrorCode::Other, &text));
            }
            Method::Unknown { .. } => {
                let code = ErrorCode::MethodNotFound;
                answer(&|line, id| write::error(line, id, code, code.text()));
            }
            Method::Submit(_) | Method::Answer(_) | Method::Blank => {}
        }
        if !introduced && self.is_introduced() { Next::Introduced } else { Next::Stay }
    }

    fn bad_line(&mut self, error: LineError, core: &Core) -> Next {
        core.metrics.bad_line();
        self.bad_lines += 1;
        let says_hello = self.extranonce1.is_none() && self.user.is_none();
        match error {
            LineError::NotAnObject if says_hello => Next::Close("not-stratum"),
            _ if self.bad_lines >= MAX_BAD_LINES => Next::Close("too-many-bad-lines"),
            _ => Next::Stay,
        }
    }

    fn configure(
        &mut self,
        peer: PeerId,
        id: Option<Id<'_>>,
        configure: &Configure<'_>,
        core: &mut Core,
        out: &mut Outbox<Effect>,
    ) {
        let mut answers = Vec::with_capacity(configure.extensions.len());
        for extension in &configure.extensions {
            answers.push(match extension {
                Extension::VersionRolling { mask, .. } => {
                    self.mask = mask & core.settings.version_mask;
                    self.told_mask = self.mask;
                    ExtensionAnswer::VersionRolling(Some(self.mask).filter(|mask| *mask != 0))
                }
                // The upstream decides on difficulty.
                Extension::MinimumDifficulty { .. } => ExtensionAnswer::MinimumDifficulty(false),
                Extension::SubscribeExtranonce => ExtensionAnswer::SubscribeExtranonce(true),
                Extension::Info(_) => ExtensionAnswer::Info(true),
                Extension::Unknown(name) => ExtensionAnswer::Unknown(name),
            });
        }
        if let Some(id) = id {
            core.answer(peer, out, |line| write::configure(line, id, answers));
        }
    }

    fn subscribe(
        &mut self,
        peer: PeerId,
        id: Option<Id<'_>>,
        subscribe: &Subscribe<'_>,
        core: &mut Core,
        out: &mut Outbox<Effect>,
    ) -> bool {
        if let Some(user_agent) = &subscribe.user_agent {
            let clean = user_agent.chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT);
            self.user_agent = clean.collect::<String>().into();
        }
        // A second time it gets what it got the first time.
        let extranonce1 = match self.extranonce1 {
            Some(extranonce1) => extranonce1,
            None => {
                let Ok(extranonce1) = core.extranonces.allocate() else { return false };
                self.extranonce1 = Some(extranonce1);
                self.extranonce2_size = core.extranonce2_size;
                extranonce1
            }
        };
        if let Some(id) = id {
            let (session, size) = (extranonce1.to_string(), usize::from(self.extranonce2_size));
            core.answer(peer, out, |line| {
                write::subscribe(line, id, &session, &extranonce1, size);
            });
        }
        true
    }

    fn authorize(
        &mut self,
        peer: PeerId,
        id: Option<Id<'_>>,
        authorize: &Authorize<'_>,
        core: &mut Core,
        out: &mut Outbox<Effect>,
    ) {
        let user = match authorize.user.trim() {
            "" => core.settings.anonymous_user.clone(),
            user => user.into(),
        };
        let fits = user.len() <= MAX_USER && !user.contains(char::is_control);
        // The first one owns the channel; further ones are welcome to mine on it.
        if fits && self.user.is_none() {
            let terahashes = authorize.options().terahashes;
            self.claimed_hash_rate = terahashes.map(|rate| rate * 1e12);
            self.user = Some(user);
        }
        if let Some(id) = id {
            core.answer(peer, out, |line| match fits {
                true => write::result_bool(line, id, true),
                false => write::error(line, id, ErrorCode::Unauthorized, "User name too long"),
            });
        }
    }

    /// A difficulty it would like. The upstream decides, so it hears what it has already, and cgminer and its kin nothing
    /// else: they count an answer as one to a share.
    fn suggested(
        &self,
        peer: PeerId,
        id: Option<Id<'_>>,
        core: &mut Core,
        out: &mut Outbox<Effect>,
    ) {
        let Some(id) = id else { return };
        let counts_answers = ["cgminer", "bfgminer", "sgminer", "bmminer"];
        let name = self.user_agent.to_ascii_lowercase();
        if !counts_answers.iter().any(|counting| name.starts_with(counting)) {
            core.answer(peer, out, |line| write::result_bool(line, id, true));
        } else if let Some(difficulty) = self.difficulty {
            core.answer(peer, out, |line| {
                write::set_difficulty(line, difficulty);
            });
        }
    }
}
