use adit_sv2::codec::{B032, Seq064K, Str0255};
use adit_sv2::frame::Header as FrameHeader;
use adit_sv2::messages::mining::{
    CloseChannel, NewMiningJob, OpenExtendedMiningChannelSuccess, OpenStandardMiningChannelSuccess,
    SetExtranoncePrefix, SetGroupChannel, SetNewPrevHash, SetTarget,
};
use proptest::prelude::*;

use super::*;
use crate::channel::{JobNews, JobTableError};
use crate::target::Target;
use crate::testing::{factory, job, template, tip};

const MIN_NTIME: u32 = 1_700_000_000;
const HARD: u32 = 0x1d00_ffff;
const GROUP: u32 = 1;

fn extended(id: u32, size: u16) -> ClientChannel {
    ClientChannel::extended(&OpenExtendedMiningChannelSuccess {
        request_id: 1,
        channel_id: id,
        target: [0x7f; 32],
        extranonce_size: size,
        extranonce_prefix: B032::new(&[1, 0, 0, id as u8]).unwrap(),
        group_channel_id: GROUP,
    })
    .unwrap()
}

fn standard(id: u32, size: usize) -> ClientChannel {
    let mut prefix = vec![0; size];
    prefix[3] = id as u8;
    ClientChannel::standard(&OpenStandardMiningChannelSuccess {
        request_id: 1,
        channel_id: id,
        target: [0x7f; 32],
        extranonce_prefix: B032::new(&prefix).unwrap(),
        group_channel_id: GROUP,
    })
    .unwrap()
}

/// Channels 2 (extended) and 3 (standard) in group 1.
fn both() -> ClientChannels {
    let mut channels = ClientChannels::default();
    assert!(channels.insert(extended(2, 16)).is_none());
    assert!(channels.insert(standard(3, 20)).is_none());
    channels
}

fn receive(
    channels: &mut ClientChannels,
    message: &Mining<'_>,
) -> Result<Vec<(u32, Change)>, ClientError> {
    let mut seen = Vec::new();
    channels.receive(message, |channel, change| seen.push((channel.id(), change)))?;
    Ok(seen)
}

/// The bytes of a job's frame as a client reads them.
fn job_to(
    channels: &mut ClientChannels,
    to: u32,
    id: u32,
    min_ntime: Option<u32>,
) -> Result<Vec<(u32, Change)>, ClientError> {
    let mut frame = Vec::new();
    job(id, 20).write_frame_to(to, id, min_ntime, &mut frame);
    let header = FrameHeader::parse(frame.first_chunk().unwrap());
    receive(channels, &Mining::decode(&header, &frame[6..]).unwrap().0)
}

fn tip_to(
    channels: &mut ClientChannels,
    to: u32,
    id: u32,
) -> Result<Vec<(u32, Change)>, ClientError> {
    let message = tip(id as u8, MIN_NTIME, HARD).set_new_prev_hash(to, id);
    receive(channels, &Mining::SetNewPrevHash(message))
}

fn close(channels: &mut ClientChannels, id: u32) -> Vec<(u32, Change)> {
    let reason_code = Str0255::cut("maintenance");
    receive(channels, &Mining::CloseChannel(CloseChannel { channel_id: id, reason_code })).unwrap()
}

#[test]
fn group_messages_reach_each_member() {
    let mut channels = both();
    let future = Change::Job(JobNews::Future);
    assert_eq!(job_to(&mut channels, GROUP, 1, None), Ok(vec![(2, future), (3, future)]));
    assert_eq!(tip_to(&mut channels, GROUP, 1), Ok(vec![(2, Change::Tip), (3, Change::Tip)]));
    let active = Change::Job(JobNews::Active);
    let told = job_to(&mut channels, GROUP, 2, Some(MIN_NTIME));
    assert_eq!(told, Ok(vec![(2, active), (3, active)]));
    let works: Vec<_> = channels.iter().map(|c| c.active().unwrap()).collect();
    assert!(Arc::ptr_eq(works[0].job, works[1].job), "kept once");
    // Each root is what that channel's extranonce gives.
    let prefix = channels.get(3).unwrap().extranonce_prefix();
    assert_eq!(works[0].merkle_root, None);
    assert_eq!(works[1].merkle_root, job(2, 20).merkle_root(prefix, &[]));
    let target = SetTarget { channel_id: GROUP, maximum_target: [0x3f; 32] };
    assert_eq!(receive(&mut channels, &Mining::SetTarget(target)).unwrap().len(), 2);
    assert!(channels.iter().all(|c| c.target() == Target::from_le_bytes([0x3f; 32])));
    // A job of one channel is nobody else's.
    assert_eq!(job_to(&mut channels, 2, 3, Some(MIN_NTIME)), Ok(vec![(2, active)]));
    assert!(channels.get(3).unwrap().work_on(3).is_none());
    // Nor is one for a channel that is not here.
    assert_eq!(job_to(&mut channels, 9, 4, None), Ok(vec![]));
}

#[test]
fn groups_change() {
    let mut channels = both();
    let ids = [3, 77];
    let message = |group| SetGroupChannel {
        group_channel_id: group,
        channel_ids: Seq064K::new(&ids).unwrap(),
    };
    let changed = receive(&mut channels, &Mining::SetGroupChannel(message(9)));
    assert_eq!(changed, Ok(vec![(3, Change::Group)]));
    assert_eq!(job_to(&mut channels, 9, 1, None).unwrap()[0].0, 3);
    assert_eq!(job_to(&mut channels, GROUP, 1, None).unwrap()[0].0, 2);
    let taken = receive(&mut channels, &Mining::SetGroupChannel(message(2)));
    assert_eq!(taken, Err(ClientError::GroupIsChannel(2)));
    assert_eq!(channels.get(3).unwrap().group_channel_id(), 9);
}

#[test]
fn a_prefix_is_for_one_channel() {
    let mut channels = both();
    job_to(&mut channels, GROUP, 1, None).unwrap();
    tip_to(&mut channels, GROUP, 1).unwrap();
    let prefix = |channel_id, bytes| {
        let extranonce_prefix = B032::new(bytes).unwrap();
        Mining::SetExtranoncePrefix(SetExtranoncePrefix { channel_id, extranonce_prefix })
    };
    assert_eq!(receive(&mut channels, &prefix(GROUP, &[9; 4])), Ok(vec![]));
    let changed = receive(&mut channels, &prefix(2, &[9; 4]));
    assert_eq!(changed, Ok(vec![(2, Change::Prefix)]));
    let channel =
        |channels: &ClientChannels| *channels.get(2).unwrap().active().unwrap().extranonce_prefix;
    assert_eq!(&*channel(&channels), [1, 0, 0, 2], "what was sent before keeps its own");
    job_to(&mut channels, GROUP, 2, Some(MIN_NTIME)).unwrap();
    assert_eq!(&*channel(&channels), [9; 4]);
}

#[test]
fn closed_channels_and_ids_used_again() {
    let mut channels = both();
    job_to(&mut channels, GROUP, 1, None).unwrap();
    tip_to(&mut channels, GROUP, 1).unwrap();
    assert_eq!(close(&mut channels, 2), [(2, Change::Closed)]);
    assert_eq!(close(&mut channels, 2), []);
    // The server uses channel and job ids anew.
    assert!(channels.insert(extended(2, 16)).is_none());
    assert_eq!(job_to(&mut channels, 2, 1, None).unwrap().len(), 1);
    assert_eq!(tip_to(&mut channels, 2, 1).unwrap().len(), 1);
    assert_eq!(channels.get_mut(2).unwrap().next_sequence_number(), 0);
    assert_eq!(close(&mut channels, GROUP), [(2, Change::Closed), (3, Change::Closed)]);
    assert!(channels.is_empty() && channels.remove(2).is_none());
}

#[test]
fn one_member_s_trouble_is_not_the_other_s() {
    let mut channels = both();
    channels.insert(extended(4, 12));
    // A group's members must have one size; 4 has another.
    let outcome = job_to(&mut channels, GROUP, 1, None);
    assert_eq!(outcome, Err(JobTableError::ExtranonceSize.into()));
    assert!(tip_to(&mut channels, 2, 1).is_ok() && tip_to(&mut channels, 3, 1).is_ok());
    assert_eq!(tip_to(&mut channels, 4, 1), Err(JobTableError::UnknownFutureJob(1).into()));
}

#[test]
fn an_acknowledged_custom_job_is_worked_on() {
    let mut channels = both();
    job_to(&mut channels, GROUP, 1, None).unwrap();
    tip_to(&mut channels, GROUP, 1).unwrap();
    let ahead = tip(8, MIN_NTIME + 60, HARD);
    let custom = factory().custom_job(&template(5), &ahead, 20).unwrap();
    let channel = channels.get_mut(2).unwrap();
    channel.add_custom_job(40, &custom).unwrap();
    let work = channel.active().unwrap();
    assert_eq!((work.job_id, work.min_ntime), (40, MIN_NTIME + 60));
    assert_eq!(work.tip.prev_hash, ahead.prev_hash);
    assert_eq!(channel.add_custom_job(40, &custom), Err(JobTableError::IdInUse(40).into()));
    assert!(channel.add_custom_job(41, &crate::CustomJob { nbits: 0, ..custom }).is_err());
    channel.retire_other_tips(&ahead.prev_hash);
    assert!(channel.work_on(1).is_none() && channel.work_on(40).is_some());
}

proptest! {
    /// Whatever a server sends, in whatever order, nothing panics, and what is to be worked on has
    /// a tip and a target.
    #[test]
    fn any_messages(
        steps in prop::collection::vec((0u8..9, 0u32..6, 0u32..8, any::<bool>()), 0..80),
    ) {
        let mut channels = ClientChannels::default();
        for (step, to, id, flag) in steps {
            let min_ntime = flag.then_some(MIN_NTIME);
            let ids = [id, to];
            let mut bytes = [0; 20];
            bytes[0] = id as u8;
            let _ = match step {
                0 if flag => channels.insert(extended(to, 16)).map_or(Ok(vec![]), |_| Ok(vec![])),
                0 => channels.insert(standard(to, 20)).map_or(Ok(vec![]), |_| Ok(vec![])),
                1 => job_to(&mut channels, to, id, min_ntime),
                2 => tip_to(&mut channels, to, id),
                3 => Ok(close(&mut channels, to)),
                4 => receive(&mut channels, &Mining::SetTarget(SetTarget {
                    channel_id: to,
                    maximum_target: [id as u8; 32],
                })),
                5 => receive(&mut channels, &Mining::SetExtranoncePrefix(SetExtranoncePrefix {
                    channel_id: to,
                    extranonce_prefix: B032::new(&bytes[..if flag { 4 } else { 20 }]).unwrap(),
                })),
                6 => receive(&mut channels, &Mining::SetGroupChannel(SetGroupChannel {
                    group_channel_id: to,
                    channel_ids: Seq064K::new(&ids).unwrap(),
                })),
                7 => receive(&mut channels, &Mining::NewMiningJob(NewMiningJob {
                    channel_id: to,
                    job_id: id,
                    min_ntime,
                    version: id,
                    merkle_root: [4; 32],
                })),
                _ => receive(&mut channels, &Mining::SetNewPrevHash(SetNewPrevHash {
                    channel_id: to,
                    job_id: id,
                    prev_hash: [id as u8; 32],
                    min_ntime: id,
                    nbits: if flag { HARD } else { id },
                })),
            };
            for channel in channels.iter() {
                if let Some(work) = channel.active() {
                    prop_assert!(work.target > Target::from_le_bytes([0; 32]));
                    prop_assert!(channel.work_on(work.job_id).is_some());
                    prop_assert_eq!(
                        work.merkle_root.is_some(),
                        channel.kind() == crate::ChannelKind::Standard
                    );
                }
            }
        }
    }
}
