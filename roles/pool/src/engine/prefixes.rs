//! Other extranonce prefixes for channels that are open (`SetExtranoncePrefix`, spec 5.3.10).

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use adit_mining::{Extranonce, ExtranonceAllocator};
use adit_transport::Outbox;

use super::{Effect, PoolEngine, SLICE_LEN};

impl PoolEngine {
    /// Gives every channel another extranonce prefix, behind this `server_id` or the present one, and a job that has it.
    /// Shares on jobs that were sent before count as before. Channels for which there is no prefix left keep theirs.
    pub fn renew_prefixes(&mut self, server_id: Option<u8>, out: &mut Outbox<Effect>) {
        let core = &mut self.core;
        let server_id = server_id.unwrap_or(core.extranonces.server_id());
        core.extranonces.move_to(server_id);
        core.renewed = true;
        let (mut renewed, mut kept) = (0, 0);
        for (peer, miner) in &mut self.miners {
            for channel in miner.channels.iter_mut() {
                let server = &mut channel.server;
                let Some(prefix) = core.extranonces.allocate() else {
                    kept += 1;
                    continue;
                };
                let prefix = prefix.padded(server.extranonce_prefix().len());
                // Of equal length by construction.
                let Ok(message) = server.set_extranonce_prefix(prefix) else { continue };
                renewed += 1;
                // A device that takes standard jobs only has no use for it: it is given merkle roots.
                if !miner.session.standard_jobs {
                    out.send(*peer, &message);
                }
            }
        }
        let id = core.bench.allocate_id();
        for (peer, miner) in &mut self.miners {
            core.bench.send_again(id, *peer, &mut miner.channels, out);
        }
        core.metrics.prefixes_renewed(renewed);
        tracing::info!(server_id, renewed, kept, "channels have other extranonce prefixes");
    }

    /// Takes back prefixes that no job has any more; to be asked after a new tip.
    pub(super) fn reclaim_prefixes(&mut self) {
        if !self.core.renewed {
            return;
        }
        for channel in self.miners.values_mut().flat_map(|miner| miner.channels.iter_mut()) {
            while let Some(prefix) = channel.server.take_unused_prefix() {
                let found = channel.found().max(Found::Some);
                self.core.extranonces.release(&prefix, found);
            }
        }
    }
}

/// The extranonce spaces of this process: that of its `server_id`, and those of former ones, which channels and jobs may
/// still have a part of.
#[derive(Debug)]
pub(super) struct Extranonces {
    server_id: u8,
    /// The first slice of each.
    start: u32,
    spaces: BTreeMap<u8, Space>,
}

/// How far apart the slices of two runs begin: the golden section of the space, so that those of any few runs in a row are
/// as far apart as so many can be. What was found with a slice in the run before may still count, and would be paid to its
/// next owner once more.
const STRIDE: u32 = 0x9e_3779;

/// What shares were accepted with a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Found {
    Nothing,
    Some,
    /// Maybe also on a tip that the pool had not seen.
    Ahead,
}

/// Of the run with this number.
pub(super) fn start(run: u64) -> u32 {
    (run as u32).wrapping_mul(STRIDE)
}

#[derive(Debug)]
struct Space {
    slices: ExtranonceAllocator,
    /// Until when jobs on tips that were left count: one for each that the slices rest for, oldest first.
    graces: VecDeque<Instant>,
}

impl Extranonces {
    /// For the pool's run with this number.
    pub(super) fn new(server_id: u8, run: u64) -> Self {
        let start = start(run);
        let mut extranonces = Self { server_id, start, spaces: BTreeMap::new() };
        extranonces.move_to(server_id);
        extranonces
    }

    pub(super) fn server_id(&self) -> u8 {
        self.server_id
    }

    fn move_to(&mut self, server_id: u8) {
        let start = self.start;
        self.server_id = server_id;
        self.spaces.entry(server_id).or_insert_with(|| {
            let slices = ExtranonceAllocator::new(&[server_id], SLICE_LEN)
                .expect("a head of one byte, a slice of three");
            let slices = slices.starting_at(start);
            Space { slices, graces: VecDeque::new() }
        });
    }

    /// The lowest free slice behind the present `server_id`; none where all are taken.
    pub(super) fn allocate(&mut self) -> Option<Extranonce> {
        self.spaces.get_mut(&self.server_id)?.slices.allocate().ok()
    }

    /// Takes a slice back. What no share was found on may be given to the next one at once, if need be.
    pub(super) fn release(&mut self, prefix: &Extranonce, found: Found) {
        let Some(space) = prefix.first().and_then(|id| self.spaces.get_mut(id)) else { return };
        match found {
            Found::Nothing => space.slices.release_unused(prefix),
            Found::Some => space.slices.release(prefix),
            Found::Ahead => space.slices.release_ahead(prefix),
        };
    }

    /// Shares of custom jobs on the tip before count until `grace`. Who got a slice of then could bring the same jobs and
    /// be paid for the same shares.
    pub(super) fn new_prev_hash(&mut self, grace: Option<Instant>) {
        for space in self.spaces.values_mut() {
            match grace {
                Some(until) => {
                    space.slices.new_prev_hash_with_grace();
                    space.graces.push_back(until);
                }
                None => space.slices.new_prev_hash(),
            }
        }
    }

    /// Graces that are over.
    pub(super) fn tick(&mut self, now: Instant) {
        for Space { slices, graces } in self.spaces.values_mut() {
            while graces.front().is_some_and(|until| *until <= now) {
                graces.pop_front();
                slices.grace_over();
            }
        }
    }

    /// Slices that are handed out.
    #[cfg(test)]
    pub(super) fn in_use(&self) -> u64 {
        self.spaces.values().map(|space| space.slices.in_use()).sum()
    }
}
