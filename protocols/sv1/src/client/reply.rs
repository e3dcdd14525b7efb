//! A pool's replies.

use std::borrow::Cow;
use std::fmt;

use super::message::{bytes, extranonce2_size, word};
use crate::{Array, ParamsError, Repairs, Value};

/// The reply to a request. What it means depends on the request, which the caller remembers by the id (or by order).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reply<'a> {
    /// The result, null where there is none.
    pub result: Value<'a>,
    /// The error, null where there is none.
    pub error: Value<'a>,
    /// Older ckpool's way to say why a share was refused, beside a false result.
    pub reject_reason: Value<'a>,
}

impl Default for Reply<'_> {
    fn default() -> Self {
        Self { result: Value::Null, error: Value::Null, reject_reason: Value::Null }
    }
}

/// Why a pool refused a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection<'a> {
    /// The error code, where the pool names one.
    pub code: Option<i64>,
    /// What the pool says; empty where it says nothing.
    pub message: Cow<'a, str>,
}

impl fmt::Display for Rejection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message: &str = if self.message.is_empty() { "no reason given" } else { &self.message };
        match self.code {
            Some(code) => write!(f, "{message} ({code})"),
            None => f.write_str(message),
        }
    }
}

/// What `mining.subscribe` brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    /// The session's id, to be sent with the next `mining.subscribe`.
    pub session: Option<String>,
    /// The pool's part of the extranonce.
    pub extranonce1: Vec<u8>,
    /// The size in bytes of the miner's part.
    pub extranonce2_size: usize,
}

/// What `mining.configure` brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Configured {
    /// The version bits that may be rolled, if any.
    pub version_mask: Option<u32>,
    /// Whether the pool keeps to the minimum difficulty.
    pub minimum_difficulty: bool,
    /// Whether the pool may send `mining.set_extranonce`.
    pub subscribe_extranonce: bool,
}

impl<'a> Reply<'a> {
    /// Whether the request was granted: there is no error, and the result is neither false nor null.
    ///
    /// Errors come as `[code, text, trace]`, as `{"code", "message"}` or as a string; an empty one is none.
    pub fn accepted(&self) -> Result<(), Rejection<'a>> {
        let rejection = self.rejection();
        let refused = matches!(self.result, Value::Bool(false) | Value::Null);
        match rejection {
            Some(rejection) => Err(rejection),
            None if refused => Err(Rejection { code: None, message: text(self.reject_reason) }),
            None => Ok(()),
        }
    }

    /// Reads the result of `mining.subscribe`, its pairs in any order.
    pub fn subscribed(&self) -> Result<Subscribed, ParamsError> {
        let Value::Array(result) = self.result else {
            return Err(ParamsError::Missing("result"));
        };
        let session = match result.get(0) {
            Value::Array(pairs) => session(pairs),
            _ => None,
        };
        Ok(Subscribed {
            session,
            extranonce1: bytes(result.get(1), "extranonce1")?,
            extranonce2_size: extranonce2_size(result.get(2))?,
        })
    }

    /// Reads the result of `mining.configure`.
    pub fn configured(&self) -> Result<Configured, ParamsError> {
        let Value::Object(result) = self.result else {
            return Err(ParamsError::Missing("result"));
        };
        let granted = |name| result.get(name) == Value::Bool(true);
        let version_mask = match granted("version-rolling") {
            true => Some(word(result.get("version-rolling.mask"), "version-rolling.mask")?),
            false => None,
        };
        Ok(Configured {
            version_mask,
            minimum_difficulty: granted("minimum-difficulty"),
            subscribe_extranonce: granted("subscribe-extranonce"),
        })
    }

    fn rejection(&self) -> Option<Rejection<'a>> {
        let (code, message) = match self.error {
            Value::Null | Value::Bool(false) => return None,
            Value::Array(error) if error.iter().next().is_none() => return None,
            Value::Array(error) => (code(error.get(0)), error.get(1)),
            Value::Object(error) => (code(error.get("code")), error.get("message")),
            Value::Text(error) if error.raw().is_empty() => return None,
            Value::Text(_) => (None, self.error),
            Value::Number(_) => (code(self.error), Value::Null),
            Value::Bool(true) | Value::Invalid => (None, self.reject_reason),
        };
        Some(Rejection { code, message: text(message) })
    }
}

/// The session is the id that goes with `mining.notify`: in a list of pairs, or in the one pair there is.
fn session(pairs: Array<'_>) -> Option<String> {
    let id = |pair: Array<'_>| match pair.get(0) {
        Value::Text(name) if name.raw() == b"mining.notify" => {
            pair.get(1).to_text(&mut Repairs::default()).map(Cow::into_owned)
        }
        _ => None,
    };
    let nested = pairs.iter().find_map(|element| match element.value {
        Value::Array(pair) => id(pair),
        _ => None,
    });
    nested.or_else(|| id(pairs))
}

fn text(value: Value<'_>) -> Cow<'_, str> {
    value.to_text(&mut Repairs::default()).unwrap_or_default()
}

fn code(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Number(digits) => digits.parse().ok(),
        _ => None,
    }
}
