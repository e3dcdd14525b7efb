//! Mining Protocol (spec 5.3).

use crate::codec::{B032, B064K, B0255, Seq064K, Seq0255, Str0255};

/// Flag of `SetupConnection`: the client cannot process extended jobs.
pub const REQUIRES_STANDARD_JOBS: u32 = 1 << 0;
/// Flag of `SetupConnection`: the client will send `SetCustomMiningJob`.
pub const REQUIRES_WORK_SELECTION: u32 = 1 << 1;
/// Flag of `SetupConnection`: the client needs version rolling.
pub const REQUIRES_VERSION_ROLLING: u32 = 1 << 2;

/// Flag of `SetupConnection.Success`: the server accepts no change of the version field.
pub const REQUIRES_FIXED_VERSION: u32 = 1 << 0;
/// Flag of `SetupConnection.Success`: the server opens no standard channels.
pub const REQUIRES_EXTENDED_CHANNELS: u32 = 1 << 1;

messages! {
    /// A message of the Mining Protocol.
    enum Mining, extension 0x0000;

    /// A device asks for a standard channel (5.3.2).
    0x10 "OpenStandardMiningChannel" OpenStandardMiningChannel<'a> connection {
        /// Pairs the answer; unique on the connection.
        request_id: u32,
        /// Whatever the server knows the client by.
        user_identity: Str0255<'a>,
        /// Expected hashrate, hashes per second; 0.0 while no miner is behind the channel.
        nominal_hash_rate: f32,
        /// Easiest target that the device can work with.
        max_target: [u8; 32],
    }
    /// The standard channel is open (5.3.3).
    0x11 "OpenStandardMiningChannel.Success" OpenStandardMiningChannelSuccess<'a> connection {
        /// From the request.
        request_id: u32,
        /// The channel's id on this connection.
        channel_id: u32,
        /// First target.
        target: [u8; 32],
        /// The channel's whole extranonce.
        extranonce_prefix: B032<'a>,
        /// Group that the channel belongs to.
        group_channel_id: u32,
    }
    /// The channel is refused (5.3.6).
    0x12 "OpenMiningChannel.Error" OpenMiningChannelError<'a> connection {
        /// From the request.
        request_id: u32,
        /// Why.
        error_code: Str0255<'a>,
    }
    /// A proxy or device asks for an extended channel (5.3.4).
    0x13 "OpenExtendedMiningChannel" OpenExtendedMiningChannel<'a> connection {
        /// Pairs the answer; unique on the connection.
        request_id: u32,
        /// Whatever the server knows the client by.
        user_identity: Str0255<'a>,
        /// Expected hashrate, hashes per second; 0.0 while no miner is behind the channel.
        nominal_hash_rate: f32,
        /// Easiest target that the devices can work with.
        max_target: [u8; 32],
        /// Bytes of extranonce that the client needs for itself.
        min_extranonce_size: u16,
    }
    /// The extended channel is open (5.3.5).
    0x14 "OpenExtendedMiningChannel.Success" OpenExtendedMiningChannelSuccess<'a> connection {
        /// From the request.
        request_id: u32,
        /// The channel's id on this connection.
        channel_id: u32,
        /// First target.
        target: [u8; 32],
        /// Bytes of extranonce for the client.
        extranonce_size: u16,
        /// The bytes before them.
        extranonce_prefix: B032<'a>,
        /// Group that the channel belongs to.
        group_channel_id: u32,
    }
    /// A job for a standard channel (5.3.15).
    0x15 "NewMiningJob" NewMiningJob channel {
        /// A standard channel.
        channel_id: u32,
        /// The job's id on the channel.
        job_id: u32,
        /// Smallest nTime, unix seconds; none marks a future job.
        min_ntime: Option<u32>,
        /// Header version; BIP323 bits may be rolled.
        version: u32,
        /// Header field.
        merkle_root: [u8; 32],
    }
    /// The client's circumstances changed (5.3.7).
    0x16 "UpdateChannel" UpdateChannel channel {
        /// The channel.
        channel_id: u32,
        /// As in the open request.
        nominal_hash_rate: f32,
        /// The target that the client asks for.
        maximum_target: [u8; 32],
    }
    /// `UpdateChannel` was invalid (5.3.8).
    0x17 "UpdateChannel.Error" UpdateChannelError<'a> channel {
        /// The channel.
        channel_id: u32,
        /// Why.
        error_code: Str0255<'a>,
    }
    /// A channel, or all of a group, ends (5.3.9). Sent by either side.
    0x18 "CloseChannel" CloseChannel<'a> channel {
        /// Channel or group.
        channel_id: u32,
        /// Why.
        reason_code: Str0255<'a>,
    }
    /// A new prefix for jobs sent from now on (5.3.10).
    0x19 "SetExtranoncePrefix" SetExtranoncePrefix<'a> channel {
        /// A standard or extended channel.
        channel_id: u32,
        /// The prefix.
        extranonce_prefix: B032<'a>,
    }
    /// A share of a standard channel (5.3.11).
    0x1a "SubmitSharesStandard" SubmitSharesStandard channel {
        /// The channel.
        channel_id: u32,
        /// Unique and increasing on the channel.
        sequence_number: u32,
        /// From the job.
        job_id: u32,
        /// Header field.
        nonce: u32,
        /// Header field, unix seconds.
        ntime: u32,
        /// Whole header version.
        version: u32,
    }
    /// A share of an extended channel (5.3.12).
    0x1b "SubmitSharesExtended" SubmitSharesExtended<'a> channel {
        /// The channel.
        channel_id: u32,
        /// Unique and increasing on the channel.
        sequence_number: u32,
        /// From the job.
        job_id: u32,
        /// Header field.
        nonce: u32,
        /// Header field, unix seconds.
        ntime: u32,
        /// Whole header version.
        version: u32,
        /// The client's part of the extranonce, exactly as long as was granted.
        extranonce: B032<'a>,
    }
    /// Shares are accepted, many at once (5.3.13).
    0x1c "SubmitShares.Success" SubmitSharesSuccess channel {
        /// The channel.
        channel_id: u32,
        /// Latest sequence number with a correct result.
        last_sequence_number: u32,
        /// Shares acknowledged by this message.
        new_submits_accepted_count: u32,
        /// Sum of their difficulties.
        new_shares_sum: u64,
    }
    /// A share is refused (5.3.14).
    0x1d "SubmitShares.Error" SubmitSharesError<'a> channel {
        /// The channel.
        channel_id: u32,
        /// From the share.
        sequence_number: u32,
        /// Why.
        error_code: Str0255<'a>,
    }
    /// A job for an extended channel or a group (5.3.16).
    0x1f "NewExtendedMiningJob" NewExtendedMiningJob<'a> channel {
        /// Channel or group.
        channel_id: u32,
        /// The job's id on the channel.
        job_id: u32,
        /// Smallest nTime, unix seconds; none marks a future job.
        min_ntime: Option<u32>,
        /// Header version.
        version: u32,
        /// Whether BIP323 bits may be rolled.
        version_rolling_allowed: bool,
        /// Merkle path, deepest first.
        merkle_path: Seq0255<'a, [u8; 32]>,
        /// Coinbase before the extranonce, without BIP141 fields.
        coinbase_tx_prefix: B064K<'a>,
        /// Coinbase after the extranonce, without BIP141 fields.
        coinbase_tx_suffix: B064K<'a>,
    }
    /// There is a new tip (5.3.17).
    0x20 "SetNewPrevHash" SetNewPrevHash channel {
        /// Channel or group.
        channel_id: u32,
        /// A future job sent before, now active; all others are void.
        job_id: u32,
        /// Header field.
        prev_hash: [u8; 32],
        /// Smallest nTime, unix seconds.
        min_ntime: u32,
        /// Header field, compact target.
        nbits: u32,
    }
    /// A new share target for future jobs (5.3.21).
    0x21 "SetTarget" SetTarget channel {
        /// Channel or group.
        channel_id: u32,
        /// Largest hash that is accepted.
        maximum_target: [u8; 32],
    }
    /// A job that the client made itself (5.3.18).
    0x22 "SetCustomMiningJob" SetCustomMiningJob<'a> channel {
        /// Extended channel or group.
        channel_id: u32,
        /// Pairs the answer.
        request_id: u32,
        /// From the Job Declarator Server.
        mining_job_token: B0255<'a>,
        /// Header version.
        version: u32,
        /// Header field.
        prev_hash: [u8; 32],
        /// Smallest nTime, unix seconds.
        min_ntime: u32,
        /// Header field, compact target.
        nbits: u32,
        /// Coinbase nVersion.
        coinbase_tx_version: u32,
        /// First bytes of the scriptSig.
        coinbase_prefix: B0255<'a>,
        /// nSequence of the coinbase input.
        coinbase_tx_input_sequence: u32,
        /// CompactSize-prefixed consensus-serialized outputs.
        coinbase_tx_outputs: B064K<'a>,
        /// Coinbase locktime.
        coinbase_tx_locktime: u32,
        /// Merkle path, deepest first.
        merkle_path: Seq0255<'a, [u8; 32]>,
    }
    /// The custom job is accepted (5.3.19).
    0x23 "SetCustomMiningJob.Success" SetCustomMiningJobSuccess channel {
        /// From the request.
        channel_id: u32,
        /// From the request.
        request_id: u32,
        /// The job's id on the channel.
        job_id: u32,
    }
    /// The custom job is refused (5.3.20).
    0x24 "SetCustomMiningJob.Error" SetCustomMiningJobError<'a> channel {
        /// From the request.
        channel_id: u32,
        /// From the request.
        request_id: u32,
        /// Why.
        error_code: Str0255<'a>,
    }
    /// Channels join a group (5.3.22).
    0x25 "SetGroupChannel" SetGroupChannel<'a> connection {
        /// The group.
        group_channel_id: u32,
        /// Its members from now on.
        channel_ids: Seq064K<'a, u32>,
    }
}
