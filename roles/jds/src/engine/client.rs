//! A connection: its setup, and what it may say afterwards.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_sv2::codec::{Seq064K, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::messages::common::{
    Common, PROTOCOL_JOB_DECLARATION, PROTOCOL_VERSION, SetupConnection, SetupConnectionError,
    SetupConnectionSuccess,
};
use adit_sv2::messages::extensions::{Extensions, RequestExtensionsError};
use adit_sv2::messages::job_declaration::{DECLARE_TX_DATA, JobDeclaration};
use adit_transport::{Now, Outbox, PeerId};

use super::bucket::{Bucket, Rate};
use super::declare::Declaration;
use super::solutions::HeldSolution;
use super::tokens::TokenRequest;
use super::{Effect, Jds, Job, Settings};

/// A connected client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) remote: SocketAddr,
    pub(super) opened: Instant,
    /// Of its `SetupConnection`, once that was accepted.
    pub(super) flags: Option<u32>,
    pub(super) vendor: String,
    /// Declarations not answered yet, oldest first.
    pub(super) pending: Vec<Declaration>,
    /// Newest first.
    pub(super) accepted: VecDeque<Arc<Job>>,
    /// Solutions that no job was known for.
    pub(super) solutions: VecDeque<HeldSolution>,
    /// Asked for faster than tokens are given out.
    pub(super) token_requests: VecDeque<TokenRequest>,
    pub(super) tokens: Bucket,
    pub(super) declarations: Bucket,
    pub(super) pushes: Bucket,
    /// Declarations over the rate since the last one within it.
    pub(super) over_rate: u32,
    /// For `/status`.
    pub(super) accepted_total: u64,
    pub(super) refused_total: u64,
}

impl Client {
    pub(super) fn new(remote: SocketAddr, now: Instant, settings: &Settings) -> Self {
        Self {
            remote,
            opened: now,
            flags: None,
            vendor: String::new(),
            pending: Vec::new(),
            accepted: VecDeque::new(),
            solutions: VecDeque::new(),
            token_requests: VecDeque::new(),
            tokens: Bucket::new(settings.tokens, now),
            declarations: Bucket::new(settings.declarations, now),
            pushes: Bucket::new(PUSHES, now),
            over_rate: 0,
            accepted_total: 0,
            refused_total: 0,
        }
    }

    /// Whether it reveals its transactions.
    pub(super) fn declares(&self) -> bool {
        self.flags.is_some_and(|flags| flags & DECLARE_TX_DATA != 0)
    }
}

impl Jds {
    pub(super) fn on_setup_frame(
        &mut self,
        peer: PeerId,
        header: &Header,
        payload: &[u8],
        out: &mut Outbox<Effect>,
    ) {
        match Common::decode(header, payload) {
            Ok((Common::SetupConnection(setup), _)) => self.on_setup(peer, &setup, out),
            Ok(_) => self.close(peer, OUT_OF_ORDER, out),
            Err(error) => {
                tracing::debug!(%peer, %error, "not a SetupConnection");
                self.close(peer, NOT_SETUP, out);
            }
        }
    }

    fn on_setup(&mut self, peer: PeerId, setup: &SetupConnection<'_>, out: &mut Outbox<Effect>) {
        let unsupported = setup.flags & !DECLARE_TX_DATA;
        let refusal = if setup.protocol != PROTOCOL_JOB_DECLARATION {
            Some(("unsupported-protocol", 0))
        } else if !(setup.min_version..=setup.max_version).contains(&PROTOCOL_VERSION) {
            Some(("protocol-version-mismatch", 0))
        } else if unsupported != 0 {
            Some(("unsupported-feature-flags", unsupported))
        } else if setup.flags & DECLARE_TX_DATA == 0 && !self.settings.coinbase_only {
            // The flag is supported, even asked for: none of those that cause an error.
            Some(("missing-declare-tx-data-flag", 0))
        } else {
            None
        };
        if let Some((error_code, flags)) = refusal {
            out.send(peer, &SetupConnectionError { flags, error_code: Str0255::cut(error_code) });
            return self.close(peer, error_code, out);
        }
        if let Some(client) = self.clients.get_mut(&peer) {
            client.flags = Some(setup.flags);
            client.vendor = setup.vendor.to_clean_string();
            // None is defined for this message.
            out.send(peer, &SetupConnectionSuccess { used_version: PROTOCOL_VERSION, flags: 0 });
        }
    }

    pub(super) fn on_declaration_frame(
        &mut self,
        peer: PeerId,
        header: &Header,
        payload: &[u8],
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        use JobDeclaration as Jd;
        match JobDeclaration::decode(header, payload) {
            Ok((Jd::AllocateMiningJobToken(request), _)) => {
                self.on_allocate(peer, &request, now, out)
            }
            Ok((Jd::DeclareMiningJob(message), _)) => self.on_declare(peer, &message, now, out),
            Ok((Jd::ProvideMissingTransactionsSuccess(message), _)) => {
                self.on_transactions(peer, &message, now, out)
            }
            Ok((Jd::PushSolution(solution), _)) => self.on_solution(peer, &solution, now, out),
            Ok((
                Jd::AllocateMiningJobTokenSuccess(_)
                | Jd::ProvideMissingTransactions(_)
                | Jd::DeclareMiningJobSuccess(_)
                | Jd::DeclareMiningJobError(_),
                _,
            )) => self.close(peer, SERVERS_MESSAGE, out),
            Err(error) => {
                tracing::debug!(%peer, %error, "undecodable");
                self.close(peer, UNDECODABLE, out);
            }
        }
    }

    /// Extension 0x0001: no other one is spoken here, which is an answer too.
    pub(super) fn on_extensions_frame(
        &mut self,
        peer: PeerId,
        header: &Header,
        payload: &[u8],
        out: &mut Outbox<Effect>,
    ) {
        let Ok((Extensions::RequestExtensions(request), _)) = Extensions::decode(header, payload)
        else {
            return self.close(peer, UNDECODABLE, out);
        };
        let answer = RequestExtensionsError {
            request_id: request.request_id,
            unsupported_extensions: request.requested_extensions,
            required_extensions: Seq064K::default(),
        };
        out.send(peer, &answer);
    }

    /// Connections that never say who they are only take up places.
    pub(super) fn close_silent(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let late = |client: &Client| {
            client.flags.is_none()
                && now.instant.saturating_duration_since(client.opened) >= SETUP_DEADLINE
        };
        let late: Vec<_> =
            self.clients.iter().filter(|(_, client)| late(client)).map(|(peer, _)| *peer).collect();
        for peer in late {
            self.close(peer, "no SetupConnection in time", out);
        }
    }
}

/// Solutions per client: a block each, so more come only where blocks cost nothing.
const PUSHES: Rate = Rate { burst: 200, per_second: 50.0 };
/// From connecting to `SetupConnection`.
const SETUP_DEADLINE: Duration = Duration::from_secs(10);

const OUT_OF_ORDER: &str = "message out of order";
const SERVERS_MESSAGE: &str = "message that only a server sends";
const NOT_SETUP: &str = "not a SetupConnection";
pub(super) const UNDECODABLE: &str = "undecodable message";
