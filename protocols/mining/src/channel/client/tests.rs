use adit_sv2::codec::B032;
use adit_sv2::frame::Header as FrameHeader;
use adit_sv2::messages::Message;
use proptest::prelude::*;

use super::*;
use crate::channel::{ChannelOptions, ServerChannel};
use crate::share::ShareError;
use crate::testing::{EASY, find_nonce, job, tip};

const MIN_NTIME: u32 = 1_700_000_000;
const HARD: u32 = 0x1d00_ffff;
const PREFIX: [u8; 4] = [1, 0, 0, 5];

fn easy_target() -> Target {
    Target::from_expected_hashes(8.0)
}

fn extended() -> ClientChannel {
    ClientChannel::extended(&OpenExtendedMiningChannelSuccess {
        request_id: 1,
        channel_id: 7,
        target: easy_target().to_le_bytes(),
        extranonce_size: 16,
        extranonce_prefix: B032::new(&PREFIX).unwrap(),
        group_channel_id: 3,
    })
    .unwrap()
}

fn standard() -> ClientChannel {
    ClientChannel::standard(&OpenStandardMiningChannelSuccess {
        request_id: 1,
        channel_id: 8,
        target: easy_target().to_le_bytes(),
        extranonce_prefix: B032::new(&PREFIX).unwrap(),
        group_channel_id: 3,
    })
    .unwrap()
}

fn take(client: &mut ClientChannel, frame: &[u8]) -> Result<JobNews, ClientError> {
    let message = NewExtendedMiningJob::decode(&frame[FrameHeader::LEN..]).unwrap().0;
    client.new_extended_mining_job(&message)
}

fn active_frame(id: u32, min_ntime: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    job(id, 20).write_frame(id, Some(min_ntime), &mut frame);
    frame
}

/// A share of the active job that meets `target`.
fn mine<'a>(client: &ClientChannel, extranonce: &'a [u8], target: Target) -> Share<'a> {
    let work = client.active().unwrap();
    let root = work
        .merkle_root
        .or_else(|| work.job.merkle_root(work.extranonce_prefix, extranonce))
        .unwrap();
    let version = work.job.version();
    let header = Job::header(work.tip, root, version, work.min_ntime, 0);
    let nonce = find_nonce(header, 0, |hash| target.is_met_by(hash));
    let job_id = work.job_id;
    Share { sequence_number: 0, job_id, nonce, ntime: work.min_ntime, version, extranonce }
}

#[test]
fn follows_the_server() {
    let mut client = extended();
    assert!(client.active().is_none());
    assert_eq!(take(&mut client, job(1, 20).future_frame()), Ok(JobNews::Future));
    assert!(client.active().is_none());
    client.set_new_prev_hash(&tip(1, MIN_NTIME, HARD).set_new_prev_hash(7, 1)).unwrap();
    let work = client.active().unwrap();
    assert_eq!((work.job_id, work.min_ntime, work.target), (1, MIN_NTIME, easy_target()));
    assert_eq!((work.tip.prev_hash, work.tip.nbits), (tip(1, 0, HARD).prev_hash, HARD));

    assert_eq!(take(&mut client, &active_frame(2, MIN_NTIME + 30)), Ok(JobNews::Active));
    assert_eq!(client.active().unwrap().job_id, 2);
    assert_eq!(client.active().unwrap().min_ntime, MIN_NTIME + 30);
    // Shares on the older job of the same tip still count.
    assert_eq!(client.work_on(1).unwrap().job_id, 1);

    take(&mut client, job(3, 20).future_frame()).unwrap();
    client.set_new_prev_hash(&tip(2, MIN_NTIME + 60, HARD).set_new_prev_hash(3, 3)).unwrap();
    assert_eq!(client.active().unwrap().job_id, 3);
    assert!(client.work_on(1).is_none() && client.work_on(2).is_none());
    assert_eq!(client.tip().unwrap().min_ntime, MIN_NTIME + 60);
}

#[test]
fn a_standard_channel_takes_both_kinds_of_job() {
    let mut client = standard();
    take(&mut client, job(1, 4).future_frame()).unwrap();
    client.set_new_prev_hash(&tip(1, MIN_NTIME, HARD).set_new_prev_hash(3, 1)).unwrap();
    let root = job(1, 4).merkle_root(&PREFIX, &[]);
    assert_eq!(client.active().unwrap().merkle_root, root);
    let message = NewMiningJob {
        channel_id: 8,
        job_id: 2,
        min_ntime: Some(MIN_NTIME),
        version: 0x2000_0000,
        merkle_root: [9; 32],
    };
    assert_eq!(client.new_mining_job(&message), Ok(JobNews::Active));
    assert_eq!(client.active().unwrap().merkle_root, Some([9; 32]));
    let share = mine(&client, &[], easy_target());
    assert!(client.check_share(&share, MIN_NTIME).is_ok());
    assert_eq!(extended().new_mining_job(&message), Err(ClientError::StandardJob));
}

#[test]
fn shares_are_judged_before_they_are_sent() {
    let mut client = extended();
    take(&mut client, job(1, 20).future_frame()).unwrap();
    client.set_new_prev_hash(&tip(1, MIN_NTIME, EASY).set_new_prev_hash(7, 1)).unwrap();
    let share = mine(&client, &[3; 16], easy_target());
    let accepted = client.check_share(&share, MIN_NTIME).unwrap();
    assert_eq!((accepted.work, accepted.is_block), (8, true));
    let mut says = |share| client.check_share(&share, MIN_NTIME).unwrap_err().error;
    assert_eq!(says(share), ShareError::DuplicateShare);
    assert_eq!(says(Share { extranonce: &[3; 15], ..share }), ShareError::BadExtranonceSize);
    assert_eq!(says(Share { ntime: MIN_NTIME + 1, ..share }), ShareError::NtimeTooNew);
    assert_eq!(says(Share { job_id: 2, ..share }), ShareError::InvalidJobId);
    assert_eq!((client.next_sequence_number(), client.next_sequence_number()), (0, 1));
}

#[test]
fn a_target_is_for_jobs_to_come_and_those_that_wait() {
    let mut client = extended();
    take(&mut client, job(1, 20).future_frame()).unwrap();
    client.set_new_prev_hash(&tip(1, MIN_NTIME, HARD).set_new_prev_hash(7, 1)).unwrap();
    take(&mut client, job(2, 20).future_frame()).unwrap();
    let harder = Target::from_expected_hashes(64.0);
    client.set_target(&SetTarget { channel_id: 7, maximum_target: harder.to_le_bytes() }).unwrap();
    assert_eq!(client.active().unwrap().target, easy_target());
    client.set_new_prev_hash(&tip(2, MIN_NTIME, HARD).set_new_prev_hash(7, 2)).unwrap();
    assert_eq!(client.active().unwrap().target, harder);
    let zero = SetTarget { channel_id: 7, maximum_target: [0; 32] };
    assert_eq!(client.set_target(&zero), Err(ClientError::ZeroTarget));
    assert_eq!(client.target(), harder);
}

#[test]
fn a_prefix_is_for_jobs_to_come() {
    let mut client = extended();
    take(&mut client, job(1, 20).future_frame()).unwrap();
    client.set_new_prev_hash(&tip(1, MIN_NTIME, HARD).set_new_prev_hash(7, 1)).unwrap();
    let prefix =
        |bytes| SetExtranoncePrefix { channel_id: 7, extranonce_prefix: B032::new(bytes).unwrap() };
    client.set_extranonce_prefix(&prefix(&[9; 4])).unwrap();
    assert_eq!(client.active().unwrap().extranonce_prefix.as_bytes(), PREFIX);
    take(&mut client, &active_frame(2, MIN_NTIME)).unwrap();
    assert_eq!(client.active().unwrap().extranonce_prefix.as_bytes(), [9; 4]);
    assert_eq!(
        client.set_extranonce_prefix(&prefix(&[9; 5])),
        Err(ClientError::Prefix(PrefixError { old: 4, new: 5 }))
    );
}

#[test]
fn groups_and_ids() {
    let mut client = extended();
    assert!(client.is_addressed_by(7) && client.is_addressed_by(3) && !client.is_addressed_by(8));
    client.set_group_channel_id(4);
    assert!(client.is_addressed_by(4) && !client.is_addressed_by(3));
    assert_eq!((client.full_extranonce_size(), standard().full_extranonce_size()), (20, 4));
}

#[test]
fn an_upstream_that_contradicts_itself_is_told_apart() {
    let mut client = extended();
    let tip = tip(1, MIN_NTIME, HARD);
    let taken = take(&mut client, &active_frame(1, MIN_NTIME));
    assert_eq!(taken, Err(JobTableError::NoPrevHash.into()));
    let unknown = client.set_new_prev_hash(&tip.set_new_prev_hash(7, 1));
    assert_eq!(unknown, Err(JobTableError::UnknownFutureJob(1).into()));
    take(&mut client, job(1, 20).future_frame()).unwrap();
    let twice = take(&mut client, job(1, 20).future_frame());
    assert_eq!(twice, Err(JobTableError::IdInUse(1).into()));
    let no_target = SetNewPrevHash { nbits: 0, ..tip.set_new_prev_hash(7, 1) };
    assert_eq!(client.set_new_prev_hash(&no_target), Err(ClientError::Nbits(0)));
    assert!(client.tip().is_none());
    let open = |size, target| {
        ClientChannel::extended(&OpenExtendedMiningChannelSuccess {
            request_id: 1,
            channel_id: 7,
            target,
            extranonce_size: size,
            extranonce_prefix: B032::new(&PREFIX).unwrap(),
            group_channel_id: 3,
        })
        .map(|_| ())
    };
    assert_eq!(open(33, [1; 32]), Err(ClientError::ExtranonceSize(33)));
    assert_eq!(open(8, [0; 32]), Err(ClientError::ZeroTarget));
    assert_eq!(open(32, [1; 32]), Ok(()));
    assert_eq!(open(0, [1; 32]), Ok(()), "nonce, version and time are enough for some");
}

/// What the server and the client of one channel see.
struct Pair {
    server: ServerChannel,
    client: ClientChannel,
    next_job: u32,
    next_tip: u8,
    waiting: Vec<u32>,
    tip: Option<Arc<Tip>>,
}

impl Pair {
    fn new() -> Self {
        let server = ServerChannel::new(ChannelOptions {
            id: 7,
            kind: ChannelKind::Extended,
            extranonce_prefix: Extranonce::new(&PREFIX).unwrap(),
            extranonce_size: 16,
            target: easy_target(),
            max_target: Target::MAX,
            max_shares_per_job: 1 << 20,
        });
        let (client, waiting) = (extended(), Vec::new());
        Self { server, client, next_job: 1, next_tip: 1, waiting, tip: None }
    }

    fn step(&mut self, step: u8, value: u8) {
        let id = self.next_job;
        match step {
            0 => {
                self.next_job += 1;
                let job = job(id, 20);
                take(&mut self.client, job.future_frame()).unwrap();
                self.server.add_future_job(id, job).unwrap();
                self.waiting.push(id);
            }
            1 => {
                let Some(tip) = &self.tip else { return };
                self.next_job += 1;
                let job = job(id, 20);
                let mut frame = Vec::new();
                job.write_frame(id, Some(tip.min_ntime), &mut frame);
                take(&mut self.client, &frame).unwrap();
                self.server.add_active_job(id, job, tip).unwrap();
            }
            2 => {
                let Some(id) = self.waiting.pop() else { return };
                let tip = tip(self.next_tip, MIN_NTIME + u32::from(self.next_tip), HARD);
                self.next_tip = self.next_tip.wrapping_add(1);
                let server = self.server.set_new_prev_hash(id, &tip);
                let client = self.client.set_new_prev_hash(&tip.set_new_prev_hash(7, id));
                assert_eq!(client, server.map_err(ClientError::from));
                if server.is_ok() {
                    self.tip = Some(tip);
                    self.waiting.clear();
                }
            }
            3 => {
                let target = Target::from_expected_hashes(f64::from(value % 20 + 1));
                if let Some(message) = self.server.set_target(target) {
                    self.client.set_target(&message).unwrap();
                }
            }
            4 => {
                let prefix = [value; 4];
                self.server.set_extranonce_prefix(Extranonce::new(&prefix).unwrap()).unwrap();
                let extranonce_prefix = B032::new(&prefix).unwrap();
                let message = SetExtranoncePrefix { channel_id: 7, extranonce_prefix };
                self.client.set_extranonce_prefix(&message).unwrap();
            }
            _ => {
                // Any share on any job, live or not: both sides must agree on it.
                let share = Share {
                    sequence_number: 0,
                    job_id: u32::from(value) % self.next_job,
                    nonce: u32::from(value / 16),
                    ntime: MIN_NTIME + 5,
                    version: 0x2000_0000,
                    extranonce: &[3; 16],
                };
                let server = self.server.check_share(&share, MIN_NTIME);
                assert_eq!(self.client.check_share(&share, MIN_NTIME + 7_080), server);
            }
        }
    }
}

proptest! {
    /// Whatever the server does, its client judges every share as it does.
    #[test]
    fn both_sides_agree(steps in prop::collection::vec((0u8..12, any::<u8>()), 0..120)) {
        let mut pair = Pair::new();
        for (step, value) in steps {
            pair.step(step, value);
        }
    }
}
