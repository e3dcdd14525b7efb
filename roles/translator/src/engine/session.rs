//! What a miner says, and what it is answered: at once, in order, and without asking the upstream.

use adit_mining::Target;
use adit_sv1::server::write::{self, ExtensionAnswer};
use adit_sv1::server::{Configure, Extension, Method, Request, Subscribe, parse_request};
use adit_sv1::{ErrorCode, Id, LineError};
use adit_transport::{Now, Outbox, PeerId};

use super::miner::Miner;
use super::{Core, Effect};
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
        if !self.may_speak(core, now) {
            return Next::Close("too-many-lines");
        }
        match &mut self.held {
            Some(held) => held.keep(line),
            None => self.hear(peer, line, core, now, out),
        }
    }

    /// Does what a line says.
    pub(super) fn hear(
        &mut self,
        peer: PeerId,
        line: &[u8],
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Next {
        if let Some(held) = &mut self.held {
            return held.keep(line);
        }
        let request = match parse_request(line) {
            Ok(request) => request,
            Err(error) => return self.bad_line(error, core),
        };
        let Request { id, method, repairs } = request;
        if !repairs.is_empty() {
            self.count_repairs(repairs, core);
        }
        if let Method::Submit(share) = &method {
            return self.submit(peer, id, share, core, now, out);
        }
        core.metrics.request(method.label());
        let introduced = self.is_introduced();
        let mut answer = |miner: &mut Self, write: &dyn Fn(&mut Vec<u8>, Id<'_>)| {
            if let Some(id) = id {
                miner.answer_later(peer, core, now, out, |line| write(line, id));
            }
        };
        match method {
            Method::Configure(configure) => self.configure(peer, id, &configure, core, out),
            Method::Subscribe(subscribe) => {
                if let Err(reason) = self.subscribe(peer, id, &subscribe, core, now, out) {
                    return Next::Close(reason);
                }
            }
            Method::Authorize(authorize) => {
                return self.authorize(peer, id, &authorize, core, now, out);
            }
            Method::SuggestDifficulty { difficulty } => {
                self.suggested(peer, id, difficulty, core, now, out);
            }
            Method::SuggestTarget { target } => {
                let difficulty = Target::from_be_bytes(target).difficulty();
                self.suggested(peer, id, difficulty, core, now, out);
            }
            // Nothing of the kind is ever sent, so that there is nothing to follow.
            Method::ExtranonceSubscribe | Method::Capabilities => {
                answer(self, &|line, id| write::result_bool(line, id, true));
            }
            Method::MultiVersion => {
                answer(self, &|line, id| {
                    write::error(line, id, ErrorCode::Other, "Use mining.configure")
                });
            }
            Method::GetTransactions => {
                answer(self, &|line, id| write::result_empty_list(line, id));
            }
            Method::Ping => answer(self, &|line, id| write::result_text(line, id, "pong")),
            Method::Invalid { method: "mining.submit", .. } => {
                return self.reject(peer, id, Reject::Malformed, core, now, out);
            }
            Method::Invalid { error, .. } => {
                let text = error.to_string();
                answer(self, &|line, id| write::error(line, id, ErrorCode::Other, &text));
            }
            Method::Unknown { .. } => {
                let code = ErrorCode::MethodNotFound;
                answer(self, &|line, id| write::error(line, id, code, code.text()));
            }
            Method::Submit(_) | Method::Answer(_) | Method::Blank => {}
        }
        if !introduced && self.is_introduced() { Next::Introduced } else { Next::Stay }
    }

    fn bad_line(&mut self, error: LineError, core: &Core) -> Next {
        core.metrics.bad_line();
        self.conduct.bad_lines += 1;
        let says_hello = self.extranonce1.is_none() && self.user.is_none();
        match error {
            LineError::NotAnObject if says_hello => Next::Close("not-stratum"),
            _ if self.conduct.bad_lines >= MAX_BAD_LINES => Next::Close("too-many-bad-lines"),
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
                Extension::MinimumDifficulty { value } => {
                    let policy = core.listener(self.listener).suggested;
                    let kept = self.wishes.set_minimum(*value, policy);
                    ExtensionAnswer::MinimumDifficulty(kept)
                }
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
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), &'static str> {
        if let Some(user_agent) = &subscribe.user_agent {
            let clean = user_agent.chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT);
            self.user_agent = clean.collect::<String>().into();
            self.set_firmware(core.firmware.find(&self.user_agent), core);
        }
        // A second time it gets what it got the first time.
        let extranonce1 = match self.extranonce1 {
            Some(extranonce1) => extranonce1,
            None => {
                let given = core.give_extranonce(self.firmware, now.instant);
                let (extranonce1, extranonce2_size) = given.map_err(|(text, reason)| {
                    if let Some(id) = id {
                        let code = ErrorCode::Other;
                        core.answer(peer, out, |line| write::error(line, id, code, text));
                    }
                    reason
                })?;
                self.extranonce1 = Some(extranonce1);
                self.extranonce2_size = extranonce2_size;
                extranonce1
            }
        };
        if let Some(id) = id {
            let (session, size) = (extranonce1.to_string(), usize::from(self.extranonce2_size));
            core.answer(peer, out, |line| {
                write::subscribe(line, id, &session, &extranonce1, size);
            });
        }
        Ok(())
    }

    /// A difficulty it would like. What the upstream makes of it comes with a job. cgminer and its kin hear nothing else:
    /// they count an answer as one to a share.
    fn suggested(
        &mut self,
        peer: PeerId,
        id: Option<Id<'_>>,
        difficulty: f64,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let news = self.wishes.suggest(difficulty);
        if !core.firmware.get(self.firmware).counts_answers {
            if let Some(id) = id {
                self.answer_later(peer, core, now, out, |line| write::result_bool(line, id, true));
            }
        } else if news && let Some(difficulty) = self.difficulty {
            // A difficulty counts from the next job on, which therefore follows at once; or later, and then both.
            if self.may_take_again(core, now) {
                core.answer(peer, out, |line| {
                    write::set_difficulty(line, difficulty);
                });
            }
            self.notify_again(peer, core, now, out);
        }
    }
}
