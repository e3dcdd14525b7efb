//! The list of upstreams, and what is known of the connection to one of them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use adit_mining::{Job, Tip};
use adit_sv2::codec::Str0255;
use adit_sv2::messages::mining::{CloseChannel, NewExtendedMiningJob, SetNewPrevHash};
use adit_transport::{DialTarget, Outbox, PeerId};

use super::Effect;
use super::channel::{Channel, FutureJob, Violation, keep_future};
use super::miner::{Miner, Opening};
use crate::config;

/// Jobs that are looked through for one that another channel was sent already.
const SHARED_JOBS: usize = 4;

/// The upstreams, of which one at a time is worked for.
#[derive(Debug)]
pub(super) struct Upstream {
    /// At least one.
    configured: Vec<Configured>,
    /// The one that is dialled or connected.
    index: usize,
    /// Whether that one is to be tried again, rather than the next.
    again: bool,
    /// Where it asked us to connect, once.
    redirect: Option<DialTarget>,
    pub(super) dialled: DialTarget,
    pub(super) stage: Stage,
    /// Why there is no upstream, for people.
    reason: String,
    /// Whether `reason` says more than how the connection ended.
    explained: bool,
    /// Channel id to miner.
    pub(super) channels: HashMap<u32, PeerId>,
    groups: HashMap<u32, Group>,
    /// Requests for channels that are not answered yet, by id.
    pub(super) requests: HashMap<u32, PeerId>,
    next_request_id: u32,
    pub(super) waiting: VecDeque<PeerId>,
    shared: VecDeque<SharedJob>,
    tip: Option<Arc<Tip>>,
}

/// One upstream of the list.
#[derive(Debug)]
pub(super) struct Configured {
    pub(super) config: config::Upstream,
    /// It has shown that it has room for a small `extranonce2` only.
    pub(super) small: bool,
}

/// How far the connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// There is none.
    Down,
    /// `SetupConnection` is not answered yet.
    SettingUp { peer: PeerId, since: Instant },
    /// Channels can be opened.
    Ready { peer: PeerId },
}

impl Stage {
    pub(super) fn peer(self) -> Option<PeerId> {
        match self {
            Self::Down => None,
            Self::SettingUp { peer, .. } | Self::Ready { peer } => Some(peer),
        }
    }
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
    /// Without a connection.
    ///
    /// # Panics
    /// If there is no upstream in the list.
    pub(super) fn new(configured: &[config::Upstream]) -> Self {
        let first = configured.first().expect("a checked configuration has an upstream");
        let each = |config: &config::Upstream| Configured { config: config.clone(), small: false };
        Self {
            dialled: DialTarget::from(&first.url),
            configured: configured.iter().map(each).collect(),
            index: 0,
            again: true,
            redirect: None,
            stage: Stage::Down,
            reason: "not connected yet".to_owned(),
            explained: false,
            channels: HashMap::new(),
            groups: HashMap::new(),
            requests: HashMap::new(),
            next_request_id: 0,
            waiting: VecDeque::new(),
            shared: VecDeque::new(),
            tip: None,
        }
    }

    /// The one that is dialled or connected.
    pub(super) fn current(&self) -> &Configured {
        &self.configured[self.index]
    }

    pub(super) fn current_mut(&mut self) -> &mut Configured {
        &mut self.configured[self.index]
    }

    /// The next in the list after one that was of no use, or the same again after one that was.
    pub(super) fn next_target(&mut self) -> DialTarget {
        if !std::mem::take(&mut self.again) {
            self.index = (self.index + 1) % self.configured.len();
        }
        self.dialled = match self.redirect.take() {
            Some(elsewhere) => {
                // Where that comes to nothing, the configured address is next.
                self.again = true;
                elsewhere
            }
            None => DialTarget::from(&self.current().config.url),
        };
        self.dialled.clone()
    }

    /// It asked us to connect elsewhere.
    pub(super) fn redirect(&mut self, target: DialTarget) {
        self.redirect = Some(target);
    }

    /// Why it is not worked for, in words that say more than how the connection ended.
    pub(super) fn explain(&mut self, reason: String) {
        self.reason = reason;
        self.explained = true;
    }

    /// How the connection ended or was not made.
    pub(super) fn unreachable(&mut self, reason: &str) {
        if self.stage == Stage::Down && !std::mem::take(&mut self.explained) {
            reason.clone_into(&mut self.reason);
        }
    }

    /// Why there is no upstream.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// The connection stands.
    pub(super) fn opened(&mut self, peer: PeerId, since: Instant) {
        self.stage = Stage::SettingUp { peer, since };
        self.explained = false;
        "no answer to SetupConnection yet".clone_into(&mut self.reason);
    }

    /// The connection is gone, and with it every channel. It is dialled `again` rather than the next in the list.
    pub(super) fn lost(&mut self, reason: &str, again: bool) {
        self.stage = Stage::Down;
        self.again = again;
        if !self.explained {
            reason.clone_into(&mut self.reason);
        }
        self.channels.clear();
        self.groups.clear();
        self.requests.clear();
        self.waiting.clear();
        self.shared.clear();
        self.tip = None;
    }

    pub(super) fn next_request_id(&mut self) -> u32 {
        self.next_request_id = self.next_request_id.wrapping_add(1);
        self.next_request_id
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
        self.channels.contains_key(&id) || self.groups.contains_key(&id)
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
