//! Template providers: all are kept connected, the work of one is in force.
//!
//! The first in the configuration that gives work is used. When it is lost the next one that has work takes over at
//! once; when none has, miners keep what they have and their shares are credited as before. One further up takes over
//! again once it has been well for [`WELL_AFTER`]. One that is a block behind another for [`BEHIND_FOR`] is
//! left for that one, however quiet and healthy its connection is.

use std::time::{Duration, Instant};

use adit_mining::{TemplateEvent, TemplateTracker};
use adit_sv2::codec::Str0255;
use adit_sv2::frame::Header;
use adit_sv2::keys::Sv2Url;
use adit_sv2::messages::common::{
    Common, PROTOCOL_TEMPLATE_DISTRIBUTION, PROTOCOL_VERSION, SetupConnection,
};
use adit_sv2::messages::template_distribution::{CoinbaseOutputConstraints, TemplateDistribution};
use adit_transport::{Event, Now, Outbox, PeerId};

use super::{Effect, PoolEngine};

/// One `[[template_provider]]`.
#[derive(Debug)]
pub(super) struct Provider {
    /// `host:port` as configured: its name in the store, logs and metrics.
    pub(super) name: String,
    url: Sv2Url,
    pub(super) state: State,
    /// Kept over a loss: what it gave stays in force until there is something newer.
    tracker: TemplateTracker,
    /// Since when this connection has given a template with its tip, and one no lower than the work in force.
    well_since: Option<Instant>,
    /// Since when it has had a higher one than the provider in use.
    ahead_since: Option<Instant>,
    /// When the last template came, milliseconds since 1970.
    pub(super) last_template_unix_ms: Option<u64>,
}

/// How far the connection is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// There is none, for this reason.
    Down(String),
    /// `SetupConnection` is sent.
    SettingUp(PeerId, Instant),
    /// It may be asked for things.
    Ready(PeerId),
}

/// A provider that was lost and is back is not trusted at once: it may be about to go again.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// A provider that is a block behind another one for so long is left: its node has stalled, or it says nothing any more.
const BEHIND_FOR: Duration = Duration::from_secs(15);
/// Why the connection to a provider that refuses us is closed.
const REFUSED: &str = "setup-connection-refused";
/// What a lost provider is counted under.
mod loss {
    pub(super) const REPLACED: &str = "replaced";
    pub(super) const PROTOCOL: &str = "protocol-error";
    pub(super) const CLOSED: &str = "closed";
    pub(super) const NO_ANSWER: &str = "no-answer";
    pub(super) const REFUSED: &str = "refused";
    pub(super) const UNREACHABLE: &str = "unreachable";
}

/// For an answer to `SetupConnection`.
const SETUP_DEADLINE: Duration = Duration::from_secs(10);

impl Provider {
    pub(super) fn new(name: String, url: Sv2Url) -> Self {
        Self {
            name,
            url,
            state: State::Down("not connected yet".to_owned()),
            tracker: TemplateTracker::new(),
            well_since: None,
            ahead_since: None,
            last_template_unix_ms: None,
        }
    }

    /// The connection, where it takes messages.
    pub(super) fn ready(&self) -> Option<PeerId> {
        match self.state {
            State::Ready(peer) => Some(peer),
            State::Down(_) | State::SettingUp(..) => None,
        }
    }

    /// Whether its work is from this very connection.
    pub(super) fn has_fresh_work(&self) -> bool {
        self.well_since.is_some()
    }

    /// Whether the other one has work for a higher block, or has work at all where this one has none.
    fn is_behind(&self, other: &Self) -> bool {
        let height = |provider: &Self| provider.tracker.work().map(|work| work.template().height());
        match (height(self), height(other)) {
            (None, Some(_)) => true,
            (Some(Some(its)), Some(Some(others))) => its < others,
            _ => false,
        }
    }

    fn peer(&self) -> Option<PeerId> {
        match self.state {
            State::Ready(peer) | State::SettingUp(peer, _) => Some(peer),
            State::Down(_) => None,
        }
    }

    fn setup_connection(&self) -> SetupConnection<'_> {
        SetupConnection {
            protocol: PROTOCOL_TEMPLATE_DISTRIBUTION,
            min_version: PROTOCOL_VERSION,
            max_version: PROTOCOL_VERSION,
            flags: 0,
            endpoint_host: Str0255::cut(&self.url.host),
            endpoint_port: self.url.port,
            vendor: Str0255::cut("adit"),
            hardware_version: Str0255::cut("adit-pool"),
            firmware: Str0255::cut(concat!("adit-pool ", env!("CARGO_PKG_VERSION"))),
            device_id: Str0255::default(),
        }
    }
}

impl PoolEngine {
    /// The driver could not connect.
    pub fn provider_unreachable(&mut self, index: usize, reason: String) {
        // Of a provider that refuses us more is known than that.
        if let Some(Provider { state: State::Down(known), name, .. }) =
            self.providers.get_mut(index)
            && reason != REFUSED
        {
            self.core.metrics.template_provider_lost(name, loss::UNREACHABLE);
            *known = reason;
        }
    }

    pub(super) fn provider_event(
        &mut self,
        index: usize,
        peer: PeerId,
        event: Event<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let provider = &mut self.providers[index];
        match event {
            Event::Opened { .. } => {
                if let Some(old) = provider.peer() {
                    out.close(old, "replaced by a newer connection");
                    self.lose_provider(
                        index,
                        loss::REPLACED,
                        "replaced by a newer connection",
                        now,
                        out,
                    );
                }
                let provider = &mut self.providers[index];
                provider.state = State::SettingUp(peer, now.instant);
                out.send(peer, &provider.setup_connection());
            }
            _ if provider.peer() != Some(peer) => {}
            Event::Frame(header, payload) => {
                if let Err(reason) = self.provider_frame(index, &header, payload, now, out) {
                    out.close(peer, reason);
                    self.lose_provider(index, loss::PROTOCOL, reason, now, out);
                }
            }
            Event::Line(_) => {
                out.close(peer, "line-on-a-frame-connection");
                self.lose_provider(index, loss::PROTOCOL, "line-on-a-frame-connection", now, out);
            }
            Event::Closed(reason) => self.lose_provider(index, loss::CLOSED, reason, now, out),
        }
    }

    pub(super) fn provider_tick(&mut self, now: Now, out: &mut Outbox<Effect>) {
        for index in 0..self.providers.len() {
            if let State::SettingUp(peer, since) = self.providers[index].state
                && now.instant.duration_since(since) >= SETUP_DEADLINE
            {
                out.close(peer, "no-answer-to-setup-connection");
                self.lose_provider(
                    index,
                    loss::NO_ANSWER,
                    "no answer to SetupConnection",
                    now,
                    out,
                );
            }
        }
        self.choose_provider(now, out);
        let came = self.active.and_then(|active| self.providers[active].last_template_unix_ms);
        if let Some(came) = came {
            let age = now.unix_ms.saturating_sub(came);
            self.core.metrics.template_age(Duration::from_millis(age));
        }
    }

    /// Handles a frame; an error is the reason to close the connection.
    fn provider_frame(
        &mut self,
        index: usize,
        header: &Header,
        payload: &[u8],
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), &'static str> {
        if header.extension_type != 0 {
            return Ok(()); // none was negotiated (spec 3.4)
        }
        let name = &self.providers[index].name;
        if let State::SettingUp(peer, _) = self.providers[index].state {
            return match Common::decode(header, payload) {
                Ok((Common::SetupConnectionSuccess(_), _)) => {
                    self.provider_set_up(index, peer, out);
                    Ok(())
                }
                Ok((Common::SetupConnectionError(message), _)) => {
                    tracing::warn!(provider = name, %message, "refused by the template provider");
                    let code = message.error_code.to_clean_string();
                    out.close(peer, REFUSED);
                    let reason = format!("it refuses us: {code} (flags {:#x})", message.flags);
                    self.lose_provider(index, loss::REFUSED, &reason, now, out);
                    Ok(())
                }
                Ok(_) => Err("unexpected-message"),
                Err(error) => {
                    tracing::warn!(provider = name, %error, "frame cannot be read");
                    Err("malformed-frame")
                }
            };
        }
        if Common::decode(header, payload).is_ok() {
            return Ok(()); // a Reconnect: it closes when it goes
        }
        let message = match TemplateDistribution::decode(header, payload) {
            Ok((message, _)) => message,
            Err(error) => {
                tracing::warn!(provider = name, %error, "frame cannot be read");
                return Err("malformed-frame");
            }
        };
        match message {
            TemplateDistribution::NewTemplate(message) => {
                let provider = &mut self.providers[index];
                provider.last_template_unix_ms = Some(now.unix_ms);
                let event = provider.tracker.new_template(&message);
                self.template_event(index, event, now, out);
            }
            TemplateDistribution::SetNewPrevHash(message) => {
                let event = self.providers[index].tracker.set_new_prev_hash(&message);
                let known =
                    self.core.bench.tip().is_some_and(|tip| tip.prev_hash == message.prev_hash);
                let counts = self.active == Some(index) && !known;
                self.core.solutions.new_tip(&message.prev_hash, counts, &self.core.metrics, out);
                self.template_event(index, event, now, out);
            }
            // Never asked for.
            TemplateDistribution::RequestTransactionDataSuccess(_)
            | TemplateDistribution::RequestTransactionDataError(_) => {}
            TemplateDistribution::CoinbaseOutputConstraints(_)
            | TemplateDistribution::RequestTransactionData(_)
            | TemplateDistribution::SubmitSolution(_) => return Err("unexpected-message"),
        }
        Ok(())
    }

    fn provider_set_up(&mut self, index: usize, peer: PeerId, out: &mut Outbox<Effect>) {
        let provider = &mut self.providers[index];
        provider.state = State::Ready(peer);
        tracing::info!(provider = provider.name, "connected to the template provider");
        self.core.metrics.template_provider(&provider.name, true);
        self.core.solutions.provider_ready(&provider.name);
        let constraints = CoinbaseOutputConstraints {
            coinbase_output_max_additional_size: self.core.settings.output_size,
            coinbase_output_max_additional_sigops: self.core.settings.output_sigops,
        };
        out.send(peer, &constraints);
    }

    fn template_event(
        &mut self,
        index: usize,
        event: TemplateEvent,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let is_active = self.active == Some(index);
        match event {
            TemplateEvent::Future(template) if is_active => {
                self.future_template(&template, index, now)
            }
            TemplateEvent::NewTip(work) | TemplateEvent::Newer(work) => {
                self.providers[index].well_since.get_or_insert(now.instant);
                if is_active {
                    self.adopt(&work, index, now, out);
                } else {
                    self.choose_provider(now, out);
                }
            }
            TemplateEvent::TipAhead(_) if is_active => {
                tracing::warn!(
                    provider = self.providers[index].name,
                    "new tip without a template for it"
                );
                self.void_work();
            }
            TemplateEvent::Future(_) | TemplateEvent::TipAhead(_) | TemplateEvent::Ignored => {}
        }
    }

    fn lose_provider(
        &mut self,
        index: usize,
        loss: &'static str,
        reason: &str,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let provider = &mut self.providers[index];
        tracing::warn!(provider = provider.name, reason, "template provider lost");
        self.core.metrics.template_provider(&provider.name, false);
        self.core.metrics.template_provider_lost(&provider.name, loss);
        provider.state = State::Down(reason.to_owned());
        provider.well_since = None;
        provider.tracker.disconnected();
        if self.active == Some(index) {
            self.void_futures();
            self.choose_provider(now, out);
        }
    }

    /// Which providers are ahead of the one in use. One that is behind is not well: it is not gone back to before it has
    /// kept up for a while.
    fn compare_providers(&mut self, in_use: Option<usize>, now: Now) {
        for index in 0..self.providers.len() {
            let (mut ahead, mut behind) = (false, false);
            if let Some(in_use) = in_use.map(|in_use| &self.providers[in_use]) {
                let provider = &self.providers[index];
                ahead = provider.has_fresh_work() && in_use.is_behind(provider);
                behind = provider.has_fresh_work() && provider.is_behind(in_use);
            }
            let provider = &mut self.providers[index];
            provider.ahead_since =
                if ahead { provider.ahead_since.or(Some(now.instant)) } else { None };
            if behind {
                provider.well_since = Some(now.instant);
            }
        }
    }

    /// Puts the best provider's work into force, if that is another one than now.
    fn choose_provider(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let in_use = self.active.filter(|active| self.providers[*active].has_fresh_work());
        self.compare_providers(in_use, now);
        let long = |since: Instant, time: Duration| now.instant.duration_since(since) >= time;
        let better = |(index, provider): &(usize, &Provider)| match (in_use, provider.well_since) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(in_use), Some(since)) => {
                *index < in_use && long(since, WELL_AFTER)
                    || provider.ahead_since.is_some_and(|since| long(since, BEHIND_FOR))
            }
        };
        let Some((index, provider)) = self.providers.iter().enumerate().find(better) else {
            return;
        };
        let Some(work) = provider.tracker.work() else { return };
        let futures: Vec<_> = provider.tracker.futures().cloned().collect();
        if self.active != Some(index) {
            if let Some(left) = in_use.map(|left| &self.providers[left].name)
                && provider.ahead_since.is_some()
            {
                tracing::warn!(provider = left, "this template provider is behind another one");
            }
            tracing::info!(provider = provider.name, "templates come from here now");
        }
        self.active = Some(index);
        self.void_futures();
        self.adopt(&work, index, now, out);
        futures.iter().for_each(|template| self.future_template(template, index, now));
    }
}
