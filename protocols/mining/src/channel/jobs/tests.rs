use super::*;
use crate::template::Template;
use crate::testing::{factory, job, template, tip};

fn active(mark: u8) -> Active {
    let target = Target::MAX;
    Active { tip: tip(mark, 0, 0x1d00_ffff), min_ntime: 0, target, work: 1, custom: None }
}

fn submit(table: &mut JobTable, job_id: u32, count: u32) {
    for nonce in 0..count {
        let share = Share {
            sequence_number: nonce,
            job_id,
            nonce,
            ntime: 5,
            version: 0x2000_0000,
            extranonce: &[0; 16],
        };
        table.check(&share, 16, 10, 1 << 20).unwrap();
    }
}

fn room(table: &JobTable, id: u32) -> usize {
    table.seen[table.get(id).unwrap().seen].set.room()
}

/// Room for as many shares as the job before has seen, on the second tip already.
#[test]
fn a_job_has_room_for_what_the_last_one_saw() {
    let prefix = Extranonce::new(&[1, 2, 3, 4]).unwrap();
    let mut table = JobTable::default();
    table.insert(1, job(1, 20), prefix, None, None).unwrap();
    table.activate(1, active(1)).unwrap();
    submit(&mut table, 1, 300);
    table.insert(2, job(2, 20), prefix, None, None).unwrap();
    table.activate(2, active(2)).unwrap();
    assert!(room(&table, 2) >= 300);
    submit(&mut table, 2, 200);
    table.insert(3, job(3, 20), prefix, None, Some(active(2))).unwrap();
    assert!(room(&table, 3) >= 300);
}

/// A job that was sent before its predecessor saw any share.
#[test]
fn room_is_made_again_when_the_tip_comes() {
    let prefix = Extranonce::new(&[1, 2, 3, 4]).unwrap();
    let mut table = JobTable::default();
    table.insert(1, job(1, 20), prefix, None, None).unwrap();
    table.activate(1, active(1)).unwrap();
    table.insert(2, job(2, 20), prefix, None, None).unwrap();
    table.insert(3, job(3, 20), prefix, None, None).unwrap();
    submit(&mut table, 1, 300);
    table.activate(2, active(2)).unwrap();
    assert!(room(&table, 2) >= 300, "job 3, which nobody worked on, says nothing");
}

/// More than the 256 that [`job`] tells apart.
fn distinct(id: u32) -> Arc<Job> {
    let template = Template { coinbase_tx_locktime: id, ..template(1) };
    Arc::new(factory().job(id, &template, 20).unwrap())
}

fn custom(mark: u8) -> Active {
    Active { custom: Some(Portion::WHOLE), ..active(mark) }
}

/// A client that sends its job again after many others must not be paid for its shares again.
#[test]
fn a_custom_job_does_not_come_back_with_its_shares_forgotten() {
    let prefix = Extranonce::new(&[1, 2, 3, 4]).unwrap();
    let mut table = JobTable::default();
    let add = |table: &mut JobTable, id, content, mark| {
        table.insert(id, job(content, 20), prefix, None, Some(custom(mark)))
    };
    let share = |job_id| Share {
        sequence_number: 0,
        job_id,
        nonce: 0,
        ntime: 5,
        version: 0x2000_0000,
        extranonce: &[0; 16],
    };
    add(&mut table, 1, 1, 1).unwrap();
    table.check(&share(1), 16, 10, 100).unwrap();
    // As the oldest of a full table it makes room for itself.
    for id in 2..=16 {
        add(&mut table, id, id, 1).unwrap();
    }
    add(&mut table, 17, 1, 1).unwrap();
    assert!(table.get(1).is_none() && table.get(17).is_some());
    let paid = table.check(&share(17), 16, 10, 100).unwrap_err();
    assert_eq!(paid.error, ShareError::DuplicateShare);
    // Gone altogether: not again on this tip, but on another.
    for id in 18..=34 {
        add(&mut table, id, id, 1).unwrap();
    }
    assert!(table.get(17).is_none());
    assert_eq!(add(&mut table, 40, 1, 1), Err(JobTableError::Repeated));
    add(&mut table, 40, 1, 2).unwrap();
    table.check(&share(40), 16, 10, 100).unwrap();
    // One without shares may come again.
    assert!(table.get(2).is_none());
    add(&mut table, 41, 2, 1).unwrap();
    // Also one that was retired with its tip.
    table.clear();
    assert_eq!(add(&mut table, 42, 1, 2), Err(JobTableError::Repeated));
}

/// The server gives its newest job again where the client has none of its own: its shares must be known then.
#[test]
fn the_newest_job_of_the_server_makes_no_room_for_others() {
    let prefix = Extranonce::new(&[1, 2, 3, 4]).unwrap();
    let mut table = JobTable::default();
    for id in 1..=2 {
        table.insert(id, job(id, 20), prefix, None, Some(active(1))).unwrap();
        submit(&mut table, id, 1);
    }
    for id in 3..=40 {
        table.insert(id, job(id, 20), prefix, None, Some(custom(id as u8 % 2))).unwrap();
    }
    assert!(table.get(1).is_none() && table.get(2).is_some());
    assert_eq!((table.ids.len(), table.newest_given().unwrap().0), (MAX_LIVE_JOBS, 2));
    // Not even where all others wait for their tips: of those the oldest goes.
    table.retain(|id, _| id == 2);
    for id in 41..=57 {
        table.insert(id, job(id, 20), prefix, None, None).unwrap();
    }
    assert!(table.get(2).is_some() && table.get(42).is_none() && table.get(43).is_some());
    table.insert(58, job(58, 20), prefix, None, Some(active(1))).unwrap();
    assert!(table.get(2).is_some() && table.get(43).is_none(), "not for its successor either");
    table.insert(59, job(59, 20), prefix, None, None).unwrap();
    assert!(table.get(2).is_none() && table.get(58).is_some());
}

/// The server's own jobs can be copied as well, and one job can be brought on two tips.
#[test]
fn copies_of_any_job_do_not_pay_its_shares_again() {
    let prefix = Extranonce::new(&[1, 2, 3, 4]).unwrap();
    let mut table = JobTable::default();
    table.insert(1, job(1, 20), prefix, None, Some(active(1))).unwrap();
    submit(&mut table, 1, 1);
    // Another of ours under a second id: while one of them lives, the other's shares are known.
    table.insert(2, job(1, 20), prefix, None, Some(active(1))).unwrap();
    for id in 3..=17 {
        table.insert(id, job(id, 20), prefix, None, Some(active(1))).unwrap();
    }
    assert!(table.get(1).is_none() && table.get(2).is_some());
    table.insert(18, job(1, 20), prefix, None, Some(custom(1))).unwrap();
    for id in 20..=35 {
        table.insert(id, job(id, 20), prefix, None, Some(active(1))).unwrap();
    }
    assert!(table.get(2).is_none() && table.get(18).is_none());
    let again = table.insert(36, job(1, 20), prefix, None, Some(custom(1)));
    assert_eq!(again, Err(JobTableError::Repeated));

    // The same job on the next tip opens no way back to the last one, nor does its end there.
    table.insert(40, job(1, 20), prefix, None, Some(custom(2))).unwrap();
    let again = |table: &mut JobTable| table.insert(41, job(1, 20), prefix, None, Some(custom(1)));
    assert_eq!(again(&mut table), Err(JobTableError::Repeated));
    submit(&mut table, 40, 1);
    table.clear();
    assert_eq!(again(&mut table), Err(JobTableError::Repeated));
    // A tip that only the client has heard of is none to forget another for.
    table.insert(42, job(1, 20), prefix, None, Some(custom(9))).unwrap();
    table.insert(43, job(43, 20), prefix, None, None).unwrap();
    table.activate(43, active(3)).unwrap();
    assert_eq!(again(&mut table), Err(JobTableError::Repeated));
    // When nobody takes jobs on it any more, what was paid there need not be known.
    assert!(!table.spent.0.is_empty());
    table.forget_other_tips([active(3).tip.prev_hash, active(9).tip.prev_hash].iter());
    assert!(table.spent.0.is_empty(), "{:?}", table.spent);
}

/// Blocks that come one upon the other: jobs on the one before the last may still be taken.
#[test]
fn a_copy_of_a_job_of_two_tips_ago_does_not_pay_its_shares_again() {
    let prefix = Extranonce::new(&[1, 2, 3, 4]).unwrap();
    let mut table = JobTable::default();
    table.expect_custom();
    for mark in 1..=3 {
        let id = u32::from(mark);
        table.insert(id, job(id, 20), prefix, None, None).unwrap();
        table.activate(id, active(mark)).unwrap();
        submit(&mut table, id, 1);
    }
    let again = table.insert(9, job(1, 20), prefix, None, Some(custom(1)));
    assert_eq!(again, Err(JobTableError::Repeated));
    let known = [1, 2, 3].map(|mark| active(mark).tip.prev_hash);
    table.forget_other_tips(known[1..].iter());
    table.insert(9, job(1, 20), prefix, None, Some(custom(1))).unwrap();
}

/// Where the client brings no jobs of its own the server's tips are all there are.
#[test]
fn what_was_paid_on_former_tips_is_forgotten() {
    let prefix = Extranonce::new(&[1, 2, 3, 4]).unwrap();
    let mut table = JobTable::default();
    for mark in 1..=9 {
        let id = u32::from(mark);
        table.insert(id, job(id, 20), prefix, None, None).unwrap();
        table.activate(id, active(mark)).unwrap();
        submit(&mut table, id, 1);
    }
    assert!(table.spent.0.len() <= 2, "{:?}", table.spent);
}

#[test]
fn custom_jobs_of_one_tip_are_bounded() {
    let prefix = Extranonce::new(&[1, 2, 3, 4]).unwrap();
    let mut table = JobTable::default();
    let mut outcome = Ok(());
    let mut id = 0;
    while outcome.is_ok() {
        id += 1;
        outcome = table.insert(id, distinct(id), prefix, None, Some(custom(1)));
        if outcome.is_ok() {
            submit(&mut table, id, 1);
        }
    }
    assert_eq!(outcome, Err(JobTableError::TooManyJobs));
    assert_eq!(id as usize, MAX_SPENT_JOBS + MAX_LIVE_JOBS + 1);
    // Others begin anew, but do not make room for that one; and there are not many of them.
    for mark in 2..10 {
        while table.insert(id, distinct(id), prefix, None, Some(custom(mark))).is_ok() {
            submit(&mut table, id, 1);
            id += 1;
        }
        let again = table.insert(id, distinct(1), prefix, None, Some(custom(1)));
        assert!(matches!(again, Err(JobTableError::Repeated | JobTableError::TooManyJobs)));
    }
    assert!(table.spent.0.len() <= MAX_SPENT_JOBS_IN_ALL + MAX_LIVE_JOBS);
    assert!(table.spent.0.capacity() <= 2 * (MAX_SPENT_JOBS_IN_ALL + MAX_LIVE_JOBS));
    // A new tip of the server's ends that.
    table.forget_other_tips([custom(77).tip.prev_hash].iter());
    table.insert(id, distinct(id), prefix, None, Some(custom(77))).unwrap();
}
