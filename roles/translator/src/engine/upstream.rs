//! What is known of the connection to an upstream.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_mining::{Job, Tip};
use adit_sv2::codec::Str0255;
use adit_sv2::messages::mining::{CloseChannel, NewExtendedMiningJob, SetNewPrevHash};
use adit_transport::{DialTarget, Outbox, PeerId};

use super::Effect;
use super::aggregate::Aggregate;
use super::channel::{Channel, FutureJob, Violation, keep_future};
use super::miner::{Miner, Opening};
use super::payout::Verify;

/// Jobs that are looked through for one that another channel was sent already.
const SHARED_JOBS: usize = 4;

/// One connection to an upstream, or the place of one that is not there.
#[derive(Debug)]
pub(super) struct Upstream {
    /// Which of the list.
    pub(super) index: usize,
    /// Where it was dialled.
    pub(super) target: DialTarget,
    pub(super) stage: Stage,
    /// When it last said something, or nothing was expected of it.
    pub(super) heard: Instant,
    /// Since when channels could be opened.
    pub(super) ready: Instant,
    /// Since when one was open.
    pub(super) opened: Instant,
    /// It gave work at least once; for the channel of all, since when.
    pub(super) works_since: Option<Instant>,
    /// It has refused channels, and opened none since.
    pub(super) refuses_since: Option<Instant>,
    /// It allows no version rolling.
    pub(super) fixed_version: bool,
    /// Each share names its worker (extension 0x0002).
    pub(super) worker_names: bool,
    /// Channel id to miner.
    pub(super) channels: HashMap<u32, PeerId>,
    groups: HashMap<u32, Group>,
    /// Requests for channels that are not answered yet, by id.
    pub(super) requests: HashMap<u32, Request>,
    /// Since when channels are asked for and nothing is answered.
    unanswered_since: Option<Instant>,
    /// It has answered a request at least once.
    answers: bool,
    /// When the latest of the requests of miners that were answered was made.
    answered_until: Option<Instant>,
    /// The request for the channel of all.
    pub(super) request_of_all: Option<u32>,
    /// The channel of all, before it has work, or as long as another upstream is worked for.
    pub(super) of_all: Option<Aggregate>,
    next_request_id: u32,
    /// Miners that wait for a request; some may have left.
    pub(super) waiting: VecDeque<PeerId>,
    shared: VecDeque<SharedJob>,
    tip: Option<Arc<Tip>>,
}

/// How far the connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// There is none.
    Down,
    /// `SetupConnection` is not answered yet.
    SettingUp { peer: PeerId, since: Instant },
    /// `RequestExtensions` is not answered yet.
    Negotiating { peer: PeerId, since: Instant },
    /// Channels can be opened.
    Ready { peer: PeerId },
}

impl Stage {
    pub(super) fn peer(self) -> Option<PeerId> {
        match self {
            Self::Down => None,
            Self::SettingUp { peer, .. }
            | Self::Negotiating { peer, .. }
            | Self::Ready { peer } => Some(peer),
        }
    }
}

/// A connection that was left for another, and is kept until what is on its way has come.
#[derive(Debug)]
pub(super) struct Retiring {
    pub(super) peer: PeerId,
    pub(super) since: Instant,
    /// Its channels, by id.
    pub(super) channels: HashMap<u32, PeerId>,
    /// Since when nobody works on its jobs any more.
    pub(super) unused: Option<Instant>,
}

/// A miner's request for a channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) peer: PeerId,
    at: Instant,
}

/// A group of channels, and the future jobs that were sent to it.
#[derive(Debug, Default)]
struct Group {
    members: BTreeSet<u32>,
    futures: Vec<FutureJob>,
}

/// A job as it came: servers without groups send the same to each channel.
#[derive(Debug)]
struct SharedJob {
    full_extranonce_size: usize,
    /// The payload without its channel id.
    payload: Box<[u8]>,
    job: Arc<Job>,
}

impl Upstream {
    /// The place of a connection that is not there.
    pub(super) fn down(target: DialTarget, now: Instant) -> Self {
        Self {
            index: 0,
            target,
            stage: Stage::Down,
            heard: now,
            ready: now,
            opened: now,
            works_since: None,
            refuses_since: None,
            fixed_version: false,
            worker_names: false,
            channels: HashMap::new(),
            groups: HashMap::new(),
            requests: HashMap::new(),
            unanswered_since: None,
            answers: false,
            answered_until: None,
            request_of_all: None,
            of_all: None,
            next_request_id: 0,
            waiting: VecDeque::new(),
            shared: VecDeque::new(),
            tip: None,
        }
    }

    /// A connection that stands.
    pub(super) fn opened(index: usize, target: DialTarget, peer: PeerId, now: Instant) -> Self {
        Self { index, stage: Stage::SettingUp { peer, since: now }, ..Self::down(target, now) }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready { .. })
    }

    fn next_request_id(&mut self) -> u32 {
        self.next_request_id = self.next_request_id.wrapping_add(1);
        self.next_request_id
    }

    /// A channel is asked for: for this miner, or for all.
    pub(super) fn asks(&mut self, miner: Option<PeerId>, now: Instant) -> u32 {
        let request_id = self.next_request_id();
        match miner {
            Some(peer) => drop(self.requests.insert(request_id, Request { peer, at: now })),
            None => self.request_of_all = Some(request_id),
        }
        self.unanswered_since.get_or_insert(now);
        request_id
    }

    /// A request is answered, one way or the other. For which miner it was, if it still waits.
    pub(super) fn answered(&mut self, request_id: u32, now: Instant) -> Option<PeerId> {
        let request = self.requests.remove(&request_id);
        let others = self.request_of_all.is_some_and(|id| id != request_id);
        self.unanswered_since = (others || !self.requests.is_empty()).then_some(now);
        self.answers = true;
        self.answered_until = self.answered_until.max(request.map(|request| request.at));
        request.map(|request| request.peer)
    }

    /// How long channels are asked for and nothing is answered.
    pub(super) fn owes_answers(&self, now: Instant) -> Duration {
        self.unanswered_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Whether it has never answered a request for a channel, and should have.
    pub(super) fn answers_nothing(&self) -> bool {
        self.is_ready() && self.unanswered_since.is_some() && !self.answers
    }

    /// Takes out the requests that are older than `limit` and not waited for any more: one that was made later is
    /// answered, or none is. One that takes them in turn, and slowly, has its time.
    pub(super) fn give_up_requests(&mut self, limit: Duration, now: Instant) -> Vec<PeerId> {
        if self.requests.is_empty() {
            if self.request_of_all.is_none() {
                self.unanswered_since = None;
            }
            return Vec::new();
        }
        let quiet = self.owes_answers(now) >= limit;
        let until = self.answered_until;
        let over = |request: &Request| {
            let age = now.saturating_duration_since(request.at);
            age >= limit && (quiet || until.is_some_and(|until| until > request.at))
        };
        self.requests.extract_if(|_, request| over(request)).map(|(_, r)| r.peer).collect()
    }

    /// Puts a miner into the queue for channels, if that is what it needs.
    pub(super) fn queue(&mut self, peer: PeerId, miner: &mut Miner, now: Instant) {
        if matches!(self.stage, Stage::Ready { .. }) && miner.wants_channel(now) {
            miner.opening = Opening::Queued;
            self.waiting.push_back(peer);
        }
    }

    /// Says that a channel is not needed any more.
    pub(super) fn say_closed(&self, channel_id: u32, reason: &str, out: &mut Outbox<Effect>) {
        if let Stage::Ready { peer } = self.stage {
            out.send(peer, &CloseChannel { channel_id, reason_code: Str0255::cut(reason) });
        }
    }

    /// Whether an id is that of a channel or a group already.
    pub(super) fn is_used(&self, id: u32) -> bool {
        let of_all = self.of_all.as_ref().is_some_and(|of_all| of_all.channel.id == id);
        of_all || self.channels.contains_key(&id) || self.groups.contains_key(&id)
    }

    /// Whether a message with this channel id is for a group.
    pub(super) fn is_group(&self, id: u32) -> bool {
        !self.channels.contains_key(&id) && self.groups.contains_key(&id)
    }

    pub(super) fn add_channel(&mut self, channel: &Channel, peer: PeerId) {
        self.channels.insert(channel.id, peer);
        self.groups.entry(channel.group).or_default().members.insert(channel.id);
    }

    pub(super) fn remove_channel(&mut self, channel: &Channel) {
        self.channels.remove(&channel.id);
        self.leave_group(channel);
    }

    /// Moves a channel to another group. Future jobs of the old one stay its.
    pub(super) fn move_channel(&mut self, channel: &mut Channel, group: u32) {
        let futures = self.futures_of(channel.group).to_vec();
        self.leave_group(channel);
        channel.set_group(group, &futures);
        self.groups.entry(group).or_default().members.insert(channel.id);
    }

    /// Whom a channel id means: a channel, or all of a group. Nobody where it was closed a moment ago.
    pub(super) fn addressed(&self, channel_id: u32) -> Vec<PeerId> {
        if let Some(peer) = self.channels.get(&channel_id) {
            return vec![*peer];
        }
        let members = self.groups.get(&channel_id).into_iter().flat_map(|group| &group.members);
        members.filter_map(|member| self.channels.get(member).copied()).collect()
    }

    /// Future jobs that were sent to a group.
    pub(super) fn futures_of(&self, group: u32) -> &[FutureJob] {
        self.groups.get(&group).map_or(&[], |group| &group.futures)
    }

    /// A future job for all of a group.
    pub(super) fn keep_group_future(&mut self, group: u32, future: FutureJob) {
        if let Some(group) = self.groups.get_mut(&group) {
            keep_future(&mut group.futures, future);
        }
    }

    /// A group has a new tip: no other future job of it counts any more.
    pub(super) fn clear_group_futures(&mut self, group: u32) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.futures.clear();
        }
    }

    /// The job of a message, made once for all channels that are sent the same.
    pub(super) fn job(
        &mut self,
        message: &NewExtendedMiningJob<'_>,
        payload: &[u8],
        full_extranonce_size: usize,
        verify: Option<&Verify<'_>>,
    ) -> Result<Arc<Job>, Violation> {
        let payload = payload.get(4..).unwrap_or_default();
        let same = |shared: &&SharedJob| {
            shared.full_extranonce_size == full_extranonce_size && *shared.payload == *payload
        };
        if let Some(shared) = self.shared.iter().rev().find(same) {
            return Ok(shared.job.clone());
        }
        let job = Job::from_extended(message, full_extranonce_size);
        let job = Arc::new(job.map_err(|_| Violation("impossible-job"))?);
        if verify.is_some_and(|verify| !verify.pays(&job)) {
            return Err(Violation("payout-not-ours"));
        }
        if self.shared.len() == SHARED_JOBS {
            self.shared.pop_front();
        }
        let payload = payload.into();
        self.shared.push_back(SharedJob { full_extranonce_size, payload, job: job.clone() });
        Ok(job)
    }

    /// The tip of a message, made once for all channels that are sent the same.
    pub(super) fn tip(&mut self, message: &SetNewPrevHash) -> Result<Arc<Tip>, Violation> {
        let tip = Tip::from_mining(message).ok_or(Violation("nbits-without-target"))?;
        if let Some(known) = self.tip.as_ref().filter(|known| ***known == tip) {
            return Ok(known.clone());
        }
        let tip = Arc::new(tip);
        self.tip = Some(tip.clone());
        Ok(tip)
    }

    fn leave_group(&mut self, channel: &Channel) {
        if let Some(group) = self.groups.get_mut(&channel.group) {
            group.members.remove(&channel.id);
            if group.members.is_empty() {
                self.groups.remove(&channel.group);
            }
        }
    }
}
