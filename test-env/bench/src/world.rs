//! One pool's circumstances, given to both sides: templates, tips, payouts, channels.

use std::sync::Arc;

use adit_mining::channel::ChannelOptions;
use adit_mining::{
    ChannelKind, Extranonce, Job, JobFactory, Payouts, ServerChannel, Target, Template, Tip,
};
use anyhow::Context;
use bitcoin::{Amount, ScriptBuf, TxOut};
use channels_sv2::extranonce_manager::ExtranonceAllocator;
use channels_sv2::server::extended::ExtendedChannel;
use channels_sv2::server::standard::StandardChannel;
use template_distribution_sv2::{NewTemplateOwned, SetNewPrevHashOwned};

use crate::wire::peer_error;

/// The channel's id on its connection.
pub(crate) const CHANNEL_ID: u32 = 2;
/// `min_ntime` of every tip.
pub(crate) const MIN_NTIME: u32 = 1_800_000_000;
/// Header version of every template.
pub(crate) const VERSION: u32 = 0x2000_0000;
/// Bytes of extranonce that a client rolls.
pub(crate) const EXTRANONCE_SIZE: usize = 8;

/// Bytes of the whole extranonce: a server's byte, three of the channel, the client's.
const FULL_EXTRANONCE_SIZE: usize = 4 + EXTRANONCE_SIZE;
/// As hard as mainnet: no share is a block by chance.
const NBITS: u32 = 0x1702_3a04;
/// SRI keeps a budget of shares per tip: 1,200 times this, and at most 2^20.
const SHARES_PER_MINUTE: f32 = 100.0;
/// What SRI puts around a pool's tag: with `/` inside both scriptSigs are the same.
const POOL_TAG: &str = "bench";
const VALUE: u64 = 312_500_000 + 4_321_987;
const USER: &str = "bench.worker";

/// The same factory as SRI's: tag, payouts, version rolling.
pub(crate) fn factory() -> anyhow::Result<JobFactory> {
    let payouts = Payouts::new([
        ([&[0x51, 0x20][..], &[0x11; 32]].concat(), 98),
        ([&[0x00, 0x14][..], &[0x22; 20]].concat(), 2),
    ])?;
    let tag = format!("Sv2/{POOL_TAG}//").into_bytes();
    Ok(JobFactory { tag, payouts, version_rolling_allowed: true })
}

/// The payouts of [`factory`] as SRI takes them: with their values.
pub(crate) fn peer_outputs() -> anyhow::Result<Vec<TxOut>> {
    let factory = factory()?;
    let output = |output: adit_mining::coinbase::Output<'_>| TxOut {
        value: Amount::from_sat(output.value),
        script_pubkey: ScriptBuf::from_bytes(output.script_pubkey.to_vec()),
    };
    Ok(factory.payouts.split(VALUE).map(output).collect())
}

/// A template with 12 merkle steps, told apart by its id.
pub(crate) fn template(id: u64, future: bool) -> Template {
    let commitment = [&[0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed][..], &[id as u8; 32]].concat();
    let op_return = |script: &[u8]| [&[0; 8][..], &[script.len() as u8], script].concat();
    let merge_mining = [&[0x6a, 0x29][..], b"RSKBLOCK:", &[0x77; 32]].concat();
    let mut step = [0; 32];
    step[..8].copy_from_slice(&id.to_le_bytes());
    Template {
        id,
        future,
        version: VERSION,
        coinbase_tx_version: 2,
        coinbase_prefix: vec![3, 0x40, 0x42, 0x0f],
        coinbase_tx_input_sequence: 0xffff_fffe,
        coinbase_tx_value_remaining: VALUE,
        coinbase_tx_outputs_count: 2,
        coinbase_tx_outputs: [op_return(&commitment), op_return(&merge_mining)].concat(),
        coinbase_tx_locktime: 999_999,
        merkle_path: (0..12)
            .map(|depth| {
                step[31] = depth;
                step
            })
            .collect(),
    }
}

/// The same template, as SRI takes it.
pub(crate) fn peer_template(template: &Template) -> anyhow::Result<NewTemplateOwned> {
    let merkle_path: Vec<_> = template.merkle_path.iter().map(|step| step.into()).collect();
    Ok(NewTemplateOwned {
        template_id: template.id,
        future_template: template.future,
        version: template.version,
        coinbase_tx_version: template.coinbase_tx_version,
        coinbase_prefix: template.coinbase_prefix.clone().try_into().map_err(peer_error)?,
        coinbase_tx_input_sequence: template.coinbase_tx_input_sequence,
        coinbase_tx_value_remaining: template.coinbase_tx_value_remaining,
        coinbase_tx_outputs_count: template.coinbase_tx_outputs_count,
        coinbase_tx_outputs: template.coinbase_tx_outputs.clone().try_into().map_err(peer_error)?,
        coinbase_tx_locktime: template.coinbase_tx_locktime,
        merkle_path: merkle_path.try_into().map_err(peer_error)?,
    })
}

/// A tip, told apart by its number.
pub(crate) fn tip(number: u64) -> anyhow::Result<Arc<Tip>> {
    let mut prev_hash = [0; 32];
    prev_hash[..8].copy_from_slice(&number.to_le_bytes());
    let target = Target::from_nbits(NBITS).context("nbits")?;
    Ok(Arc::new(Tip::new(prev_hash, MIN_NTIME, NBITS, target)))
}

/// The same tip, as SRI takes it.
pub(crate) fn peer_tip(tip: &Tip, template_id: u64) -> SetNewPrevHashOwned {
    SetNewPrevHashOwned {
        template_id,
        prev_hash: tip.prev_hash.into(),
        header_timestamp: tip.min_ntime,
        n_bits: tip.nbits,
        target: tip.network_target.to_le_bytes().into(),
    }
}

/// Both sides' channel of one kind, with the same extranonce prefix and the easiest target.
pub(crate) struct Channels<P> {
    pub(crate) ours: ServerChannel,
    pub(crate) peer: P,
}

/// An extended channel.
pub(crate) fn extended() -> anyhow::Result<Channels<ExtendedChannel>> {
    let prefix = peer_prefixes()?.allocate_extended(EXTRANONCE_SIZE).map_err(peer_error)?;
    let mut peer = ExtendedChannel::new_for_pool(
        CHANNEL_ID,
        USER.to_owned(),
        prefix,
        peer_target(),
        1e12,
        true,
        EXTRANONCE_SIZE as u16,
        10,
        SHARES_PER_MINUTE,
        POOL_TAG.to_owned(),
        None,
    )
    .map_err(peer_error)?;
    peer.set_target(peer_target()).map_err(peer_error)?;
    let prefix = peer.get_extranonce_prefix();
    let ours = ours(ChannelKind::Extended, prefix, EXTRANONCE_SIZE)?;
    Ok(Channels { ours, peer })
}

/// A standard channel. SRI pads its extranonce with zeroes to the size of the extended channels'.
pub(crate) fn standard() -> anyhow::Result<Channels<StandardChannel>> {
    let prefix = peer_prefixes()?.allocate_standard().map_err(peer_error)?;
    let mut peer = StandardChannel::new_for_pool(
        CHANNEL_ID,
        USER.to_owned(),
        prefix,
        peer_target(),
        1e12,
        10,
        SHARES_PER_MINUTE,
        POOL_TAG.to_owned(),
        None,
    )
    .map_err(peer_error)?;
    peer.set_target(peer_target()).map_err(peer_error)?;
    let prefix = peer.get_extranonce_prefix();
    let ours = ours(ChannelKind::Standard, prefix, 0)?;
    Ok(Channels { ours, peer })
}

/// The job of a template for our channel.
pub(crate) fn job(
    channel: &ServerChannel,
    id: u32,
    template: &Template,
) -> anyhow::Result<Arc<Job>> {
    Ok(Arc::new(factory()?.job(id, template, channel.full_extranonce_size())?))
}

fn ours(kind: ChannelKind, prefix: &[u8], extranonce_size: usize) -> anyhow::Result<ServerChannel> {
    Ok(ServerChannel::new(ChannelOptions {
        id: CHANNEL_ID,
        kind,
        extranonce_prefix: Extranonce::new(prefix)?,
        extranonce_size,
        target: Target::MAX,
        max_target: Target::MAX,
        max_shares_per_job: 1 << 20,
    }))
}

/// A server's byte and, for this many channels, three bytes of index.
fn peer_prefixes() -> anyhow::Result<ExtranonceAllocator> {
    ExtranonceAllocator::new(vec![1], FULL_EXTRANONCE_SIZE as u8, 1 << 17).map_err(peer_error)
}

/// Every hash is a share.
fn peer_target() -> bitcoin::Target {
    bitcoin::Target::from_be_bytes([0xff; 32])
}
