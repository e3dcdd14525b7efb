//! Several template providers: all are followed, the work of one is in force.
//!
//! The first in the order of preference that gives work is used. When it is lost the next one that has work takes over
//! at once, unless that is for a lower block than the work in force: then what is lost has [`BEHIND_FOR`] to come back,
//! and the work in force stays, as it does when there is no other. One further up takes over again once it has been well
//! for [`WELL_AFTER`], or has work for a higher block. One that is a block behind another for [`BEHIND_FOR`] is left for
//! that one, however quiet and healthy its connection is.

use std::time::{Duration, Instant};

use adit_sv2::messages::template_distribution as td;

use crate::template::{TemplateEvent, TemplateTracker, Work};

/// A provider that was lost and is back is not trusted at once: it may be about to go again.
pub const WELL_AFTER: Duration = Duration::from_secs(10);
/// A provider that is a block behind another one for so long is left: its node has stalled, or it says nothing any more.
/// For so long one that is behind is not taken when the one in use is lost.
pub const BEHIND_FOR: Duration = Duration::from_secs(15);

/// Follows template providers, by index in the order of preference, and chooses the one whose work is in force.
///
/// Messages and losses are told as they come, and [`choose`](Self::choose) is called after them and now and then: some of
/// what it goes by is the passing of time. All methods with an index panic where there is no provider of that index.
#[derive(Clone, Debug)]
pub struct TemplateProviders {
    each: Vec<Provider>,
    in_use: Option<usize>,
    /// Since when the one in use is lost.
    lost_since: Option<Instant>,
}

#[derive(Clone, Debug, Default)]
struct Provider {
    /// Kept over a loss: what it gave stays in force until there is something newer.
    tracker: TemplateTracker,
    /// Since when this connection has given a template with its tip, and one no lower than the work in force.
    well_since: Option<Instant>,
    /// Since when it has had a higher one than the provider in use.
    ahead_since: Option<Instant>,
}

/// Another provider's work is in force than before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Chosen {
    /// The one that is in use now.
    pub provider: usize,
    /// The one that was left, where that is because it is behind.
    pub left_behind: Option<usize>,
}

impl TemplateProviders {
    /// So many of them, none of which has given anything.
    pub fn new(count: usize) -> Self {
        Self { each: vec![Provider::default(); count], in_use: None, lost_since: None }
    }

    /// Takes a `NewTemplate`.
    pub fn new_template(
        &mut self,
        index: usize,
        message: &td::NewTemplate<'_>,
        now: Instant,
    ) -> TemplateEvent {
        let event = self.each[index].tracker.new_template(message);
        self.each[index].heard(event, now)
    }

    /// Takes a `SetNewPrevHash`.
    pub fn set_new_prev_hash(
        &mut self,
        index: usize,
        message: &td::SetNewPrevHash,
        now: Instant,
    ) -> TemplateEvent {
        let event = self.each[index].tracker.set_new_prev_hash(message);
        self.each[index].heard(event, now)
    }

    /// The connection ended.
    pub fn disconnected(&mut self, index: usize) {
        let provider = &mut self.each[index];
        provider.well_since = None;
        provider.tracker.disconnected();
    }

    /// What a provider has told.
    pub fn tracker(&self, index: usize) -> &TemplateTracker {
        &self.each[index].tracker
    }

    /// Whether a provider's work is from its present connection.
    pub fn has_fresh_work(&self, index: usize) -> bool {
        self.each[index].well_since.is_some()
    }

    /// The provider whose work is in force; it may be gone since.
    pub fn in_use(&self) -> Option<usize> {
        self.in_use
    }

    /// The work in force, and the index of the provider that it is from.
    pub fn work(&self) -> Option<(usize, Work)> {
        let index = self.in_use?;
        Some((index, self.each[index].tracker.work()?))
    }

    /// Puts the best provider's work into force, if that is another one than now.
    pub fn choose(&mut self, now: Instant) -> Option<Chosen> {
        let in_use = self.in_use.filter(|index| self.has_fresh_work(*index));
        self.compare(in_use, now);
        self.lost_since = if in_use.is_some() { None } else { self.lost_since.or(Some(now)) };
        let long = |since: Instant, time: Duration| now.duration_since(since) >= time;
        let given_up = self.lost_since.is_some_and(|since| long(since, BEHIND_FOR));
        let lost = self.in_use.map(|index| &self.each[index]).filter(|_| !given_up);
        let better = |(index, provider): &(usize, &Provider)| match (in_use, provider.well_since) {
            (_, None) => false,
            (None, Some(_)) => !lost.is_some_and(|lost| provider.is_behind(lost)),
            (Some(in_use), Some(since)) => {
                let ahead = provider.ahead_since;
                *index < in_use && (long(since, WELL_AFTER) || ahead.is_some())
                    || ahead.is_some_and(|since| long(since, BEHIND_FOR))
            }
        };
        let mut with_work =
            self.each.iter().enumerate().filter(|(_, provider)| provider.tracker.work().is_some());
        let (provider, chosen) = with_work.find(better)?;
        let left_behind = in_use.filter(|_| chosen.ahead_since.is_some());
        self.in_use = Some(provider);
        Some(Chosen { provider, left_behind })
    }

    /// Which providers are ahead of the one in use. One that is behind is not well: it is not gone back to before it has
    /// kept up for a while.
    fn compare(&mut self, in_use: Option<usize>, now: Instant) {
        for index in 0..self.each.len() {
            let provider = &self.each[index];
            let rival = in_use.map(|in_use| &self.each[in_use]);
            let rival = rival.filter(|_| provider.well_since.is_some());
            let ahead = rival.is_some_and(|rival| rival.is_behind(provider));
            let behind = rival.is_some_and(|rival| provider.is_behind(rival));
            let provider = &mut self.each[index];
            provider.ahead_since = if ahead { provider.ahead_since.or(Some(now)) } else { None };
            if behind {
                provider.well_since = Some(now);
            }
        }
    }
}

impl Provider {
    fn heard(&mut self, event: TemplateEvent, now: Instant) -> TemplateEvent {
        if let TemplateEvent::NewTip(_) | TemplateEvent::Newer(_) = event {
            self.well_since.get_or_insert(now);
        }
        event
    }

    /// Whether the other one has work for a higher block, or has work at all where this one has none.
    fn is_behind(&self, other: &Self) -> bool {
        let height = |provider: &Self| provider.tracker.work().map(|work| work.template().height());
        match (height(self), height(other)) {
            (None, Some(_)) => true,
            (Some(Some(its)), Some(Some(others))) => its < others,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
