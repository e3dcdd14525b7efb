use super::*;
use crate::testing::{new_template, template};

fn future(id: u64) -> Template {
    Template { future: true, ..template(id) }
}

fn prev_hash(template_id: u64, mark: u8) -> td::SetNewPrevHash {
    td::SetNewPrevHash {
        template_id,
        prev_hash: [mark; 32],
        header_timestamp: 1_700_000_000,
        n_bits: 0x1d00_ffff,
        target: Target::DIFFICULTY_1.to_le_bytes(),
    }
}

fn work(event: TemplateEvent) -> (u64, u8) {
    match event {
        TemplateEvent::NewTip(work) | TemplateEvent::Newer(work) => {
            (work.template().id, work.tip().prev_hash[0])
        }
        other => panic!("no work in {other:?}"),
    }
}

#[test]
fn a_template_survives_the_way() {
    let sent = future(5);
    let mut tracker = TemplateTracker::new();
    match tracker.new_template(&new_template(&sent)) {
        TemplateEvent::Future(got) => assert_eq!(*got, sent),
        other => panic!("{other:?}"),
    }
    let TemplateEvent::NewTip(work) = tracker.set_new_prev_hash(&prev_hash(5, 9)) else { panic!() };
    assert_eq!(**work.template(), sent);
    let tip = work.tip();
    assert_eq!((tip.prev_hash, tip.min_ntime, tip.nbits), ([9; 32], 1_700_000_000, 0x1d00_ffff));
    assert_eq!((tip.network_target, tip.network_work), (Target::DIFFICULTY_1, 4_295_032_833));
    let message = tip.set_new_prev_hash(3, 77);
    assert_eq!((message.channel_id, message.job_id, message.nbits), (3, 77, 0x1d00_ffff));
    assert_eq!(Tip::from_mining(&message).as_ref(), Some(&**tip));
    assert_eq!(Tip::from_mining(&mining::SetNewPrevHash { nbits: 0, ..message }), None);
}

/// The peer's trap: a channel opened between template B and B's prevhash was given B on tip A.
#[test]
fn a_waiting_template_is_never_combined_with_the_old_tip() {
    let mut tracker = TemplateTracker::new();
    tracker.new_template(&new_template(&future(1)));
    assert!(tracker.work().is_none());
    tracker.set_new_prev_hash(&prev_hash(1, 0xa));
    tracker.new_template(&new_template(&future(2)));
    let now = tracker.work().unwrap();
    assert_eq!((now.template().id, now.tip().prev_hash[0]), (1, 0xa));
    assert_eq!(tracker.futures().map(|t| t.id).collect::<Vec<_>>(), [2]);
    assert_eq!(work(tracker.set_new_prev_hash(&prev_hash(2, 0xb))), (2, 0xb));
    assert_eq!(tracker.futures().count(), 0);
}

#[test]
fn all_future_templates_are_tracked_and_matched_by_id() {
    let mut tracker = TemplateTracker::new();
    for id in [1, 2, 3] {
        tracker.new_template(&new_template(&future(id)));
    }
    assert_eq!(work(tracker.set_new_prev_hash(&prev_hash(2, 7))), (2, 7));
    // 3 was for another tip than the one that came.
    assert!(matches!(tracker.set_new_prev_hash(&prev_hash(3, 8)), TemplateEvent::TipAhead(_)));
    assert!(tracker.work().is_none());
}

#[test]
fn newer_templates_replace_the_first_of_a_tip() {
    let mut tracker = TemplateTracker::new();
    assert!(matches!(tracker.new_template(&new_template(&template(1))), TemplateEvent::Ignored));
    tracker.new_template(&new_template(&future(2)));
    tracker.set_new_prev_hash(&prev_hash(2, 7));
    let newer = tracker.new_template(&new_template(&template(3)));
    assert!(matches!(newer, TemplateEvent::Newer(_)));
    assert_eq!(work(newer), (3, 7));
    assert_eq!(tracker.work().unwrap().template().id, 3);
}

#[test]
fn a_tip_without_its_template_waits_for_one() {
    let mut tracker = TemplateTracker::new();
    tracker.new_template(&new_template(&future(1)));
    tracker.set_new_prev_hash(&prev_hash(1, 7));
    assert!(matches!(tracker.set_new_prev_hash(&prev_hash(99, 8)), TemplateEvent::TipAhead(_)));
    assert_eq!(tracker.tip().unwrap().prev_hash[0], 8);
    let event = tracker.new_template(&new_template(&template(2)));
    assert!(matches!(event, TemplateEvent::NewTip(_)));
    assert_eq!(work(event), (2, 8));
}

#[test]
fn an_earlier_tip_may_come_back() {
    let mut tracker = TemplateTracker::new();
    for (id, mark) in [(1, 10), (2, 11), (3, 10)] {
        tracker.new_template(&new_template(&future(id)));
        assert_eq!(work(tracker.set_new_prev_hash(&prev_hash(id, mark))), (id, mark));
    }
}

#[test]
fn a_reconnect_keeps_the_work_but_no_ids() {
    let mut tracker = TemplateTracker::new();
    tracker.new_template(&new_template(&future(1)));
    tracker.set_new_prev_hash(&prev_hash(1, 7));
    tracker.new_template(&new_template(&future(2)));
    tracker.disconnected();
    assert_eq!(tracker.work().unwrap().template().id, 1);
    // The new connection counts from 1 again; its 2 is not the old one's 2.
    assert!(matches!(tracker.set_new_prev_hash(&prev_hash(2, 8)), TemplateEvent::TipAhead(_)));
}

/// The chain may have gone on meanwhile: a template is not for the tip of the connection before.
#[test]
fn a_template_of_a_new_connection_waits_for_its_tip() {
    let mut tracker = TemplateTracker::new();
    tracker.new_template(&new_template(&future(1)));
    tracker.set_new_prev_hash(&prev_hash(1, 7));
    tracker.disconnected();
    assert!(matches!(tracker.new_template(&new_template(&template(2))), TemplateEvent::Ignored));
    assert_eq!(tracker.work().unwrap().template().id, 1, "work goes on");
    tracker.new_template(&new_template(&future(3)));
    assert_eq!(work(tracker.set_new_prev_hash(&prev_hash(3, 8))), (3, 8));
    assert_eq!(work(tracker.new_template(&new_template(&template(4)))), (4, 8));
}

#[test]
fn a_template_knows_its_height() {
    let height =
        |prefix: &[u8]| Template { coinbase_prefix: prefix.to_vec(), ..template(1) }.height();
    assert_eq!(height(&[0x51]), Some(1));
    assert_eq!(height(&[0x60, 9]), Some(16));
    assert_eq!(height(&[1, 17]), Some(17));
    assert_eq!(height(&[3, 0x40, 0x0d, 0x0c, 0xff]), Some(789_824));
    assert_eq!(height(&[4, 0, 0, 0, 1]), Some(1 << 24));
    assert_eq!((height(&[]), height(&[3, 1, 2]), height(&[0x61])), (None, None, None));
}

#[test]
fn waiting_templates_are_bounded() {
    let mut tracker = TemplateTracker::new();
    for id in 0..1_000 {
        tracker.new_template(&new_template(&future(id)));
    }
    assert_eq!(tracker.futures().count(), MAX_FUTURE_TEMPLATES);
    assert_eq!(work(tracker.set_new_prev_hash(&prev_hash(999, 7))), (999, 7));
}
