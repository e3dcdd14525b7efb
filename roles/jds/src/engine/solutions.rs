//! `PushSolution` (spec 6.4.9).

use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_job_declaration::{Block, SolutionError};
use adit_sv2::codec::B032;
use adit_sv2::messages::job_declaration::PushSolution;
use adit_transport::{Now, Outbox, PeerId};

use super::{Effect, Jds, Job};

/// A solved block.
#[derive(Clone, Debug)]
pub struct Found {
    /// The block.
    pub block: Block,
    /// Its height.
    pub height: u32,
    /// [`Job::serial`].
    pub job: u64,
}

/// A solution that no job was known for when it came: its declaration may still be on its way.
#[derive(Clone, Debug)]
pub(super) struct HeldSolution {
    extranonce: Vec<u8>,
    prev_hash: [u8; 32],
    nonce: u32,
    ntime: u32,
    nbits: u32,
    version: u32,
    until: Instant,
}

impl HeldSolution {
    fn new(solution: &PushSolution<'_>, until: Instant) -> Self {
        let PushSolution { extranonce, prev_hash, nonce, ntime, nbits, version } = *solution;
        let extranonce = extranonce.as_bytes().to_vec();
        Self { extranonce, prev_hash, nonce, ntime, nbits, version, until }
    }

    fn solution(&self) -> Option<PushSolution<'_>> {
        let extranonce = B032::new(&self.extranonce).ok()?;
        let Self { prev_hash, nonce, ntime, nbits, version, .. } = *self;
        Some(PushSolution { extranonce, prev_hash, nonce, ntime, nbits, version })
    }
}

impl Jds {
    /// The solved blocks since the last call.
    pub fn take_found(&mut self) -> Vec<Found> {
        self.found.drain(..).collect()
    }

    pub(super) fn on_solution(
        &mut self,
        peer: PeerId,
        solution: &PushSolution<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Some(client) = self.clients.get_mut(&peer) else { return };
        if !client.pushes.take(now.instant) {
            return self.metrics.solution("rate-limited");
        }
        let Some(client) = self.clients.get(&peer) else { return };
        // The last accepted comes first, as the spec has it; then what the client declared before, or has not got an
        // answer to yet; then what others declared, which may be itself before it reconnected.
        let pending = client.pending.iter().rev().filter_map(|d| self.job_in_check(d));
        let jobs = client.accepted.iter().chain(pending).chain(self.jobs.iter().rev());
        let mut nearest: Option<SolutionError> = None;
        let mut hashed = 0.0;
        for job in jobs {
            match job.declared.solve(solution) {
                Ok(block) => {
                    let found = Found { block, height: job.height, job: job.serial };
                    return self.solved(found, out);
                }
                // Of the first job it was meant for.
                Err(SolutionError::PrevHash) => {}
                Err(error) => {
                    if matches!(error, SolutionError::AboveTarget(_)) {
                        hashed += 1.0;
                    }
                    nearest = nearest.or(Some(error));
                }
            }
        }
        let reason = nearest.unwrap_or(SolutionError::PrevHash);
        tracing::debug!(%peer, %reason, "solution of no known job");
        let Some(client) = self.clients.get_mut(&peer) else { return };
        client.pushes.charge(hashed / JOBS_PER_PUSH);
        if client.solutions.len() >= MAX_HELD {
            client.solutions.pop_front();
            self.metrics.solution("invalid");
        }
        client.solutions.push_back(HeldSolution::new(solution, now.instant + HELD));
    }

    /// Tries what the client pushed before its declaration got so far.
    pub(super) fn try_held_solutions(
        &mut self,
        peer: PeerId,
        job: &Arc<Job>,
        _: Now,
        out: &mut Outbox<Effect>,
    ) {
        let Some(client) = self.clients.get_mut(&peer) else { return };
        let mut blocks = Vec::new();
        client.solutions.retain(|held| {
            let solved = held.solution().and_then(|solution| job.declared.solve(&solution).ok());
            blocks.extend(solved.clone());
            solved.is_none()
        });
        for block in blocks {
            self.solved(Found { block, height: job.height, job: job.serial }, out);
        }
    }

    pub(super) fn forget_solutions(&mut self, now: Now) {
        for client in self.clients.values_mut() {
            while client.solutions.front().is_some_and(|held| held.until <= now.instant) {
                client.solutions.pop_front();
                tracing::warn!(remote = %client.remote, "solution of no known job: no block can be built");
                self.metrics.solution("invalid");
            }
        }
    }

    fn solved(&mut self, found: Found, out: &mut Outbox<Effect>) {
        if self.found.len() >= MAX_FOUND {
            tracing::error!(hash = %found.block.hash, "block dropped: too many wait for the disk");
            return self.metrics.solution("dropped");
        }
        self.found.push_back(found);
        out.effect(Effect::Found);
    }
}

/// What is no block costs its client one more for so many jobs that it was tried on, some microseconds each.
const JOBS_PER_PUSH: f64 = 8.0;
/// How long a solution waits for its declaration.
const HELD: Duration = Duration::from_secs(10);
/// Solutions of one client that wait.
const MAX_HELD: usize = 8;
/// Blocks that wait for the disk, some megabytes each.
const MAX_FOUND: usize = 64;
