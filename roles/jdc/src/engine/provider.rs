//! Template providers: all are kept connected, the work of one is in force ([`adit_mining::TemplateProviders`] chooses).
//! While none has work, miners keep what they have.

use adit_mining::TemplateEvent;
use adit_mining::providers::Chosen;
use adit_mining_server::{LinkState, REFUSED, setup_connection};
use adit_sv2::frame::Header;
use adit_sv2::keys::Sv2Url;
use adit_sv2::messages::common::{Common, PROTOCOL_TEMPLATE_DISTRIBUTION};
use adit_sv2::messages::template_distribution::{CoinbaseOutputConstraints, TemplateDistribution};
use adit_transport::{Event, Now, Outbox, PeerId};

use super::{Core, Effect};

/// One `[[template_provider]]`.
#[derive(Debug)]
pub(super) struct Provider {
    /// `host:port` as configured: its name in logs, metrics and kept blocks.
    pub(super) name: String,
    url: Sv2Url,
    pub(super) state: LinkState,
    /// When the last template came, milliseconds since 1970.
    pub(super) last_template_unix_ms: Option<u64>,
    /// What it was told last that we add to a coinbase: bytes and sigops.
    pub(super) told: Option<(u32, u16)>,
}

/// Name and version that servers are told.
pub(super) const PROGRAM: (&str, &str) =
    ("adit-jdc", concat!("adit-jdc ", env!("CARGO_PKG_VERSION")));

impl Provider {
    pub(super) fn new(name: String, url: Sv2Url) -> Self {
        Self { name, url, state: LinkState::default(), last_template_unix_ms: None, told: None }
    }

    /// The connection, where it may be asked for things: not before it was told what we add to coinbases (spec 7).
    pub(super) fn ready(&self) -> Option<PeerId> {
        self.state.ready().filter(|_| self.told.is_some())
    }
}

impl Core {
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
                    self.lose_provider(index, "replaced by a newer connection");
                }
                let provider = &mut self.providers[index];
                provider.state = LinkState::SettingUp(peer, now.instant);
                let protocol = PROTOCOL_TEMPLATE_DISTRIBUTION;
                out.send(peer, &setup_connection(PROGRAM, protocol, 0, &provider.url));
            }
            _ if provider.state.peer() != Some(peer) => {}
            Event::Frame(header, payload) => {
                if let Err(reason) = self.provider_frame(index, peer, &header, payload, now, out) {
                    out.close(peer, reason);
                    self.lose_provider(index, reason);
                }
            }
            Event::Line(_) => {
                out.close(peer, "line-on-a-frame-connection");
                self.lose_provider(index, "line-on-a-frame-connection");
            }
            Event::Closed(reason) => self.lose_provider(index, reason),
        }
    }

    pub(super) fn provider_tick(&mut self, now: Now, out: &mut Outbox<Effect>) {
        for index in 0..self.providers.len() {
            if let Some(peer) = self.providers[index].state.overdue(now) {
                out.close(peer, "no-answer-to-setup-connection");
                self.lose_provider(index, "no answer to SetupConnection");
            }
        }
    }

    /// Puts the best provider's work into force.
    pub(super) fn choose_provider(&mut self, now: Now) {
        let Some(Chosen { provider, left_behind }) = self.templates.choose(now.instant) else {
            return;
        };
        if let Some(left) = left_behind {
            let left = &self.providers[left].name;
            tracing::warn!(provider = left, "this template provider is behind another one");
        }
        tracing::info!(provider = self.providers[provider].name, "templates come from here now");
    }

    /// Tells providers what is added to their coinbases, where that has changed (spec 7.1). Not before it is known, or
    /// `anyway`: a template for too small a coinbase might become too large a block.
    pub(super) fn tell_constraints(&mut self, anyway: bool, out: &mut Outbox<Effect>) {
        let Some(wanted) = self.constraints(anyway) else { return };
        for provider in &mut self.providers {
            let Some(peer) = provider.state.ready() else { continue };
            if provider.told != Some(wanted) {
                provider.told = Some(wanted);
                let (size, sigops) = wanted;
                tracing::debug!(provider = provider.name, size, sigops, "outputs to be added");
                let constraints = CoinbaseOutputConstraints {
                    coinbase_output_max_additional_size: size,
                    coinbase_output_max_additional_sigops: sigops,
                };
                out.send(peer, &constraints);
            }
        }
    }

    /// Handles a frame; an error is the reason to close the connection.
    fn provider_frame(
        &mut self,
        index: usize,
        peer: PeerId,
        header: &Header,
        payload: &[u8],
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Result<(), &'static str> {
        if header.extension_type != 0 {
            return Ok(()); // none was negotiated (spec 3.4)
        }
        let provider = &mut self.providers[index];
        if provider.state.ready().is_none() {
            match answer_to_setup(&provider.name, header, payload)? {
                Ok(_flags) => {
                    provider.state = LinkState::Ready(peer);
                    provider.told = None;
                    tracing::info!(provider = provider.name, "connected to the template provider");
                    self.metrics.connected("template-provider", &provider.name, true);
                    self.solutions.provider_ready(&provider.name);
                    // Of one that is back it is known what to say.
                    let back = provider.last_template_unix_ms.is_some();
                    self.tell_constraints(back, out);
                    self.ask_for_data_again(index, out);
                }
                Err(reason) => {
                    out.close(peer, REFUSED);
                    self.lose_provider(index, &reason);
                }
            }
            return Ok(());
        }
        if Common::decode(header, payload).is_ok() {
            return Ok(()); // a Reconnect: it closes when it goes
        }
        let message = match TemplateDistribution::decode(header, payload) {
            Ok((message, _)) => message,
            Err(error) => {
                tracing::warn!(provider = provider.name, %error, "frame cannot be read");
                return Err("malformed-frame");
            }
        };
        match message {
            TemplateDistribution::NewTemplate(message) => {
                provider.last_template_unix_ms = Some(now.unix_ms);
                self.templates.new_template(index, &message, now.instant);
            }
            TemplateDistribution::SetNewPrevHash(message) => {
                let known = self.templates.tracker(index).tip().map(|tip| tip.prev_hash);
                let event = self.templates.set_new_prev_hash(index, &message, now.instant);
                if let TemplateEvent::TipAhead(_) = event {
                    let name = &provider.name;
                    tracing::warn!(provider = name, "new tip without a template for it");
                }
                let news = known != Some(message.prev_hash);
                let counts = self.templates.in_use() == Some(index) && news;
                let work = self.templates.tracker(index).work();
                let next = work.and_then(|work| work.template().height());
                let (hash, history) = (&message.prev_hash, &mut self.history);
                self.solutions.new_tip(hash, next, counts, history, &self.metrics, out);
            }
            TemplateDistribution::RequestTransactionDataSuccess(message) => {
                self.transaction_data(index, &message);
            }
            TemplateDistribution::RequestTransactionDataError(message) => {
                let code = message.error_code.to_clean_string();
                self.no_transaction_data(index, message.template_id, &code);
            }
            TemplateDistribution::CoinbaseOutputConstraints(_)
            | TemplateDistribution::RequestTransactionData(_)
            | TemplateDistribution::SubmitSolution(_) => return Err("unexpected-message"),
        }
        Ok(())
    }

    fn lose_provider(&mut self, index: usize, reason: &str) {
        let provider = &mut self.providers[index];
        tracing::warn!(provider = provider.name, reason, "template provider lost");
        self.metrics.connected("template-provider", &provider.name, false);
        provider.state = LinkState::Down(reason.to_owned());
        self.templates.disconnected(index);
    }
}

/// The first frame of a server: its flags, or why it refuses us. The outer error is the reason to close.
pub(super) fn answer_to_setup(
    name: &str,
    header: &Header,
    payload: &[u8],
) -> Result<Result<u32, String>, &'static str> {
    match Common::decode(header, payload) {
        Ok((Common::SetupConnectionSuccess(message), _)) => Ok(Ok(message.flags)),
        Ok((Common::SetupConnectionError(message), _)) => {
            tracing::warn!(server = name, %message, "connection refused");
            let code = message.error_code.to_clean_string();
            Ok(Err(format!("it refuses us: {code} (flags {:#x})", message.flags)))
        }
        Ok(_) => Err("unexpected-message"),
        Err(error) => {
            tracing::warn!(server = name, %error, "frame cannot be read");
            Err("malformed-frame")
        }
    }
}
