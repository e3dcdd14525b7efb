//! Template providers: all are kept connected, the work of one is in force ([`TemplateProviders`] chooses).
//!
//! While none has work, miners keep what they have and their shares are credited as before.
//!
//! [`TemplateProviders`]: adit_mining::TemplateProviders

use std::time::Duration;

use adit_mining::TemplateEvent;
use adit_mining::providers::Chosen;
use adit_mining_server::{LinkState, REFUSED, setup_connection};
use adit_sv2::frame::Header;
use adit_sv2::keys::Sv2Url;
use adit_sv2::messages::common::{Common, PROTOCOL_TEMPLATE_DISTRIBUTION};
use adit_sv2::messages::template_distribution::{CoinbaseOutputConstraints, TemplateDistribution};
use adit_transport::{Event, Now, Outbox, PeerId};

use super::{Effect, PoolEngine};

/// One `[[template_provider]]`.
#[derive(Debug)]
pub(super) struct Provider {
    /// `host:port` as configured: its name in the store, logs and metrics.
    pub(super) name: String,
    url: Sv2Url,
    pub(super) state: LinkState,
    /// When the last template came, milliseconds since 1970.
    pub(super) last_template_unix_ms: Option<u64>,
}

/// What a lost provider is counted under.
mod loss {
    pub(super) const REPLACED: &str = "replaced";
    pub(super) const PROTOCOL: &str = "protocol-error";
    pub(super) const CLOSED: &str = "closed";
    pub(super) const NO_ANSWER: &str = "no-answer";
    pub(super) const REFUSED: &str = "refused";
    pub(super) const UNREACHABLE: &str = "unreachable";
}

/// Name and version that servers are told.
const PROGRAM: (&str, &str) = ("adit-pool", concat!("adit-pool ", env!("CARGO_PKG_VERSION")));

impl Provider {
    pub(super) fn new(name: String, url: Sv2Url) -> Self {
        Self { name, url, state: LinkState::default(), last_template_unix_ms: None }
    }
}

impl PoolEngine {
    /// The driver could not connect.
    pub fn provider_unreachable(&mut self, index: usize, reason: String) {
        if let Some(provider) = self.providers.get_mut(index)
            && provider.state.unreachable(&reason)
        {
            self.core.metrics.template_provider_lost(&provider.name, loss::UNREACHABLE);
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
                if let Some(old) = provider.state.peer() {
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
                provider.state = LinkState::SettingUp(peer, now.instant);
                let protocol = PROTOCOL_TEMPLATE_DISTRIBUTION;
                out.send(peer, &setup_connection(PROGRAM, protocol, 0, &provider.url));
            }
            _ if provider.state.peer() != Some(peer) => {}
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
            if let Some(peer) = self.providers[index].state.overdue(now) {
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
        let came =
            self.templates.in_use().and_then(|index| self.providers[index].last_template_unix_ms);
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
        if let LinkState::SettingUp(peer, _) = self.providers[index].state {
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
                let event = self.templates.new_template(index, &message, now.instant);
                self.template_event(index, event, now, out);
            }
            TemplateDistribution::SetNewPrevHash(message) => {
                let event = self.templates.set_new_prev_hash(index, &message, now.instant);
                let known =
                    self.core.bench.tip().is_some_and(|tip| tip.prev_hash == message.prev_hash);
                let counts = self.templates.in_use() == Some(index) && !known;
                let work = self.templates.tracker(index).work();
                let next = work.and_then(|work| work.template().height());
                let (hash, core) = (&message.prev_hash, &mut self.core);
                core.solutions.new_tip(hash, next, counts, &core.metrics, out);
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
        provider.state = LinkState::Ready(peer);
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
        let in_use = self.templates.in_use() == Some(index);
        match event {
            TemplateEvent::Future(template) if in_use => {
                self.future_template(&template, index, now)
            }
            TemplateEvent::NewTip(work) | TemplateEvent::Newer(work) => {
                if in_use {
                    self.adopt(&work, index, now, out);
                } else {
                    self.choose_provider(now, out);
                }
            }
            TemplateEvent::TipAhead(_) if in_use => {
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
        provider.state = LinkState::Down(reason.to_owned());
        self.templates.disconnected(index);
        if self.templates.in_use() == Some(index) {
            self.void_futures();
            self.choose_provider(now, out);
        }
    }

    /// Puts the best provider's work into force, if that is another one than now.
    fn choose_provider(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let Some(Chosen { provider, left_behind }) = self.templates.choose(now.instant) else {
            return;
        };
        if let Some(left) = left_behind {
            let left = &self.providers[left].name;
            tracing::warn!(provider = left, "this template provider is behind another one");
        }
        tracing::info!(provider = self.providers[provider].name, "templates come from here now");
        let Some((_, work)) = self.templates.work() else { return };
        self.void_futures();
        self.adopt(&work, provider, now, out);
        let futures: Vec<_> = self.templates.tracker(provider).futures().cloned().collect();
        futures.iter().for_each(|template| self.future_template(template, provider, now));
    }
}
