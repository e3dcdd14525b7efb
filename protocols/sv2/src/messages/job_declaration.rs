//! Job Declaration Protocol (spec 6.4).

use crate::codec::{B016M, B032, B064K, B0255, Seq064K, Str0255};

/// Flag of `SetupConnection`: the client reveals its transactions (full-template mode).
pub const DECLARE_TX_DATA: u32 = 1 << 0;

messages! {
    /// A message of the Job Declaration Protocol.
    enum JobDeclaration, extension 0x0000;

    /// JDC asks for a token (6.4.2).
    0x50 "AllocateMiningJobToken" AllocateMiningJobToken<'a> connection {
        /// Whatever the pool knows the client by.
        user_identifier: Str0255<'a>,
        /// Pairs the answer.
        request_id: u32,
    }
    /// A token and the outputs that the pool wants (6.4.3).
    0x51 "AllocateMiningJobToken.Success" AllocateMiningJobTokenSuccess<'a> connection {
        /// From the request.
        request_id: u32,
        /// The token.
        mining_job_token: B0255<'a>,
        /// CompactSize-prefixed consensus-serialized outputs; the first is the pool's payout.
        coinbase_tx_outputs: B064K<'a>,
    }
    /// JDS lacks transactions of a declared job (6.4.7).
    0x55 "ProvideMissingTransactions" ProvideMissingTransactions<'a> connection {
        /// Of the `DeclareMiningJob`.
        request_id: u32,
        /// Positions in `wtxid_list`, 0-based.
        unknown_tx_position_list: Seq064K<'a, u16>,
    }
    /// The transactions asked for (6.4.8).
    0x56 "ProvideMissingTransactions.Success" ProvideMissingTransactionsSuccess<'a> connection {
        /// Of the `DeclareMiningJob`.
        request_id: u32,
        /// Consensus-serialized transactions in the order asked.
        transaction_list: Seq064K<'a, B016M<'a>>,
    }
    /// JDC declares a template (6.4.4).
    0x57 "DeclareMiningJob" DeclareMiningJob<'a> connection {
        /// Pairs the answer.
        request_id: u32,
        /// From `AllocateMiningJobToken.Success`.
        mining_job_token: B0255<'a>,
        /// Header version.
        version: u32,
        /// Coinbase before the extranonce, BIP141 fields kept.
        coinbase_tx_prefix: B064K<'a>,
        /// Coinbase after the extranonce, BIP141 fields kept.
        coinbase_tx_suffix: B064K<'a>,
        /// wtxids of the template's transactions in order, without the coinbase.
        wtxid_list: Seq064K<'a, [u8; 32]>,
        /// As the template provider gave it.
        excess_data: B064K<'a>,
    }
    /// The declared template is accepted (6.4.5).
    0x58 "DeclareMiningJob.Success" DeclareMiningJobSuccess<'a> connection {
        /// From the request.
        request_id: u32,
        /// Token to use in `SetCustomMiningJob`.
        new_mining_job_token: B0255<'a>,
    }
    /// The declared template is refused (6.4.6).
    0x59 "DeclareMiningJob.Error" DeclareMiningJobError<'a> connection {
        /// From the request.
        request_id: u32,
        /// Why.
        error_code: Str0255<'a>,
        /// More about it.
        error_details: B064K<'a>,
    }
    /// A block was found on a declared template (6.4.9).
    0x60 "PushSolution" PushSolution<'a> connection {
        /// The full extranonce.
        extranonce: B032<'a>,
        /// Header field.
        prev_hash: [u8; 32],
        /// Header field.
        nonce: u32,
        /// Header field, unix seconds.
        ntime: u32,
        /// Header field, compact target.
        nbits: u32,
        /// Header field.
        version: u32,
    }
}
