//! The connection to a Job Declarator Server: tokens in stock, jobs declared, transactions provided.

use std::collections::VecDeque;
use std::time::Instant;

use adit_mining_server::{LinkState, REFUSED, setup_connection};
use adit_sv2::codec::{B016M, Seq064K, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::keys::Sv2Url;
use adit_sv2::messages::common::{Common, PROTOCOL_JOB_DECLARATION};
use adit_sv2::messages::job_declaration::{
    AllocateMiningJobToken, AllocateMiningJobTokenSuccess, DECLARE_TX_DATA, JobDeclaration,
    ProvideMissingTransactions, ProvideMissingTransactionsSuccess,
};
use adit_transport::{Event, Now, Outbox, PeerId};

use super::provider::{PROGRAM, answer_to_setup};
use super::{Core, Effect};
use crate::config::Mode;

/// The JDS of an upstream.
#[derive(Debug)]
pub(super) struct Jds {
    /// `host:port`.
    pub(super) name: String,
    url: Sv2Url,
    pub(super) state: LinkState,
    /// It was tried to connect, or it was lost.
    pub(super) tried: bool,
    /// Not used yet, oldest first.
    pub(super) tokens: VecDeque<Token>,
    /// Requests for tokens that are not answered.
    asked: Vec<(u32, Instant)>,
    last_request_id: u32,
}

/// From `AllocateMiningJobToken.Success`.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) bytes: Vec<u8>,
    came: Instant,
}

impl Jds {
    pub(super) fn new(url: &Sv2Url) -> Self {
        Self {
            name: url.host_port(),
            url: url.clone(),
            state: LinkState::default(),
            tried: false,
            tokens: VecDeque::new(),
            asked: Vec::new(),
            last_request_id: 0,
        }
    }

    /// An id for a request, unique on the connection.
    pub(super) fn next_request_id(&mut self) -> u32 {
        self.last_request_id = self.last_request_id.wrapping_add(1);
        self.last_request_id
    }

    /// Asks for as many tokens as are missing.
    pub(super) fn restock(
        &mut self,
        identity: &str,
        stock: usize,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Some(peer) = self.state.ready() else { return };
        while self.tokens.len() + self.asked.len() < stock {
            let request_id = self.next_request_id();
            self.asked.push((request_id, now.instant));
            let user_identifier = Str0255::cut(identity);
            out.send(peer, &AllocateMiningJobToken { user_identifier, request_id });
        }
    }
}

impl Core {
    pub(super) fn jds_event(
        &mut self,
        index: usize,
        peer: PeerId,
        event: Event<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let full = self.settings.mode == Mode::FullTemplate;
        let jds = &mut self.upstreams[index].jds;
        match event {
            Event::Opened { .. } => {
                if let Some(old) = jds.state.peer() {
                    out.close(old, "replaced by a newer connection");
                    self.lose_jds(index, "replaced by a newer connection");
                }
                let jds = &mut self.upstreams[index].jds;
                jds.state = LinkState::SettingUp(peer, now.instant);
                let flags = if full { DECLARE_TX_DATA } else { 0 };
                out.send(
                    peer,
                    &setup_connection(PROGRAM, PROTOCOL_JOB_DECLARATION, flags, &jds.url),
                );
            }
            _ if jds.state.peer() != Some(peer) => {}
            Event::Frame(header, payload) => {
                if let Err(reason) = self.jds_frame(index, peer, &header, payload, now, out) {
                    out.close(peer, reason);
                    self.lose_jds(index, reason);
                }
            }
            Event::Line(_) => {
                out.close(peer, "line-on-a-frame-connection");
                self.lose_jds(index, "line-on-a-frame-connection");
            }
            Event::Closed(reason) => self.lose_jds(index, reason),
        }
    }

    pub(super) fn jds_tick(&mut self, index: usize, now: Now, out: &mut Outbox<Effect>) {
        let (timeout, age) = (self.settings.answer_timeout, self.settings.token_max_age);
        let jds = &mut self.upstreams[index].jds;
        let Some(peer) = jds.state.peer() else { return };
        let late = |since: Instant| now.instant.duration_since(since) >= timeout;
        if jds.state.overdue(now).is_some() {
            out.close(peer, "no-answer-to-setup-connection");
            self.lose_jds(index, "no answer to SetupConnection");
        } else if jds.asked.iter().any(|(_, since)| late(*since)) {
            self.fail_upstream(index, "its JDS gives no token", now);
            out.close(peer, "no-token-in-time");
            self.lose_jds(index, "it gives no token");
        } else {
            jds.tokens.retain(|token| now.instant.duration_since(token.came) < age);
            self.restock(index, now, out);
        }
    }

    /// Keeps the stock of tokens.
    pub(super) fn restock(&mut self, index: usize, now: Now, out: &mut Outbox<Effect>) {
        let upstream = &mut self.upstreams[index];
        upstream.jds.restock(&upstream.identity, self.settings.tokens, now, out);
    }

    fn lose_jds(&mut self, index: usize, reason: &str) {
        let upstream = &mut self.upstreams[index];
        let jds = &mut upstream.jds;
        tracing::warn!(jds = jds.name, reason, "JDS lost");
        self.metrics.connected("jds", &jds.name, false);
        jds.state = LinkState::Down(reason.to_owned());
        jds.tried = true;
        // The next process may not know them.
        jds.tokens.clear();
        jds.asked.clear();
        upstream.well_since = None;
        self.desk.jds_lost(index);
    }

    /// Handles a frame; an error is the reason to close the connection.
    fn jds_frame(
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
        let jds = &mut self.upstreams[index].jds;
        if jds.state.ready().is_none() {
            match answer_to_setup(&jds.name, header, payload)? {
                Ok(_flags) => {
                    jds.state = LinkState::Ready(peer);
                    tracing::info!(jds = jds.name, "connected to the JDS");
                    self.metrics.connected("jds", &jds.name, true);
                    self.restock(index, now, out);
                }
                Err(reason) => {
                    out.close(peer, REFUSED);
                    self.lose_jds(index, &reason);
                }
            }
            return Ok(());
        }
        if Common::decode(header, payload).is_ok() {
            return Ok(()); // a Reconnect: it closes when it goes
        }
        let (message, _) = JobDeclaration::decode(header, payload).map_err(|error| {
            tracing::warn!(jds = jds.name, %error, "frame cannot be read");
            "malformed-frame"
        })?;
        match message {
            JobDeclaration::AllocateMiningJobTokenSuccess(m) => return self.token(index, &m, now),
            JobDeclaration::DeclareMiningJobSuccess(m) => {
                let token = m.new_mining_job_token.as_bytes();
                self.declared(index, m.request_id, token, out);
            }
            JobDeclaration::DeclareMiningJobError(m) => {
                let code = m.error_code.to_clean_string();
                let details = String::from_utf8_lossy(m.error_details.as_bytes());
                let details: String =
                    details.chars().filter(|c| !c.is_control()).take(MAX_DETAILS).collect();
                self.declaration_refused(index, m.request_id, &code, &details, now);
            }
            JobDeclaration::ProvideMissingTransactions(m) => {
                return self.provide_transactions(index, peer, &m, out);
            }
            JobDeclaration::AllocateMiningJobToken(_)
            | JobDeclaration::DeclareMiningJob(_)
            | JobDeclaration::ProvideMissingTransactionsSuccess(_)
            | JobDeclaration::PushSolution(_) => return Err("unexpected-message"),
        }
        Ok(())
    }

    fn token(
        &mut self,
        index: usize,
        message: &AllocateMiningJobTokenSuccess<'_>,
        now: Now,
    ) -> Result<(), &'static str> {
        let upstream = &mut self.upstreams[index];
        let asked = &mut upstream.jds.asked;
        let Some(at) = asked.iter().position(|(id, _)| *id == message.request_id) else {
            return Ok(());
        };
        asked.swap_remove(at);
        if !upstream.set_outputs(message.coinbase_tx_outputs.as_bytes()) {
            return Err("token-without-outputs");
        }
        let bytes = message.mining_job_token.as_bytes().to_vec();
        upstream.jds.tokens.push_back(Token { bytes, came: now.instant });
        Ok(())
    }

    /// Sends the transactions that the JDS does not know (spec 6.4.8).
    fn provide_transactions(
        &mut self,
        index: usize,
        peer: PeerId,
        message: &ProvideMissingTransactions<'_>,
        out: &mut Outbox<Effect>,
    ) -> Result<(), &'static str> {
        let request_id = message.request_id;
        let Some(data) = self.desk.declared_data(index, request_id) else { return Ok(()) };
        let mut wanted = vec![false; data.len()];
        let mut transactions = Vec::with_capacity(message.unknown_tx_position_list.len());
        for position in message.unknown_tx_position_list.iter().map(usize::from) {
            // Each once, so that a few bytes are not answered with many blocks.
            match wanted.get_mut(position) {
                Some(seen @ false) => *seen = true,
                _ => return Err("transactions-that-are-not-there"),
            }
            let transaction = data.transaction(position).and_then(|tx| B016M::new(tx).ok());
            transactions.push(transaction.ok_or("transactions-that-are-not-there")?);
        }
        let transaction_list =
            Seq064K::new(&transactions).map_err(|_| "transactions-that-are-not-there")?;
        out.send(peer, &ProvideMissingTransactionsSuccess { request_id, transaction_list });
        self.metrics.transactions_provided(transactions.len() as u64);
        Ok(())
    }
}

/// Characters of a JDS's explanation that are logged.
const MAX_DETAILS: usize = 300;
