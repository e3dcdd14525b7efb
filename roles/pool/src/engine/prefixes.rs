//! Other extranonce prefixes for channels that are open (`SetExtranoncePrefix`, spec 5.3.10).

use adit_mining::ExtranonceAllocator;
use adit_transport::Outbox;

use super::{Effect, PoolEngine, SLICE_LEN};

impl PoolEngine {
    /// Gives every channel another extranonce prefix, behind this `server_id`, and a job that has it. Shares on jobs
    /// that were sent before count as before. Channels for which there is no prefix left keep theirs.
    pub fn renew_prefixes(&mut self, server_id: u8, out: &mut Outbox<Effect>) {
        let core = &mut self.core;
        if core.server_id != server_id {
            // Slices behind the former id come back to nobody: another process may have it.
            core.server_id = server_id;
            core.extranonces = allocator(server_id);
        }
        core.renewed = true;
        let (mut renewed, mut kept) = (0, 0);
        for (peer, miner) in &mut self.miners {
            for channel in miner.channels.iter_mut() {
                let server = &mut channel.server;
                let Ok(prefix) = core.extranonces.allocate() else {
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
        for (peer, miner) in self.miners.iter_mut().filter(|(_, m)| m.takes_templates()) {
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
                self.core.extranonces.release(&prefix);
            }
        }
    }
}

/// The extranonce space of a process.
pub(super) fn allocator(server_id: u8) -> ExtranonceAllocator {
    ExtranonceAllocator::new(&[server_id], SLICE_LEN).expect("a head of one byte, a slice of three")
}
