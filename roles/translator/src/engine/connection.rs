//! What an upstream says of the connection: setting it up, extensions, moving elsewhere.

use std::time::Duration;

use adit_sv2::codec::{Seq064K, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::messages::DecodeError;
use adit_sv2::messages::common::{
    Common, PROTOCOL_MINING, PROTOCOL_VERSION, Reconnect, SetupConnection,
};
use adit_sv2::messages::extensions::{Extensions, RequestExtensions};
use adit_sv2::messages::mining::{Mining, REQUIRES_FIXED_VERSION};
use adit_sv2::tlv::{EXTENSIONS_NEGOTIATION, WORKER_HASHRATE_TRACKING};
use adit_transport::{Event, Now, Outbox, PeerId};

use super::channel::Violation;
use super::list::DialId;
use super::upstream::{Stage, Upstream};
use super::{Effect, TranslatorEngine};
use crate::config::Channels;

/// Time for the answer to `SetupConnection`.
const SETUP_TIME: Duration = Duration::from_secs(10);
/// Time for the answer to `RequestExtensions`: servers that know no extensions do not answer.
const NEGOTIATION_TIME: Duration = Duration::from_secs(1);

/// A connection that stood so long was a good one: whoever ends it by `Reconnect` may be connected to again at once.
const LASTING: Duration = Duration::from_secs(60);

/// Which of the connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// The one that is worked for.
    Active,
    /// A better one, that must show that it is well.
    Candidate,
}

impl TranslatorEngine {
    pub(super) fn upstream_event(
        &mut self,
        peer: PeerId,
        dial: DialId,
        event: Event<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let place = self.place(peer);
        match (event, place) {
            (Event::Opened { .. }, _) => self.upstream_opened(peer, dial, now, out),
            (Event::Frame(header, payload), Some(place)) => {
                self.at(place).heard = now.instant;
                let heard = self.upstream_frame(place, peer, &header, payload, now, out);
                if let Err(Violation(reason)) = heard {
                    tracing::warn!(upstream = %self.at(place).target, reason, "upstream dropped");
                    self.core.metrics.upstream_fault(reason);
                    out.close(peer, reason);
                    self.lost(place, reason, true, now, out);
                }
            }
            (Event::Frame(header, payload), None) => {
                self.retiring_frame(peer, &header, payload, now, out);
            }
            (Event::Line(_), _) => out.close(peer, "line-on-a-frame-connection"),
            (Event::Closed(reason), Some(place)) => {
                let upstream = self.at(place);
                if upstream.answers_nothing() {
                    let index = upstream.index;
                    self.upstreams.get_mut(index).wants_extensions = true;
                }
                self.lost(place, reason, false, now, out);
            }
            (Event::Closed(_), None) => self.end_retiring(peer),
        }
    }

    /// An attempt of the driver has come to nothing.
    pub fn dial_failed(&mut self, dial: DialId, reason: &str, now: Now) {
        self.upstreams.failed(dial, reason, now.instant);
    }

    pub(super) fn place(&self, peer: PeerId) -> Option<Place> {
        if self.upstream.stage.peer() == Some(peer) {
            return Some(Place::Active);
        }
        let candidate = self.candidate.as_ref()?;
        (candidate.stage.peer() == Some(peer)).then_some(Place::Candidate)
    }

    pub(super) fn at(&mut self, place: Place) -> &mut Upstream {
        match place {
            Place::Active => &mut self.upstream,
            Place::Candidate => self.candidate.as_mut().unwrap_or(&mut self.upstream),
        }
    }

    /// Answers that are late.
    pub(super) fn connection_tick(&mut self, place: Place, now: Now, out: &mut Outbox<Effect>) {
        let since = |since| now.instant.saturating_duration_since(since);
        match self.at(place).stage {
            Stage::SettingUp { peer, since: at } if since(at) >= SETUP_TIME => {
                out.close(peer, "setup-timeout");
                self.lost(place, "no answer to SetupConnection", false, now, out);
            }
            Stage::Negotiating { peer, since: at } if since(at) >= NEGOTIATION_TIME => {
                tracing::info!(upstream = %self.at(place).target, "no answer about extensions: going on without");
                self.ready(place, peer, now, out);
            }
            _ => {}
        }
    }

    fn upstream_opened(&mut self, peer: PeerId, dial: DialId, now: Now, out: &mut Outbox<Effect>) {
        let Some((index, target)) = self.upstreams.connected(dial) else {
            return out.close(peer, "not-asked-for");
        };
        let setup = SetupConnection {
            protocol: PROTOCOL_MINING,
            min_version: PROTOCOL_VERSION,
            max_version: PROTOCOL_VERSION,
            // Version rolling is welcome and not required: miners mine without it.
            flags: 0,
            endpoint_host: Str0255::cut(&target.host),
            endpoint_port: target.port,
            vendor: Str0255::cut("adit"),
            hardware_version: Str0255::cut("adit-translator"),
            firmware: Str0255::cut(env!("CARGO_PKG_VERSION")),
            device_id: Str0255::default(),
        };
        out.send(peer, &setup);
        let opened = Upstream::opened(index, target, peer, now.instant);
        if self.upstream.stage == Stage::Down {
            self.upstream = opened;
        } else if let Some(other) = self.candidate.replace(opened).and_then(|c| c.stage.peer()) {
            out.close(other, "replaced");
        }
    }

    fn upstream_frame(
        &mut self,
        place: Place,
        peer: PeerId,
        header: &Header,
        payload: &[u8],
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), Violation> {
        if header.extension_type == EXTENSIONS_NEGOTIATION && self.negotiates(place) {
            return match read(Extensions::decode(header, payload))? {
                Some((message, _)) => self.extensions(place, peer, &message, now, out),
                None => Ok(()),
            };
        }
        // Nothing else was asked for (spec 3.4.1).
        if header.extension_type != 0 {
            return Ok(());
        }
        let common = Common::ALL.iter().any(|info| info.msg_type == header.msg_type);
        match self.at(place).stage {
            Stage::Down => Ok(()),
            Stage::SettingUp { .. } => match read(Common::decode(header, payload))? {
                Some((message, _)) => self.set_up(place, peer, &message, now, out),
                None => Err(Violation("message-before-setup")),
            },
            _ if common => match read(Common::decode(header, payload))? {
                Some((Common::Reconnect(message), _)) => {
                    self.reconnect(place, &message, now, out);
                    Ok(())
                }
                // Whom we speak with now may know no extension, or others: they are asked for again (spec 3.6.6).
                Some((Common::ChannelEndpointChanged(_), _)) => {
                    let asks = std::mem::take(&mut self.at(place).worker_names);
                    if place == Place::Active {
                        self.core.worker_names = false;
                    }
                    if asks {
                        request_extensions(peer, out);
                    }
                    Ok(())
                }
                None => Ok(()),
                Some(_) => Err(Violation("setup-twice")),
            },
            Stage::Negotiating { .. } | Stage::Ready { .. } => {
                match read(Mining::decode(header, payload))? {
                    Some((message, _)) => self.mining(place, peer, message, payload, now, out),
                    None => Ok(()),
                }
            }
        }
    }

    fn set_up(
        &mut self,
        place: Place,
        peer: PeerId,
        message: &Common<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), Violation> {
        let success = match message {
            Common::SetupConnectionSuccess(success) => success,
            Common::SetupConnectionError(error) => {
                let code = error.error_code.to_clean_string();
                let reason = format!("refused: {code} (flags {:#x})", error.flags);
                self.core.metrics.upstream_fault("refused");
                out.close(peer, "refused");
                self.lost(place, &reason, false, now, out);
                return Ok(());
            }
            _ => return Err(Violation("message-before-setup")),
        };
        if success.used_version != PROTOCOL_VERSION {
            return Err(Violation("another-protocol-version"));
        }
        let negotiates = self.negotiates(place);
        let upstream = self.at(place);
        upstream.fixed_version = success.flags & REQUIRES_FIXED_VERSION != 0;
        if negotiates {
            upstream.stage = Stage::Negotiating { peer, since: now.instant };
            request_extensions(peer, out);
        } else {
            self.ready(place, peer, now, out);
        }
        Ok(())
    }

    /// Whether extensions are asked for: to name workers on the channel of all. A miner's own channel names it already, so
    /// that they are asked for only where it is not opened otherwise.
    fn negotiates(&mut self, place: Place) -> bool {
        let index = self.at(place).index;
        self.core.settings.channels == Channels::Aggregated
            || self.upstreams.get(index).wants_extensions
    }

    fn extensions(
        &mut self,
        place: Place,
        peer: PeerId,
        message: &Extensions<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), Violation> {
        let mut supported = false;
        match message {
            Extensions::RequestExtensionsSuccess(m) => {
                supported = m.supported_extensions.iter().any(|id| id == WORKER_HASHRATE_TRACKING);
            }
            Extensions::RequestExtensionsError(m) => {
                let required: Vec<u16> = m.required_extensions.iter().collect();
                if required.iter().any(|id| *id != WORKER_HASHRATE_TRACKING) {
                    tracing::warn!(
                        ?required,
                        "the upstream requires extensions that are not known here"
                    );
                    return Err(Violation("unknown-extension-required"));
                }
            }
            Extensions::RequestExtensions(_) => return Err(Violation("a-client's-message")),
        }
        let upstream = self.at(place);
        upstream.worker_names = supported;
        tracing::info!(upstream = %upstream.target, worker_names = supported, "extensions negotiated");
        match upstream.stage {
            Stage::Negotiating { .. } => self.ready(place, peer, now, out),
            _ if place == Place::Active => self.core.worker_names = supported,
            _ => {}
        }
        Ok(())
    }

    /// Channels can be opened.
    fn ready(&mut self, place: Place, peer: PeerId, now: Now, out: &mut Outbox<Effect>) {
        let upstream = self.at(place);
        upstream.stage = Stage::Ready { peer };
        upstream.ready = now.instant;
        match place {
            Place::Active => self.work_for_it(now, out),
            Place::Candidate => self.open_of_all(place, now, out),
        }
    }

    /// It wants us elsewhere: followed under the same authority key, and where there is none, only on the same host.
    fn reconnect(
        &mut self,
        place: Place,
        message: &Reconnect<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let host = message.new_host.to_clean_string();
        let upstream = self.at(place);
        let (index, mut target) = (upstream.index, upstream.target.clone());
        let age = now.instant.saturating_duration_since(upstream.ready);
        let lasted = upstream.is_ready() && age >= LASTING;
        let elsewhere = !host.is_empty() && host != target.host;
        let follows = !elsewhere || target.authority_key.is_some();
        if follows {
            if elsewhere {
                target.host = host;
            }
            if message.new_port != 0 {
                target.port = message.new_port;
            }
            tracing::info!(%target, "the upstream asked to reconnect");
        } else {
            tracing::warn!(host, "not followed: no authority key is configured to know it by");
        }
        match place {
            Place::Active => {
                self.core.metrics.failover("reconnect");
                self.retire(now, out);
            }
            Place::Candidate => {
                if let Some(peer) = self.candidate.take().and_then(|c| c.stage.peer()) {
                    out.close(peer, "asked-to-reconnect");
                }
            }
        }
        if !self.upstreams.redirect(index, follows.then_some(target), lasted, now.instant) {
            self.core.metrics.upstream_fault("reconnect");
        }
        self.dial(now, out);
    }
}

fn request_extensions(peer: PeerId, out: &mut Outbox<Effect>) {
    let wanted = [WORKER_HASHRATE_TRACKING];
    if let Ok(requested_extensions) = Seq064K::new(&wanted) {
        out.send(peer, &RequestExtensions { request_id: 1, requested_extensions });
    }
}

/// What was decoded; none if it is of a type that is not known, which may be newer than we are.
pub(super) fn read<T>(decoded: Result<T, DecodeError>) -> Result<Option<T>, Violation> {
    match decoded {
        Ok(message) => Ok(Some(message)),
        Err(DecodeError::Unknown { .. }) => Ok(None),
        Err(error) => {
            tracing::warn!(%error, "malformed frame");
            Err(Violation("malformed-frame"))
        }
    }
}
