use super::*;
use crate::testing::{job, tip};

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
