//! The server's side of the Template Distribution Protocol (spec 7), without sockets, node or clock.
//!
//! Building a template and storing it takes milliseconds and a disk, so the driver does that: the engine says which
//! [`Constraints`] it needs templates for ([`TemplateProvider::demand`], [`TemplateProvider::wanted`]) and the driver brings
//! them ([`TemplateProvider::publish`], [`TemplateProvider::supply`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_mining::BlockHash;
use adit_sv2::codec::{B016M, B064K, Seq064K, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::messages::common::{
    Common, PROTOCOL_TEMPLATE_DISTRIBUTION, PROTOCOL_VERSION, SetupConnection,
    SetupConnectionError, SetupConnectionSuccess,
};
use adit_sv2::messages::extensions::{Extensions, RequestExtensionsError};
use adit_sv2::messages::template_distribution::{
    CoinbaseOutputConstraints, RequestTransactionData, RequestTransactionDataError,
    RequestTransactionDataSuccess, SubmitSolution, TemplateDistribution,
};
use adit_transport::{Engine, Event, Now, Outbox, PeerId};

use crate::metrics::Metrics;
use crate::solution::Found;
use crate::template::{Constraints, Snapshot, Template, Tip};

/// Every connection is a client's.
#[derive(Clone, Copy, Debug)]
pub struct Client;

/// What the engine asks of its driver.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Some client lacks a template: see [`TemplateProvider::wanted`].
    Wanted,
    /// A block was found: see [`TemplateProvider::take_found`].
    Found,
}

/// The engine.
pub struct TemplateProvider {
    clients: BTreeMap<PeerId, Connection>,
    work: Option<Work>,
    /// All templates that a solution may be for.
    templates: BTreeMap<u64, Arc<Template>>,
    /// Each tip of which templates are kept, with the first one's id; oldest first.
    tips: VecDeque<(BlockHash, u64)>,
    /// Bounded by the work that is in each of them, and by [`MAX_FOUND`].
    found: VecDeque<Found>,
    fee_threshold: u64,
    metrics: Metrics,
}

/// The newest offer of the node and what was made of it.
struct Work {
    snapshot: Arc<Snapshot>,
    built: BTreeMap<Constraints, Arc<Template>>,
}

impl Work {
    /// An empty block suits everybody alike.
    fn key(snapshot: &Snapshot, constraints: Constraints) -> Constraints {
        if snapshot.transactions.is_empty() { Constraints::default() } else { constraints }
    }

    fn template_for(&self, constraints: Constraints) -> Option<&Arc<Template>> {
        self.built.get(&Self::key(&self.snapshot, constraints))
    }
}

struct Connection {
    remote: SocketAddr,
    opened: Instant,
    setup: bool,
    vendor: String,
    constraints: Option<Constraints>,
    /// Id of the newest template sent.
    last_id: u64,
    /// Set while the newest work for the client's constraints is still to be sent.
    owed: bool,
    /// What the client works on.
    basis: Option<(BlockHash, u32)>,
    sent: u64,
    /// Constraints that it said since the newest work.
    asked: u32,
}

/// A connected client, for `/status`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ClientStatus {
    /// Address of the other end.
    pub remote: SocketAddr,
    /// Its name for itself.
    pub vendor: String,
    /// Bytes of outputs that it adds to the coinbase; none before it said so.
    pub coinbase_output_max_additional_size: Option<u32>,
    /// Sigops of these outputs.
    pub coinbase_output_max_additional_sigops: Option<u16>,
    /// Templates sent.
    pub templates_sent: u64,
    /// Id of the newest one; 0 before the first.
    pub last_template_id: u64,
}

impl TemplateProvider {
    /// An engine without any work. Templates are sent anew where they bring at least `fee_threshold` satoshis more.
    pub fn new(fee_threshold: u64, metrics: Metrics) -> Self {
        Self {
            clients: BTreeMap::new(),
            work: None,
            templates: BTreeMap::new(),
            tips: VecDeque::new(),
            found: VecDeque::new(),
            fee_threshold,
            metrics,
        }
    }

    /// Remembers templates of earlier runs, in the order of their ids, so that solutions of them are still taken.
    pub fn restore(&mut self, templates: Vec<Arc<Template>>) {
        templates.into_iter().for_each(|template| self.remember(template));
    }

    /// Whether `snapshot` is worth sending: a new tip or target, the first transactions of a tip, other rules, or fees above the
    /// threshold.
    pub fn is_news(&self, snapshot: &Snapshot) -> bool {
        let Some(Work { snapshot: current, .. }) = &self.work else { return true };
        basis(&current.tip) != basis(&snapshot.tip)
            || current.version != snapshot.version
            || (current.transactions.is_empty() && !snapshot.transactions.is_empty())
            || snapshot.coinbase_value
                >= current.coinbase_value.saturating_add(self.fee_threshold.max(1))
    }

    /// What templates of `snapshot` are needed for.
    pub fn demand(&self, snapshot: &Snapshot) -> Vec<Constraints> {
        let all = self.clients.values().filter_map(|client| client.constraints);
        let keys: BTreeSet<_> = all.map(|constraints| Work::key(snapshot, constraints)).collect();
        keys.into_iter().collect()
    }

    /// What templates are needed for that were not built yet, with the offer to build them from.
    pub fn wanted(&self) -> Option<(Arc<Snapshot>, Vec<Constraints>)> {
        let work = self.work.as_ref()?;
        let lacking = self
            .clients
            .values()
            .filter(|client| client.owed)
            .filter_map(|client| client.constraints);
        let keys: BTreeSet<_> =
            lacking.map(|constraints| Work::key(&work.snapshot, constraints)).collect();
        (!keys.is_empty()).then(|| (work.snapshot.clone(), keys.into_iter().collect()))
    }

    /// New work for everybody: `templates` were built from `snapshot`, for each of [`demand`](Self::demand), and are stored.
    pub fn publish(
        &mut self,
        snapshot: Arc<Snapshot>,
        templates: Vec<(Constraints, Arc<Template>)>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        for client in self.clients.values_mut() {
            client.owed = client.constraints.is_some();
            client.asked = 0;
        }
        self.work = Some(Work { snapshot, built: BTreeMap::new() });
        self.add(templates, now, out);
    }

    /// Templates that were [`wanted`](Self::wanted).
    pub fn supply(
        &mut self,
        snapshot: &Arc<Snapshot>,
        templates: Vec<(Constraints, Arc<Template>)>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        if self.work.as_ref().is_some_and(|work| Arc::ptr_eq(&work.snapshot, snapshot)) {
            self.add(templates, now, out);
        }
    }

    /// No template can be built for `constraints`: whoever asks for that is sent away.
    pub fn refuse(&mut self, constraints: Constraints, out: &mut Outbox<Effect>) {
        let refused: Vec<_> = self
            .clients
            .iter()
            .filter(|(_, c)| c.constraints == Some(constraints))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in refused {
            self.close(peer, DOES_NOT_FIT, out);
        }
    }

    /// The solved blocks since the last call.
    pub fn take_found(&mut self) -> Vec<Found> {
        self.found.drain(..).collect()
    }

    /// The offer that clients work on.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.work.as_ref().map(|work| &work.snapshot)
    }

    /// The connected clients.
    pub fn clients(&self) -> Vec<ClientStatus> {
        let status = |client: &Connection| ClientStatus {
            remote: client.remote,
            vendor: client.vendor.clone(),
            coinbase_output_max_additional_size: client.constraints.map(|c| c.size),
            coinbase_output_max_additional_sigops: client.constraints.map(|c| c.sigops),
            templates_sent: client.sent,
            last_template_id: client.last_id,
        };
        self.clients.values().map(status).collect()
    }

    fn add(
        &mut self,
        templates: Vec<(Constraints, Arc<Template>)>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        templates.iter().for_each(|(_, template)| self.remember(template.clone()));
        let Some(work) = &mut self.work else { return };
        work.built.extend(templates);
        let mut lacking = false;
        for (peer, client) in &mut self.clients {
            lacking |= !serve(*peer, client, work, &self.metrics, now, out);
        }
        if lacking {
            out.effect(Effect::Wanted);
        }
    }

    fn remember(&mut self, template: Arc<Template>) {
        if self.tips.back().is_none_or(|(prev_hash, _)| *prev_hash != template.tip.prev_hash) {
            self.tips.push_back((template.tip.prev_hash, template.id));
            if self.tips.len() > KEPT_TIPS {
                self.tips.pop_front();
                // Ids only grow, so what is older than the oldest tip's first is of none of them.
                let oldest = self.tips.front().map_or(0, |(_, first)| *first);
                self.templates = self.templates.split_off(&oldest);
            }
        }
        self.templates.insert(template.id, template);
    }

    fn on_setup(&mut self, peer: PeerId, setup: &SetupConnection<'_>, out: &mut Outbox<Effect>) {
        let refusal = if setup.protocol != PROTOCOL_TEMPLATE_DISTRIBUTION {
            Some(("unsupported-protocol", 0))
        } else if !(setup.min_version..=setup.max_version).contains(&PROTOCOL_VERSION) {
            Some(("protocol-version-mismatch", 0))
        } else if setup.flags != 0 {
            // The protocol has no flags.
            Some(("unsupported-feature-flags", setup.flags))
        } else {
            None
        };
        if let Some((error_code, flags)) = refusal {
            out.send(peer, &SetupConnectionError { flags, error_code: Str0255::cut(error_code) });
            return self.close(peer, error_code, out);
        }
        if let Some(client) = self.clients.get_mut(&peer) {
            client.setup = true;
            client.vendor = setup.vendor.to_clean_string();
            out.send(peer, &SetupConnectionSuccess { used_version: PROTOCOL_VERSION, flags: 0 });
        }
    }

    fn on_message(
        &mut self,
        peer: PeerId,
        message: TemplateDistribution<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        use TemplateDistribution as Td;
        let ready = self.clients.get(&peer).is_some_and(|client| client.constraints.is_some());
        match message {
            Td::CoinbaseOutputConstraints(constraints) => {
                self.on_constraints(peer, constraints, now, out)
            }
            Td::RequestTransactionData(request) if ready => self.on_request(peer, request, out),
            // The work is done whoever says so, and in whatever order: after a restart of ours a client may bring its
            // solution first.
            Td::SubmitSolution(solution) => self.on_solution(peer, &solution, out),
            Td::RequestTransactionData(_) => self.close(peer, OUT_OF_ORDER, out),
            Td::NewTemplate(_)
            | Td::SetNewPrevHash(_)
            | Td::RequestTransactionDataSuccess(_)
            | Td::RequestTransactionDataError(_) => self.close(peer, SERVERS_MESSAGE, out),
        }
    }

    fn on_constraints(
        &mut self,
        peer: PeerId,
        message: CoinbaseOutputConstraints,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let constraints = Constraints {
            size: message.coinbase_output_max_additional_size,
            sigops: message.coinbase_output_max_additional_sigops,
        };
        if constraints.reserved_weight() > WEIGHT_LIMIT {
            return self.close(peer, DOES_NOT_FIT, out);
        }
        let Some(client) = self.clients.get_mut(&peer) else { return };
        client.asked += 1;
        if client.asked > ASKED_PER_WORK {
            return self.close(peer, ASKS_TOO_OFTEN, out);
        }
        client.constraints = Some(constraints);
        client.owed = true;
        if let Some(work) = &self.work
            && !serve(peer, client, work, &self.metrics, now, out)
        {
            out.effect(Effect::Wanted);
        }
    }

    fn on_request(
        &mut self,
        peer: PeerId,
        request: RequestTransactionData,
        out: &mut Outbox<Effect>,
    ) {
        let RequestTransactionData { template_id } = request;
        let tip = self.work.as_ref().map(|work| work.snapshot.tip.prev_hash);
        let error_code = match self.templates.get(&template_id) {
            None => "template-id-not-found",
            Some(template) if Some(template.tip.prev_hash) != tip => "stale-template-id",
            Some(template) => {
                let transactions: Result<Vec<_>, _> =
                    template.transactions.iter().map(|t| B016M::new(&t.bytes)).collect();
                // Neither fails for what fits into a block.
                if let Ok(transactions) = transactions
                    && let Ok(transaction_list) = Seq064K::new(&transactions)
                {
                    let excess_data = B064K::default();
                    out.send(
                        peer,
                        &RequestTransactionDataSuccess {
                            template_id,
                            excess_data,
                            transaction_list,
                        },
                    );
                    self.metrics.transaction_data_requests("success");
                    return;
                }
                "template-too-large"
            }
        };
        self.metrics.transaction_data_requests(error_code);
        out.send(
            peer,
            &RequestTransactionDataError { template_id, error_code: Str0255::cut(error_code) },
        );
    }

    fn on_solution(
        &mut self,
        peer: PeerId,
        solution: &SubmitSolution<'_>,
        out: &mut Outbox<Effect>,
    ) {
        let id = solution.template_id;
        let Some(template) = self.templates.get(&id) else {
            tracing::error!(%peer, template_id = id, "solution of an unknown template: no block can be built");
            return self.metrics.solution("unknown-template");
        };
        match Found::check(template, solution) {
            Ok(found) if self.found.len() < MAX_FOUND => {
                self.found.push_back(found);
                out.effect(Effect::Found);
            }
            Ok(found) => {
                tracing::error!(%peer, hash = %found.hash, "block dropped: too many wait for the disk");
                self.metrics.solution("dropped");
            }
            Err(error) => {
                tracing::warn!(%peer, template_id = id, %error, "solution is no block");
                self.metrics.solution("invalid");
            }
        }
    }

    fn close(&mut self, peer: PeerId, reason: &'static str, out: &mut Outbox<Effect>) {
        if let Some(client) = self.clients.remove(&peer) {
            tracing::info!(%peer, remote = %client.remote, reason, "client refused");
        }
        self.metrics.clients(self.clients.len());
        out.close(peer, reason);
    }

    fn on_frame(
        &mut self,
        peer: PeerId,
        header: Header,
        payload: &[u8],
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Some(client) = self.clients.get(&peer) else { return };
        if !client.setup {
            return match Common::decode(&header, payload) {
                Ok((Common::SetupConnection(setup), _)) => self.on_setup(peer, &setup, out),
                Ok(_) => self.close(peer, OUT_OF_ORDER, out),
                Err(error) => {
                    tracing::debug!(%peer, %error, "not a SetupConnection");
                    self.close(peer, NOT_SETUP, out);
                }
            };
        }
        match header.extension_type {
            0 => match TemplateDistribution::decode(&header, payload) {
                Ok((message, _)) => self.on_message(peer, message, now, out),
                Err(error) => {
                    tracing::debug!(%peer, %error, "undecodable");
                    self.close(peer, UNDECODABLE, out);
                }
            },
            1 => match Extensions::decode(&header, payload) {
                Ok((Extensions::RequestExtensions(request), _)) => {
                    out.send(
                        peer,
                        &RequestExtensionsError {
                            request_id: request.request_id,
                            unsupported_extensions: request.requested_extensions,
                            required_extensions: Seq064K::default(),
                        },
                    );
                }
                _ => self.close(peer, UNDECODABLE, out),
            },
            // Of an extension that was not negotiated: to be ignored (spec 3.4).
            _ => {}
        }
    }
}

/// What `SetNewPrevHash` tells. On the public testnets the target falls on one and the same tip, where no block is found
/// for long: who goes on with the former one finds blocks that are none.
fn basis(tip: &Tip) -> (BlockHash, u32) {
    (tip.prev_hash, tip.n_bits)
}

/// Sends a client what it is owed. False if that is not there.
fn serve(
    peer: PeerId,
    client: &mut Connection,
    work: &Work,
    metrics: &Metrics,
    now: Now,
    out: &mut Outbox<Effect>,
) -> bool {
    let Some(constraints) = client.constraints.filter(|_| client.owed) else { return true };
    let newer = work.template_for(constraints).filter(|template| template.id > client.last_id);
    let Some(template) = newer else { return false };
    let future = client.basis != Some(basis(&template.tip));
    if template.new_template(future, |message| out.send(peer, message)).is_err() {
        return false;
    }
    if future {
        out.send(peer, &template.set_new_prev_hash(now.unix_secs()));
        client.basis = Some(basis(&template.tip));
    }
    client.owed = false;
    client.last_id = template.id;
    client.sent += 1;
    metrics.template_sent(future, template.transactions.is_empty());
    true
}

impl Engine for TemplateProvider {
    type Link = Client;
    type Effect = Effect;

    fn handle(
        &mut self,
        peer: PeerId,
        _: Client,
        event: Event<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        match event {
            Event::Opened { remote } => {
                let connection = Connection {
                    remote,
                    opened: now.instant,
                    setup: false,
                    vendor: String::new(),
                    constraints: None,
                    last_id: 0,
                    owed: false,
                    basis: None,
                    sent: 0,
                    asked: 0,
                };
                self.clients.insert(peer, connection);
                self.metrics.clients(self.clients.len());
            }
            Event::Frame(header, payload) => self.on_frame(peer, header, payload, now, out),
            Event::Line(_) => self.close(peer, UNDECODABLE, out),
            Event::Closed(_) => {
                self.clients.remove(&peer);
                self.metrics.clients(self.clients.len());
            }
        }
    }

    fn tick(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let late = |c: &Connection| {
            c.constraints.is_none()
                && now.instant.saturating_duration_since(c.opened) >= SETUP_DEADLINE
        };
        let late: Vec<_> =
            self.clients.iter().filter(|(_, c)| late(c)).map(|(peer, _)| *peer).collect();
        for peer in late {
            self.close(peer, "no CoinbaseOutputConstraints in time", out);
        }
    }
}

/// Templates of this tip and of the two before are kept: a solution of those is a block that may still win.
pub const KEPT_TIPS: usize = 3;

/// Blocks that wait for the disk. More come only on a chain where blocks cost nothing, or through a broken client.
const MAX_FOUND: usize = 4096;
/// Constraints of one client for one offer of the node: each may cost a template, which is kept for three tips.
const ASKED_PER_WORK: u32 = 16;
/// A connection that says nothing useful for so long only takes up a place.
const SETUP_DEADLINE: Duration = Duration::from_secs(10);
/// Of every block.
const WEIGHT_LIMIT: u64 = 4_000_000;

const OUT_OF_ORDER: &str = "message out of order";
const SERVERS_MESSAGE: &str = "message that only a server sends";
const NOT_SETUP: &str = "not a SetupConnection";
const UNDECODABLE: &str = "undecodable message";
const DOES_NOT_FIT: &str = "coinbase outputs do not fit into a block";
const ASKS_TOO_OFTEN: &str = "coinbase outputs change too often";

#[cfg(test)]
mod tests;
