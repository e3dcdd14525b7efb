//! Shares: judged here and answered at once, sent upstream where they count there.
//!
//! A miner's difficulty is the upstream's rounded down to a whole number, so that a share may meet the one and not the
//! other. Such a share is accepted and not sent: the miner did what it was told, and the upstream pays each share that it
//! takes for the expected hashes of its own, harder target, those that went into the easier ones included.

use adit_mining::share::Seen;
use adit_mining::{BlockHash, Job, Target};
use adit_sv1::server::{Submit, merge_version, write};
use adit_sv1::{Id, Repairs};
use adit_sv2::codec::B032;
use adit_sv2::messages::mining::SubmitSharesExtended;
use adit_sv2::tlv::Tlv;
use adit_transport::{Now, Outbox, PeerId};

use super::aggregate::worker_name;
use super::job::{V1Job, parse_job_id};
use super::miner::Miner;
use super::session::Next;
use super::{Core, Effect};
use crate::metrics::{Onward, Reject};

/// A share on a job of ours, hashed.
struct Judged {
    job: V1Job,
    /// The job is over.
    over: bool,
    ntime: u32,
    nonce: u32,
    version: u32,
    /// What was granted by the upstream, filled: `extranonce1`, `extranonce2`, zeroes.
    extranonce: [u8; 32],
    extranonce_size: usize,
    hash: BlockHash,
    is_block: bool,
}

impl Miner {
    /// `mining.submit`.
    pub(super) fn submit(
        &mut self,
        peer: PeerId,
        id: Option<Id<'_>>,
        share: &Submit<'_>,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Next {
        let judged = match self.judge(share, core).and_then(|judged| self.accept(judged, core, now))
        {
            Ok(judged) => judged,
            Err(reject) => return self.reject(peer, id, reject, core, now, out),
        };
        // First what must not be late.
        let sent = self.send_upstream(peer, &judged, core, now, out);
        if judged.is_block {
            core.metrics.block();
            core.remember_block(judged.hash);
            let (user, hash) = (self.user.as_deref().unwrap_or_default(), judged.hash);
            if sent {
                tracing::info!(%peer, user, %hash, "block found and sent upstream");
            } else {
                // Its job and prefix were known to that connection alone, and the transactions are the upstream's.
                core.metrics.block_lost();
                tracing::error!(%peer, user, %hash, "block lost: found on the work of an upstream that is gone. It cannot be sent later: the next connection has other jobs and another extranonce prefix");
            }
        }
        core.metrics.accepted();
        self.stats.accepted += 1;
        self.stats.last_share = Some(now.instant);
        let work = judged.job.announced.expected_hashes();
        self.stats.hash_rate.add(work as f64, now.instant);
        if let Some(vardiff) = &mut self.aggregated.vardiff {
            vardiff.on_share(work);
        }
        self.stats.best = self.stats.best.max(Target::from_le_bytes(judged.hash.0).difficulty());
        self.behaves();
        if let Some(id) = id {
            core.answer(peer, out, |line| write::result_bool(line, id, true));
        }
        Next::Stay
    }

    /// Refuses a share.
    pub(super) fn reject(
        &mut self,
        peer: PeerId,
        id: Option<Id<'_>>,
        reject: Reject,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> Next {
        core.metrics.rejected(reject);
        self.stats.rejected[reject.index()] += 1;
        tracing::trace!(%peer, reason = reject.label(), "share refused");
        if let Some(id) = id {
            core.answer(peer, out, |line| write::error(line, id, reject.code(), reject.text()));
        }
        // It mines on from before a restart and does not know that it must introduce itself anew.
        if matches!(reject, Reject::NotSubscribed | Reject::Unauthorized)
            && !self.conduct.asked_to_reconnect
            && self.conduct.failed_logins == 0
        {
            self.conduct.asked_to_reconnect = true;
            self.ask_to_reconnect(peer, core, out);
        }
        self.misbehaves(peer, core, now, out)
    }

    /// Finds the job and hashes.
    fn judge(&mut self, share: &Submit<'_>, core: &Core) -> Result<Judged, Reject> {
        let extranonce1 = self.extranonce1.ok_or(Reject::NotSubscribed)?;
        if self.user.is_none() {
            return Err(Reject::Unauthorized);
        }
        let id = parse_job_id(&share.job_id).ok_or(Reject::UnknownJob)?;
        let known = match &core.aggregate {
            Some(all) => {
                all.job(id).map(|job| V1Job { announced: self.told_for(job, id), ..job.clone() })
            }
            None => self.jobs.jobs.get(id).cloned(),
        };
        let over = known.is_none();
        let known = known.or_else(|| match &core.aggregate {
            Some(all) => all.job_over(id),
            None => self.jobs.jobs.get_over(id),
        });
        let Some(job) = known else {
            return Err(if core.was_job_id(id) { Reject::StaleJob } else { Reject::UnknownJob });
        };
        let work = &*job.work;
        let coinbase = work.job.coinbase().ok_or(Reject::UnknownJob)?;
        let extranonce_size = coinbase.full_extranonce_size() - work.prefix.len();
        let mut extranonce = [0; 32];
        extranonce[..extranonce1.len()].copy_from_slice(&extranonce1);
        let extranonce2 = extranonce1.len()..self.own_extranonce_size();
        let mut repairs = share.extranonce2.write_to(&mut extranonce[extranonce2]);
        let mask = if work.version_rolling { self.mask } else { 0 };
        let (version, of_version) = merge_version(work.job.version(), mask, share.version_bits);
        repairs.insert(of_version);
        self.count_repairs(repairs, core);

        let rolled = &extranonce[..extranonce_size];
        let root = work.job.merkle_root(&work.prefix, rolled).ok_or(Reject::UnknownJob)?;
        let hash = Job::header(&work.tip, root, version, share.ntime, share.nonce).hash();
        let is_block = work.tip.network_target.is_met_by(&hash);
        let Submit { ntime, nonce, .. } = *share;
        Ok(Judged { ntime, nonce, version, extranonce, extranonce_size, hash, is_block, job, over })
    }

    /// Decides. A block counts whatever rule of ours it breaks: the network does not know them.
    fn accept(&mut self, judged: Judged, core: &Core, now: Now) -> Result<Judged, Reject> {
        let (job, hash) = (&judged.job, &judged.hash);
        if !judged.is_block {
            if judged.over {
                return Err(Reject::StaleJob);
            }
            let ahead = job.work.age(now.instant).max(core.max_ntime_ahead);
            let window = job.work.min_ntime..=job.work.min_ntime.saturating_add(ahead);
            if !window.contains(&judged.ntime) {
                return Err(Reject::Ntime);
            }
            if !job.announced.is_met_by(hash) && !job.work.target.is_met_by(hash) {
                return Err(Reject::LowDifficulty);
            }
        }
        let tip = job.work.tip.prev_hash;
        if judged.over {
            let newest = match &core.aggregate {
                Some(all) => all.jobs.newest(),
                None => self.jobs.newest(),
            };
            if newest.is_none_or(|newest| newest.work.tip.prev_hash != tip) {
                // Of an upstream that was left: what was seen on the present tip is not forgotten for that.
                return if core.blocks.contains(hash) {
                    Err(Reject::Duplicate)
                } else {
                    Ok(judged)
                };
            }
        }
        match self.jobs.see(hash, &tip) {
            Seen::Before => Err(Reject::Duplicate),
            Seen::Full if !judged.is_block => Err(Reject::TooMany),
            Seen::New | Seen::Full => Ok(judged),
        }
    }

    /// Where it came from, if that is still there and takes it.
    fn send_upstream(
        &mut self,
        peer: PeerId,
        judged: &Judged,
        core: &mut Core,
        now: Now,
        out: &mut Outbox<Effect>,
    ) -> bool {
        let work = &*judged.job.work;
        let channel = match &mut core.aggregate {
            Some(all) if all.channel.via == work.via => Some(&mut all.channel),
            Some(_) => core.left.as_deref_mut(),
            None => {
                let mut channels = self.channel.iter_mut().chain(&mut self.leaving);
                channels.find(|channel| channel.via == work.via).map(|channel| &mut **channel)
            }
        };
        let channel = channel.filter(|channel| judged.job.live && channel.via == work.via);
        let Some(channel) = channel else {
            core.metrics.onward(Onward::NoUpstream, 1);
            return false;
        };
        if !work.target.is_met_by(&judged.hash) && !judged.is_block {
            core.metrics.onward(Onward::BelowTarget, 1);
            return false;
        }
        let extranonce = B032::new(&judged.extranonce[..judged.extranonce_size]);
        let message = SubmitSharesExtended {
            channel_id: channel.id,
            sequence_number: channel.window.sent(peer, now.instant),
            job_id: work.job_id,
            nonce: judged.nonce,
            ntime: judged.ntime,
            version: judged.version,
            extranonce: extranonce.expect("a part of 32 bytes"),
        };
        channel.unacknowledged += 1;
        let (acks, names) = match core.upstream == Some(channel.via) {
            true => (&mut core.acks, core.worker_names),
            false => (&mut core.late_acks, core.late_worker_names),
        };
        let name = self.user.as_deref().map(worker_name).filter(|_| names);
        match name.and_then(|name| Tlv::user_identity(name.as_bytes()).ok()) {
            Some(name) => out.send_tlv(channel.via, &message, &[name]),
            None => out.send(channel.via, &message),
        }
        acks.sent(now.instant);
        core.metrics.onward(Onward::Sent, 1);
        true
    }

    /// Counts what had to be repaired of a line, for its firmware.
    pub(super) fn count_repairs(&mut self, repairs: Repairs, core: &Core) {
        if !repairs.is_empty() {
            core.metrics.repairs(repairs, core.firmware.label(self.firmware));
            self.stats.repaired_lines += 1;
        }
    }
}
