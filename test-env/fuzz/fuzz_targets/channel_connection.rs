//! Any operations on the channels of one connection, with a client at the other end: the client can take every message,
//! and both ends judge every share alike.
#![no_main]

use std::collections::BTreeSet;
use std::sync::Arc;

use adit_fuzz::{HARD, MIN_NTIME, VERSION, factory, job, template, tip};
use adit_mining::channel::{Change, ChannelOptions};
use adit_mining::{
    ChannelKind, Channels, ClientChannel, ClientChannels, Extranonce, Grouping, Job, JobIds,
    Portion, ServerChannel, Share, Target, Tip,
};
use adit_sv2::frame::{Header, encode_frame};
use adit_sv2::messages::mining::{
    CloseChannel, Mining, OpenExtendedMiningChannelSuccess, OpenStandardMiningChannelSuccess,
};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

/// Most channels at once.
const CHANNELS: usize = 12;
/// The server takes shares so far ahead of its clock; the client is told the sum.
const AHEAD: u32 = 7_080;

#[derive(Arbitrary, Debug)]
struct Input {
    grouping: u8,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Open {
        extended: bool,
        short: bool,
        work: bool,
    },
    Future,
    /// With the newest future job, or with one that nobody was told.
    Tip {
        known: bool,
        mark: u8,
    },
    Active,
    Target {
        at: u8,
        hashes: u8,
    },
    GroupTarget {
        at: u8,
        hashes: u8,
    },
    MaxTarget {
        at: u8,
        hashes: u8,
    },
    /// Into a new group, or into that of another channel.
    Group {
        from: u8,
        count: u8,
        into: Option<u8>,
    },
    Close {
        at: u8,
    },
    CloseGroup {
        at: u8,
    },
    Prefix {
        at: u8,
        slice: u8,
    },
    Custom {
        at: u8,
        group: bool,
    },
    Stop {
        at: u8,
    },
    Shares {
        nonce: u8,
    },
}

struct Net {
    server: Channels<ServerChannel>,
    client: ClientChannels,
    slices: u8,
    ids: JobIds,
    jobs: Vec<u32>,
    futures: Vec<u32>,
    /// What channels without work of their own are on.
    current: Option<u32>,
    tip: Option<Arc<Tip>>,
    /// Channels whose server stopped work, which a client does not hear of.
    stopped: BTreeSet<u32>,
    /// Channels with custom jobs, which are not the server's own.
    custom: BTreeSet<u32>,
    out: Vec<u8>,
}

fuzz_target!(|input: Input| {
    let groupings = [Grouping::None, Grouping::Named, Grouping::Broadcast];
    let mut net = Net {
        server: Channels::new(groupings[usize::from(input.grouping) % 3]),
        client: ClientChannels::default(),
        slices: 0,
        ids: JobIds::default(),
        jobs: Vec::new(),
        futures: Vec::new(),
        current: None,
        tip: None,
        stopped: BTreeSet::new(),
        custom: BTreeSet::new(),
        out: Vec::new(),
    };
    for (count, step) in input.steps.iter().take(60).enumerate() {
        net.step(step);
        net.deliver();
        net.agree(count as u32);
    }
});

fn sized(id: u32) -> impl FnMut(usize) -> Option<Arc<Job>> {
    move |size| Some(job(id, u64::from(id), size))
}

impl Net {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Open { extended, short, work } if self.server.len() < CHANNELS => {
                self.open(*extended, if *short { 12 } else { 20 }, *work);
            }
            Step::Open { .. } => {}
            Step::Future => {
                let id = self.make();
                self.futures.push(id);
                assert_eq!(self.server.future_job(id, sized(id), &mut self.out), 0);
            }
            Step::Tip { known, mark } => {
                let known = self.futures.pop().filter(|_| *known);
                self.futures.clear();
                let id = known.unwrap_or_else(|| self.make());
                let tip = tip(*mark, HARD);
                let done = self.server.activate(id, &tip, &mut self.out);
                (self.tip, self.current) = (Some(tip.clone()), Some(id));
                if !done {
                    assert_eq!(self.server.new_tip(id, sized(id), &tip, &mut self.out), 0);
                }
                assert!(self.server.iter().all(|channel| channel.works_on(id)));
                // Twice is once.
                let end = self.out.len();
                assert!(self.server.activate(id, &tip, &mut self.out));
                assert_eq!(self.out.len(), end);
            }
            Step::Active => {
                let Some(tip) = self.tip.clone() else { return };
                let id = self.make();
                self.current = Some(id);
                assert_eq!(self.server.active_job(id, sized(id), &tip, &mut self.out), 0);
            }
            Step::Target { at, hashes } => {
                let Some(id) = self.at(*at) else { return };
                let target = Target::from_expected_hashes(f64::from(hashes % 9));
                if let Some(message) = self.channel(id).set_target(target) {
                    encode_frame(&message, &mut self.out);
                }
            }
            Step::MaxTarget { at, hashes } => {
                let Some(id) = self.at(*at) else { return };
                let target = Target::from_expected_hashes(f64::from(hashes % 9));
                if let Some(message) = self.channel(id).set_max_target(target) {
                    encode_frame(&message, &mut self.out);
                }
            }
            Step::GroupTarget { at, hashes } => {
                let Some(group) = self.group_at(*at) else { return };
                let target = Target::from_expected_hashes(f64::from(hashes % 9));
                let set = self.server.set_group_target(group, target, &mut self.out);
                assert!(set.is_some_and(|set| set <= target));
            }
            Step::Group { from, count, into } => {
                let from = usize::from(*from) % CHANNELS;
                let count = usize::from(*count) % CHANNELS;
                let all = self.server.iter().map(ServerChannel::id);
                let ids: Vec<u32> = all.skip(from).take(count).collect();
                let into = into.and_then(|at| self.group_at(at));
                let end = self.out.len();
                if self.server.set_group(into, &ids, &mut self.out).is_err() {
                    assert_eq!(self.out.len(), end, "nothing is said where nothing is done");
                }
            }
            Step::Close { at } => {
                let Some(id) = self.at(*at) else { return };
                assert_eq!(self.server.close(id).len(), 1);
                self.tell_closed(id);
            }
            Step::CloseGroup { at } => {
                let Some(group) = self.group_at(*at) else { return };
                let members = self.server.members(group).count();
                assert_eq!(self.server.close(group).len(), members);
                assert_eq!(self.server.group(group), None);
                self.tell_closed(group);
            }
            Step::Prefix { at, slice } => {
                let Some(id) = self.at(*at) else { return };
                let channel = self.server.get_mut(id).expect("a channel of ours");
                let prefix = vec![*slice; channel.extranonce_prefix().len()];
                let prefix = Extranonce::new(&prefix).expect("at most 32 bytes");
                let message = channel.set_extranonce_prefix(prefix).expect("the same length");
                encode_frame(&message, &mut self.out);
            }
            Step::Custom { at, group } => self.custom(*at, *group),
            Step::Stop { at } => {
                // The client is not told; it gets work under a new id.
                self.futures.clear();
                let Some(id) = self.at(*at) else { return };
                self.channel(id).stop_work();
                self.stopped.insert(id);
            }
            Step::Shares { nonce } => self.agree(u32::from(*nonce) << 8),
        }
    }

    fn open(&mut self, extended: bool, size: usize, work: bool) {
        self.slices = self.slices.wrapping_add(1);
        let own = if extended { size - 4 } else { 0 };
        let prefix = Extranonce::new(&[1, 0, 0, self.slices]).expect("four bytes");
        let extranonce_prefix = if extended { prefix } else { prefix.padded(size) };
        let group_channel_id = self.server.group_for(size);
        let channel_id = self.server.allocate_id();
        let target = Target::from_expected_hashes(2.0);
        let replaced = self.server.insert(ServerChannel::new(ChannelOptions {
            id: channel_id,
            kind: if extended { ChannelKind::Extended } else { ChannelKind::Standard },
            extranonce_prefix,
            extranonce_size: own,
            target,
            max_target: Target::MAX,
            max_shares_per_job: 1_000,
        }));
        assert!(replaced.is_none() && self.server.group(channel_id).is_none(), "an id twice");
        let (target, extranonce_prefix) = (target.to_le_bytes(), extranonce_prefix.as_field());
        let client = if extended {
            ClientChannel::extended(&OpenExtendedMiningChannelSuccess {
                request_id: 0,
                channel_id,
                target,
                extranonce_size: own as u16,
                extranonce_prefix,
                group_channel_id,
            })
        } else {
            ClientChannel::standard(&OpenStandardMiningChannelSuccess {
                request_id: 0,
                channel_id,
                target,
                extranonce_prefix,
                group_channel_id,
            })
        };
        assert!(self.client.insert(client.expect("a good answer")).is_none());
        if let (Some(tip), Some(id), true) = (self.tip.clone(), self.current, work) {
            let job = job(id, u64::from(id), size);
            let channel = self.server.get_mut(channel_id).expect("just opened");
            channel.start_work(id, job, &tip, &mut self.out).expect("its first job");
        }
    }

    fn custom(&mut self, at: u8, group: bool) {
        let (Some(id), Some(tip)) = (self.at(at), self.tip.clone()) else { return };
        let to = if group { self.group_at(at).unwrap_or(id) } else { id };
        let job_id = self.make();
        let size = self.channel(id).full_extranonce_size();
        let custom = factory().custom_job(&template(u64::from(job_id)), &tip, size);
        let custom = custom.expect("a good template");
        let added = self.server.add_custom_job(to, job_id, &custom, true, &tip, Portion::WHOLE);
        let with: Vec<u32> = (self.server.iter())
            .filter(|channel| channel.job(job_id).is_some())
            .map(ServerChannel::id)
            .collect();
        assert_eq!(added.unwrap_or(0), with.len());
        for id in with {
            let client = self.client.get_mut(id).expect("the other end");
            assert_eq!(client.add_custom_job(job_id, &custom), Ok(()));
            self.custom.insert(id);
        }
    }

    /// A new job: its id.
    fn make(&mut self) -> u32 {
        let id = self.ids.allocate();
        self.jobs.push(id);
        if self.jobs.len() > 20 {
            self.jobs.remove(0);
        }
        id
    }

    fn at(&self, at: u8) -> Option<u32> {
        let at = usize::from(at) % self.server.len().max(1);
        self.server.iter().nth(at).map(ServerChannel::id)
    }

    fn group_at(&self, at: u8) -> Option<u32> {
        let group = self.server.get(self.at(at)?)?.group_channel_id();
        (group != 0).then_some(group)
    }

    fn channel(&mut self, id: u32) -> &mut ServerChannel {
        self.server.get_mut(id).expect("a channel of ours")
    }

    fn tell_closed(&mut self, channel_id: u32) {
        encode_frame(&CloseChannel { channel_id, reason_code: Default::default() }, &mut self.out);
    }

    /// A client that refuses a message is a failure, and so is one that nobody takes.
    fn deliver(&mut self) {
        let out = std::mem::take(&mut self.out);
        let mut rest = &out[..];
        while let Some((header, after)) = rest.split_first_chunk() {
            let header = Header::parse(header);
            let (payload, after) = after.split_at(header.msg_length as usize);
            rest = after;
            let (message, tlvs) = Mining::decode(&header, payload).expect("our own message");
            assert!(tlvs.is_empty());
            let mut heard = 0;
            let closing = matches!(message, Mining::CloseChannel(_));
            let taken = self.client.receive(&message, |_, change| {
                heard += 1;
                assert_eq!(change == Change::Closed, closing);
            });
            assert_eq!(taken, Ok(()), "{message}");
            assert!(heard > 0, "nobody takes {message}");
        }
        assert!(rest.is_empty());
    }

    /// Both ends of every channel agree on any share of any job.
    fn agree(&mut self, nonce: u32) {
        assert_eq!(self.client.len(), self.server.len());
        for server in self.server.iter_mut() {
            let client = self.client.get_mut(server.id()).expect("the other end");
            assert_eq!(client.target(), server.target());
            assert_eq!(client.group_channel_id(), server.group_channel_id());
            assert_eq!(client.extranonce_prefix(), server.extranonce_prefix());
            // Its client keeps jobs that the server has forgotten, and may lack room for others.
            if self.stopped.contains(&server.id()) {
                continue;
            }
            if !self.custom.contains(&server.id()) {
                let active = client.active().map(|work| work.job_id);
                assert_eq!(active, server.active_job().map(|(id, ..)| id));
            }
            for job_id in &self.jobs {
                let share = Share {
                    sequence_number: 0,
                    job_id: *job_id,
                    nonce,
                    ntime: MIN_NTIME + 5,
                    version: VERSION,
                    extranonce: &[3; 32][..client.extranonce_size()],
                };
                let judged = server.check_share(&share, MIN_NTIME + 5);
                assert_eq!(client.check_share(&share, MIN_NTIME + 5 + AHEAD), judged);
            }
        }
        for group in self.server.groups() {
            assert!(self.server.get(group.id).is_none(), "a group's id is nobody's channel");
            for member in self.server.members(group.id) {
                assert_eq!(member.full_extranonce_size(), group.full_extranonce_size);
            }
        }
    }
}
