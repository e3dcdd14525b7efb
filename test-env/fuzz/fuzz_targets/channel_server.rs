//! Any operations on one server channel, in any order: no job outlives its tip, no id is there twice, no header is paid
//! twice, and a share on what is not live is stale or unknown.
#![no_main]

use std::collections::HashSet;

use adit_fuzz::{EASY, MIN_NTIME, VERSION, job, tip};
use adit_mining::channel::{ChannelOptions, MAX_LIVE_JOBS};
use adit_mining::{
    BlockHash, ChannelKind, Extranonce, JobTableError, Portion, ServerChannel, Share, ShareError,
    Target,
};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

const NOW: u32 = MIN_NTIME + 100;
/// Templates of the client's own, from here on.
const OWN: u64 = 1_000;

#[derive(Arbitrary, Debug)]
struct Input {
    extended: bool,
    /// Shares per job, few enough to be reached.
    max_shares: u8,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Future {
        again: Option<u8>,
    },
    Active {
        again: Option<u8>,
        mark: u8,
    },
    /// Of the client's own making, or a copy of what the server once gave.
    Custom {
        own: bool,
        template: u8,
        mark: u8,
        paid: u8,
    },
    /// So many of the client's own, which push the older jobs out.
    Crowd {
        count: u8,
        mark: u8,
    },
    NewPrevHash {
        id: u8,
        mark: u8,
    },
    RetireOthers {
        mark: u8,
    },
    Retire {
        mark: u8,
    },
    Stop,
    Target {
        hashes: u8,
    },
    MaxTarget {
        hashes: u8,
    },
    Prefix {
        slice: u8,
        size: u8,
    },
    Renew {
        later: u8,
    },
    Share {
        id: u8,
        nonce: u8,
        ntime: u8,
        version: u32,
        size: u8,
    },
    /// What was accepted before, once more on every live job.
    Replay,
    Acknowledge,
}

/// What is known of a job: how it came and on which tip it counts.
struct Known {
    id: u32,
    template: u64,
    /// Mark of the tip where active.
    on: Option<u8>,
    custom: bool,
}

struct Run {
    channel: ServerChannel,
    next: u32,
    current: Option<u8>,
    jobs: Vec<Known>,
    paid: HashSet<BlockHash>,
    /// Some of the shares that were.
    accepted: Vec<Share<'static>>,
    credited: (u32, u128),
}

fuzz_target!(|input: Input| {
    let channel = ServerChannel::new(ChannelOptions {
        id: 7,
        kind: if input.extended { ChannelKind::Extended } else { ChannelKind::Standard },
        extranonce_prefix: Extranonce::new(&[1, 0, 0, 5]).expect("four bytes"),
        extranonce_size: if input.extended { 16 } else { 0 },
        target: Target::from_expected_hashes(2.0),
        max_target: Target::MAX,
        max_shares_per_job: usize::from(input.max_shares % 16) + 1,
    });
    let (jobs, paid) = (Vec::new(), HashSet::new());
    let accepted = Vec::new();
    let mut run = Run { channel, next: 1, current: None, jobs, paid, accepted, credited: (0, 0) };
    for step in input.steps.iter().take(150) {
        run.step(step);
        run.check();
    }
});

impl Run {
    fn step(&mut self, step: &Step) {
        let size = self.channel.full_extranonce_size();
        let id = self.next;
        let tip_of = |mark: &u8| tip(mark % 4, EASY);
        match step {
            Step::Future { again } => {
                let template = self.given(*again);
                let added = self.channel.add_future_job(id, job(id, template, size));
                assert_eq!(added, Ok(()));
                self.added(template, None, false);
            }
            Step::Active { again, mark } => {
                let mark = self.current.unwrap_or(*mark % 4);
                let template = self.given(*again);
                let job = job(id, template, size);
                let added = self.channel.add_active_job(id, job, &tip_of(&mark));
                match self.current {
                    Some(mark) => {
                        assert_eq!(added, Ok(()));
                        self.added(template, Some(mark), false);
                    }
                    None => assert_eq!(added, Err(JobTableError::NoPrevHash)),
                }
            }
            Step::Custom { own, template, mark, paid } => {
                let template = u64::from(*template);
                let copy = template % u64::from(self.next);
                self.custom(if *own { OWN + template % 4 } else { copy }, *mark, *paid);
            }
            Step::Crowd { count, mark } => {
                for template in 0..u64::from(count % 17) {
                    self.custom(OWN + template, *mark, 255);
                    self.check();
                }
            }
            Step::NewPrevHash { id, mark } => {
                let (id, mark) = (u32::from(*id) % self.next, mark % 4);
                let waited = self.channel.awaits(id);
                let outcome = self.channel.set_new_prev_hash(id, &tip_of(&mark));
                assert_eq!(outcome.is_ok(), waited);
                if waited {
                    self.current = Some(mark);
                    self.jobs.retain(|job| job.id == id || job.custom && job.on == Some(mark));
                    self.jobs.iter_mut().filter(|job| job.id == id).for_each(|job| {
                        job.on = Some(mark);
                    });
                    assert_eq!(self.channel.active_job().map(|(id, ..)| id), Some(id));
                }
            }
            Step::RetireOthers { mark } => {
                self.channel.retire_other_tips(&tip_of(mark).prev_hash);
                self.jobs.retain(|job| job.on.is_none_or(|on| on == mark % 4));
            }
            Step::Retire { mark } => {
                self.channel.retire_tip(&tip_of(mark).prev_hash);
                self.jobs.retain(|job| job.on.is_none_or(|on| on != mark % 4));
                assert!(!self.channel.has_custom_job_on(&tip_of(mark).prev_hash));
            }
            Step::Stop => {
                self.channel.stop_work();
                self.jobs.clear();
                assert!(self.channel.active_job().is_none());
            }
            Step::Target { hashes } => {
                let target = Target::from_expected_hashes(f64::from(hashes % 5));
                self.channel.set_target(target);
                assert_eq!(self.channel.target(), target.min(self.channel.max_target()));
            }
            Step::MaxTarget { hashes } => {
                let target = Target::from_expected_hashes(f64::from(hashes % 5));
                self.channel.set_max_target(target);
            }
            Step::Prefix { slice, size } => {
                let old = self.channel.extranonce_prefix().len();
                let size = if size % 8 == 0 { old + 1 } else { old };
                let prefix = Extranonce::new(&[1, 0, 0, slice % 8]).expect("four bytes");
                let set = self.channel.set_extranonce_prefix(prefix.padded(size)).is_ok();
                assert_eq!(set, size == old);
                while let Some(free) = self.channel.take_unused_prefix() {
                    assert!(!self.channel.prefixes().any(|prefix| *prefix == free));
                }
            }
            Step::Renew { later } => {
                let had = self.channel.active_job().map(|(id, _, tip)| (id, tip.prev_hash[0]));
                let renewed = self.channel.renew_job(id, NOW - 50 + u32::from(*later));
                assert!(
                    renewed.is_none() || had.is_some(),
                    "not where it is far ahead of the clock"
                );
                if let Some((id, on)) = had.filter(|_| renewed.is_some()) {
                    let same = self.jobs.iter().find(|job| job.id == id).expect("a live job");
                    self.added(same.template, Some(on), false);
                }
            }
            Step::Share { id, nonce, ntime, version, size } => {
                let size = if size % 8 == 0 { 15 } else { self.channel.extranonce_size() };
                self.share(Share {
                    sequence_number: 3,
                    job_id: u32::from(*id) % (self.next + 2),
                    nonce: u32::from(*nonce),
                    ntime: MIN_NTIME - 5 + u32::from(*ntime),
                    version: VERSION ^ version.rotate_left(8),
                    extranonce: &[3; 16][..size],
                });
            }
            Step::Replay => {
                for share in self.accepted.clone() {
                    for job_id in 0..self.next {
                        if self.channel.job(job_id).is_some() {
                            self.share(Share { job_id, ..share });
                        }
                    }
                }
            }
            Step::Acknowledge => {
                assert_eq!(self.channel.unacknowledged(), self.credited.0);
                let success = self.channel.take_success();
                let count = success.map_or(0, |success| success.new_submits_accepted_count);
                assert_eq!(count, std::mem::take(&mut self.credited).0);
            }
        }
    }

    fn custom(&mut self, template: u64, mark: u8, paid: u8) {
        let id = self.next;
        let job = job(id, template, self.channel.full_extranonce_size());
        let tip = tip(mark % 4, EASY);
        let admitted = self.channel.admits_custom_job(id, &job, &tip);
        let paid = Portion::new(u64::from(paid), 255);
        let added = self.channel.add_custom_job(id, job, MIN_NTIME, &tip, paid);
        assert_eq!(added, admitted);
        match added {
            Ok(()) => self.added(template, Some(mark % 4), true),
            Err(JobTableError::Repeated | JobTableError::TooManyJobs) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// The template for a job that the server gives: a new one, or that of a live job again, as when a template
    /// provider came back. One that is gone does not come again.
    fn given(&self, again: Option<u8>) -> u64 {
        let live: Vec<_> = self.jobs.iter().filter(|job| !job.custom).collect();
        let again = again.and_then(|at| live.get(usize::from(at)));
        again.map_or(u64::from(self.next), |job| job.template)
    }

    fn added(&mut self, template: u64, on: Option<u8>, custom: bool) {
        self.jobs.push(Known { id: self.next, template, on, custom });
        self.next += 1;
    }

    fn share(&mut self, share: Share<'static>) {
        let live = self.channel.job(share.job_id).is_some();
        let waits = self.channel.awaits(share.job_id);
        match self.channel.check_share(&share, NOW) {
            Ok(accepted) => {
                assert!(self.channel.works_on(share.job_id));
                assert_eq!(share.extranonce.len(), self.channel.extranonce_size());
                assert!((MIN_NTIME..=NOW + 7_080).contains(&share.ntime));
                assert!(accepted.credit <= accepted.work && accepted.work > 0);
                assert!(self.paid.insert(accepted.hash), "paid twice");
                if self.accepted.len() < 8 {
                    self.accepted.push(share);
                }
                let solution = self.channel.solution(&share).expect("its job is live");
                assert_eq!((solution.hash, solution.header.hash()), (accepted.hash, accepted.hash));
                self.channel.credit(share.sequence_number, accepted.credit);
                self.credited.0 += 1;
                self.credited.1 += accepted.credit;
            }
            Err(rejected) => {
                let nowhere = [ShareError::StaleShare, ShareError::InvalidJobId];
                assert_eq!(nowhere.contains(&rejected.error), !live || waits);
                assert!(live || rejected.block.is_none());
            }
        }
    }

    /// Live are those that should be, but for the oldest that made room.
    fn check(&mut self) {
        let channel = &self.channel;
        let before = self.jobs.len();
        self.jobs.retain(|job| channel.job(job.id).is_some());
        assert!(self.jobs.len() <= MAX_LIVE_JOBS);
        assert!(before > MAX_LIVE_JOBS || before == self.jobs.len(), "a job is missing");
        for job in &self.jobs {
            assert_eq!(channel.works_on(job.id), job.on.is_some());
        }
        let live = (0..=self.next).filter(|id| channel.job(*id).is_some()).count();
        assert_eq!(live, self.jobs.len(), "a job that should be gone");
    }
}
