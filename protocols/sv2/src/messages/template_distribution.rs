//! Template Distribution Protocol (spec 7).

use crate::codec::{B016M, B064K, B0255, Seq064K, Seq0255, Str0255};

messages! {
    /// A message of the Template Distribution Protocol.
    enum TemplateDistribution, extension 0x0000;

    /// What the client will add to the coinbase (7.1).
    0x70 "CoinbaseOutputConstraints" CoinbaseOutputConstraints connection {
        /// Most serialized bytes of outputs that the client adds.
        coinbase_output_max_additional_size: u32,
        /// Most sigops of those outputs.
        coinbase_output_max_additional_sigops: u16,
    }
    /// A block template (7.2).
    0x71 "NewTemplate" NewTemplate<'a> connection {
        /// Strictly increasing.
        template_id: u64,
        /// Whether the template waits for a `SetNewPrevHash`.
        future_template: bool,
        /// Header version.
        version: u32,
        /// Coinbase nVersion.
        coinbase_tx_version: u32,
        /// First bytes of the scriptSig (BIP34 height), at most 8.
        coinbase_prefix: B0255<'a>,
        /// nSequence of the coinbase input.
        coinbase_tx_input_sequence: u32,
        /// Satoshis that the client's outputs may spend.
        coinbase_tx_value_remaining: u64,
        /// Outputs in the next field.
        coinbase_tx_outputs_count: u32,
        /// Consensus-serialized outputs, without a count, that end the coinbase.
        coinbase_tx_outputs: B064K<'a>,
        /// Coinbase locktime.
        coinbase_tx_locktime: u32,
        /// Merkle path, deepest first.
        merkle_path: Seq0255<'a, [u8; 32]>,
    }
    /// There is a new tip (7.3).
    0x72 "SetNewPrevHash" SetNewPrevHash connection {
        /// A future template sent before, now active.
        template_id: u64,
        /// Header field.
        prev_hash: [u8; 32],
        /// nTime to start from, unix seconds; not the smallest valid one.
        header_timestamp: u32,
        /// Header field, compact target.
        n_bits: u32,
        /// Largest hash that is a block.
        target: [u8; 32],
    }
    /// The client wants the transactions of a template (7.4).
    0x73 "RequestTransactionData" RequestTransactionData connection {
        /// The template.
        template_id: u64,
    }
    /// The transactions (7.5).
    0x74 "RequestTransactionData.Success" RequestTransactionDataSuccess<'a> connection {
        /// The template.
        template_id: u64,
        /// Data that a validator may need, opaque to the client.
        excess_data: B064K<'a>,
        /// Transactions in order, without the coinbase, opaque to the client.
        transaction_list: Seq064K<'a, B016M<'a>>,
    }
    /// There are none to give (7.6).
    0x75 "RequestTransactionData.Error" RequestTransactionDataError<'a> connection {
        /// The template.
        template_id: u64,
        /// Why.
        error_code: Str0255<'a>,
    }
    /// A block was found (7.7).
    0x76 "SubmitSolution" SubmitSolution<'a> connection {
        /// The template.
        template_id: u64,
        /// Header field.
        version: u32,
        /// Header field nTime, unix seconds.
        header_timestamp: u32,
        /// Header field.
        header_nonce: u32,
        /// The full coinbase, BIP141 fields included.
        coinbase_tx: B064K<'a>,
    }
}
