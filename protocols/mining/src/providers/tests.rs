use super::*;
use crate::target::Target;
use crate::template::Template;
use crate::testing::{new_template, template};

/// Template providers on simulated time.
struct Sim {
    providers: TemplateProviders,
    now: Instant,
}

impl Sim {
    fn new(count: usize) -> Self {
        Self { providers: TemplateProviders::new(count), now: Instant::now() }
    }

    fn later(&mut self, by: Duration) -> Option<Chosen> {
        self.now += by;
        self.providers.choose(self.now)
    }

    /// A tip of its own and a template on it, for a block of this height.
    fn work(&mut self, index: usize, height: u8) -> Option<Chosen> {
        let id = u64::from(height);
        let coinbase_prefix = vec![1, height];
        let template = Template { future: true, coinbase_prefix, ..template(id) };
        self.providers.new_template(index, &new_template(&template), self.now);
        self.tip(index, id, height << 4 | index as u8);
        self.providers.choose(self.now)
    }

    fn tip(&mut self, index: usize, template_id: u64, mark: u8) {
        let message = td::SetNewPrevHash {
            template_id,
            prev_hash: [mark; 32],
            header_timestamp: 1_700_000_000,
            n_bits: 0x1d00_ffff,
            target: Target::DIFFICULTY_1.to_le_bytes(),
        };
        self.providers.set_new_prev_hash(index, &message, self.now);
    }

    fn lose(&mut self, index: usize) -> Option<Chosen> {
        self.providers.disconnected(index);
        self.providers.choose(self.now)
    }

    fn in_force(&self) -> (usize, u64) {
        let (index, work) = self.providers.work().unwrap();
        (index, work.template().id)
    }
}

const fn to(provider: usize) -> Option<Chosen> {
    Some(Chosen { provider, left_behind: None })
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_first_that_gives_work_is_used_and_the_preferred_one_once_it_is_well() {
    let mut sim = Sim::new(3);
    assert_eq!(sim.later(SECOND), None);
    assert!(sim.providers.work().is_none());
    assert_eq!(sim.work(1, 5), to(1));
    assert_eq!(sim.work(2, 5), None);
    assert_eq!(sim.work(0, 5), None);
    assert_eq!(sim.later(WELL_AFTER - SECOND), None);
    assert_eq!(sim.later(SECOND), to(0));
    assert_eq!(sim.later(WELL_AFTER * 10), None);
    assert_eq!(sim.in_force(), (0, 5));
}

#[test]
fn the_next_takes_over_at_once_and_work_outlives_the_last() {
    let mut sim = Sim::new(2);
    sim.work(0, 5);
    sim.work(1, 6);
    assert_eq!(sim.lose(0), to(1));
    assert!(!sim.providers.has_fresh_work(0) && sim.providers.has_fresh_work(1));
    assert_eq!(sim.lose(1), None);
    assert_eq!((sim.providers.in_use(), sim.in_force()), (Some(1), (1, 6)));
    // With nothing fresh there is no reason to wait.
    assert_eq!(sim.work(0, 6), to(0));
}

#[test]
fn one_that_is_behind_takes_over_only_where_the_one_in_use_stays_away() {
    let mut sim = Sim::new(2);
    sim.work(0, 6);
    sim.work(1, 5);
    for _ in 0..2 {
        assert_eq!(sim.lose(0), None);
        assert_eq!(sim.later(BEHIND_FOR - SECOND), None);
        assert_eq!(sim.in_force(), (0, 6), "nobody is idle meanwhile");
        assert_eq!(sim.work(0, 6), None, "back in time");
    }
    sim.lose(0);
    assert_eq!(sim.later(BEHIND_FOR), to(1));
    assert_eq!(sim.in_force(), (1, 5));
    // What was better and is further up is gone back to at once.
    assert_eq!(sim.work(0, 6), Some(Chosen { provider: 0, left_behind: Some(1) }));
    // The one in use is believed when it says that the chain went back.
    assert_eq!(sim.work(0, 4), None);
    assert_eq!(sim.in_force(), (0, 4));
}

#[test]
fn of_several_the_first_that_is_not_behind_takes_over_at_once() {
    let mut sim = Sim::new(4);
    for (index, height) in [(0, 6), (1, 5), (2, 6), (3, 7)] {
        sim.work(index, height);
    }
    assert_eq!(sim.lose(0), to(2));
    assert_eq!(sim.lose(2), to(3));
    // Of those left all are behind, and one that catches up is not.
    assert_eq!(sim.lose(3), None);
    assert_eq!(sim.work(1, 7), to(1));
}

#[test]
fn one_that_stays_behind_is_left_and_not_gone_back_to_before_it_keeps_up() {
    let mut sim = Sim::new(2);
    sim.work(0, 5);
    sim.work(1, 6);
    assert_eq!(sim.later(BEHIND_FOR - SECOND), None);
    assert_eq!(sim.later(SECOND), Some(Chosen { provider: 1, left_behind: Some(0) }));
    assert_eq!(sim.later(WELL_AFTER * 10), None);
    assert_eq!(sim.work(0, 6), None);
    assert_eq!(sim.later(WELL_AFTER - SECOND), None);
    assert_eq!(sim.later(SECOND), to(0));
}

#[test]
fn one_that_catches_up_in_time_is_kept() {
    let mut sim = Sim::new(2);
    sim.work(0, 5);
    for height in 6..9 {
        sim.work(1, height);
        assert_eq!(sim.later(BEHIND_FOR - SECOND), None);
        sim.work(0, height);
    }
    assert_eq!(sim.providers.in_use(), Some(0));
}

#[test]
fn a_rival_of_the_same_height_is_not_ahead() {
    let mut sim = Sim::new(2);
    sim.work(0, 5);
    sim.work(1, 5);
    assert_eq!(sim.later(BEHIND_FOR), None);
}

#[test]
fn a_tip_without_a_template_is_no_work() {
    let mut sim = Sim::new(2);
    sim.work(0, 5);
    sim.work(1, 5);
    sim.tip(0, 99, 6);
    assert!(sim.providers.work().is_none());
    assert_eq!(sim.later(SECOND), None);
    assert_eq!(sim.later(BEHIND_FOR), Some(Chosen { provider: 1, left_behind: Some(0) }));
    // The first is not taken for what it does not have, even where no other is well.
    assert_eq!(sim.lose(1), None);
    assert_eq!(sim.in_force(), (1, 5));
}
