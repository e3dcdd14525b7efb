//! What can be wrong with a line, with its parameters, and with a share.

use thiserror::Error;

/// Why a line is not a message at all. Nothing of it can be answered, since its id is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LineError {
    /// The line is not one JSON object, for example an HTTP request.
    #[error("not a JSON object")]
    NotAnObject,
    /// The line ends inside an object, array or string.
    #[error("the line ends in the middle of a value")]
    UnexpectedEnd,
    /// A byte that cannot stand there.
    #[error("unexpected byte {byte:#04x} at offset {offset}")]
    Unexpected {
        /// Offset of the byte, counted from the beginning of the innermost object or array read so far.
        offset: usize,
        /// The byte itself.
        byte: u8,
    },
    /// More brackets inside brackets than any message has.
    #[error("nested too deeply")]
    TooDeep,
    /// The `id` is not valid JSON, so it could not be echoed.
    #[error("the id is not valid JSON")]
    Id,
}

/// Why the parameters of a known method, or a result, could not be used. The message itself, and its id, were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParamsError {
    /// A parameter that has no default is absent or null.
    #[error("missing {0}")]
    Missing(&'static str),
    /// A parameter is there and says nothing that can be used.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// The error codes a miner is ever sent. Others make some firmware misbehave (btcpool maps its own back to 21 for
/// that reason), so there are no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// 20: anything that none of the others says.
    Other,
    /// 21: the job is unknown or stale.
    JobNotFound,
    /// 22: the same share was sent before.
    DuplicateShare,
    /// 23: the hash does not meet the difficulty.
    LowDifficulty,
    /// 24: the worker has not been authorised.
    Unauthorized,
    /// 25: the connection has not subscribed.
    NotSubscribed,
    /// -3: no such method.
    MethodNotFound,
}

impl ErrorCode {
    /// The number on the wire.
    pub const fn code(self) -> i32 {
        match self {
            Self::Other => 20,
            Self::JobNotFound => 21,
            Self::DuplicateShare => 22,
            Self::LowDifficulty => 23,
            Self::Unauthorized => 24,
            Self::NotSubscribed => 25,
            Self::MethodNotFound => -3,
        }
    }

    /// The text pools customarily send with the number.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Other => "Other/Unknown",
            Self::JobNotFound => "Job not found",
            Self::DuplicateShare => "Duplicate share",
            Self::LowDifficulty => "Low difficulty share",
            Self::Unauthorized => "Unauthorized worker",
            Self::NotSubscribed => "Not subscribed",
            Self::MethodNotFound => "Method not found",
        }
    }
}
