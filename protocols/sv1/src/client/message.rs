//! Lines from a pool.

use std::borrow::Cow;

use super::Reply;
use crate::server::write::Notify;
use crate::{Array, Id, LineError, ParamsError, Repairs, Value, hex, json};

/// One line from a pool.
#[derive(Debug, Clone, PartialEq)]
pub struct Message<'a> {
    /// In a reply the id of the request it answers; in a request of the pool's the id to answer with.
    pub id: Option<Id<'a>>,
    /// What is said.
    pub body: Body<'a>,
}

/// What a pool says.
#[derive(Debug, Clone, PartialEq)]
pub enum Body<'a> {
    /// The reply to a request.
    Reply(Reply<'a>),
    /// `mining.notify`.
    Notify(Job),
    /// `mining.set_difficulty`, for the jobs that follow.
    SetDifficulty {
        /// Positive and finite.
        difficulty: f64,
    },
    /// `mining.set_target`, which some pools send instead.
    SetTarget {
        /// The target, the most significant byte first.
        target: [u8; 32],
    },
    /// `mining.set_version_mask`.
    SetVersionMask {
        /// The version bits that may be rolled from now on.
        mask: u32,
    },
    /// `mining.set_extranonce`, for the jobs that follow.
    SetExtranonce {
        /// The pool's part of the extranonce.
        extranonce1: Vec<u8>,
        /// The size in bytes of the miner's part.
        extranonce2_size: usize,
    },
    /// `client.reconnect`.
    Reconnect(Reconnect<'a>),
    /// `client.show_message`.
    ShowMessage {
        /// For the miner's owner.
        message: Cow<'a, str>,
    },
    /// `client.get_version`, see [`super::version`].
    GetVersion,
    /// `mining.ping`, see [`super::pong`].
    Ping,
    /// A known method whose parameters cannot be used.
    Invalid {
        /// Its name.
        method: &'static str,
        /// What is wrong.
        error: ParamsError,
    },
    /// A method not known here.
    Unknown {
        /// Its name.
        method: Cow<'a, str>,
    },
    /// A line without content.
    Blank,
}

/// `client.reconnect`: where to, each part optional.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reconnect<'a> {
    /// A host name or address; the same host if absent or empty.
    pub host: Option<Cow<'a, str>>,
    /// A TCP port; the same port if absent.
    pub port: Option<u16>,
    /// How many seconds to wait first.
    pub wait_seconds: u64,
}

/// A job, see [`Notify`] for its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Names the job in shares.
    pub job_id: String,
    /// The hash of the block to build on, in the header's byte order.
    pub prev_hash: [u8; 32],
    /// The coinbase transaction before the extranonce.
    pub coinb1: Vec<u8>,
    /// The coinbase transaction after the extranonce.
    pub coinb2: Vec<u8>,
    /// The merkle path of the coinbase, from the leaf upwards.
    pub merkle_path: Vec<[u8; 32]>,
    /// The header's version.
    pub version: u32,
    /// The header's compact target.
    pub nbits: u32,
    /// The header's time in seconds since 1970.
    pub ntime: u32,
    /// Whether shares of earlier jobs are of no use any more.
    pub clean_jobs: bool,
}

impl Job {
    /// The job as it is passed on to a miner, under its own id.
    pub fn as_notify(&self) -> Notify<'_> {
        Notify {
            job_id: &self.job_id,
            prev_hash: &self.prev_hash,
            coinb1: &self.coinb1,
            extranonce_prefix: &[],
            extranonce_suffix: &[],
            coinb2: &self.coinb2,
            merkle_path: &self.merkle_path,
            version: self.version,
            nbits: self.nbits,
            ntime: self.ntime,
            clean_jobs: self.clean_jobs,
        }
    }
}

/// Reads one line from a pool.
pub fn parse_message(line: &[u8]) -> Result<Message<'_>, LineError> {
    if json::is_blank(line) {
        return Ok(Message { id: None, body: Body::Blank });
    }
    let (mut id, mut method, mut params) = (None, Value::Null, Value::Null);
    let mut reply = Reply::default();
    for member in json::read_object(line)?.iter() {
        let member = member?;
        match member.key.raw() {
            b"id" => id = Id::read(member.json)?,
            b"method" => method = member.value,
            b"params" => params = member.value,
            b"result" => reply.result = member.value,
            b"error" => reply.error = member.value,
            b"reject-reason" => reply.reject_reason = member.value,
            _ => {}
        }
    }
    let body = match method {
        Value::Text(name) => {
            let params = if let Value::Array(array) = params { array } else { Array::default() };
            parse_body(name.decode(&mut Repairs::default()), params)
        }
        _ => Body::Reply(reply),
    };
    Ok(Message { id, body })
}

fn parse_body<'a>(name: Cow<'a, str>, params: Array<'a>) -> Body<'a> {
    let (method, parsed) = match &*name {
        "mining.notify" => ("mining.notify", job(params).map(Body::Notify)),
        "mining.set_difficulty" => ("mining.set_difficulty", set_difficulty(params)),
        "mining.set_target" => ("mining.set_target", set_target(params)),
        "mining.set_version_mask" => ("mining.set_version_mask", set_version_mask(params)),
        "mining.set_extranonce" => ("mining.set_extranonce", set_extranonce(params)),
        "client.reconnect" => return Body::Reconnect(reconnect(params)),
        "client.show_message" => {
            return Body::ShowMessage {
                message: params.get(0).to_text(&mut Repairs::default()).unwrap_or_default(),
            };
        }
        "client.get_version" => return Body::GetVersion,
        "mining.ping" => return Body::Ping,
        _ => return Body::Unknown { method: name },
    };
    parsed.unwrap_or_else(|error| Body::Invalid { method, error })
}

fn job(params: Array<'_>) -> Result<Job, ParamsError> {
    let swapped: [u8; 32] = array(params.get(1), "prevhash")?;
    let mut prev_hash = swapped;
    prev_hash.chunks_exact_mut(4).for_each(<[u8]>::reverse);
    let Value::Array(branches) = params.get(4) else {
        return Err(ParamsError::Malformed("merkle_branch"));
    };
    // Some pools put parameters of their own before the last.
    let clean_jobs = match params.iter().skip(8).last().map(|element| element.value) {
        Some(Value::Bool(clean)) => clean,
        None => return Err(ParamsError::Missing("clean_jobs")),
        Some(_) => return Err(ParamsError::Malformed("clean_jobs")),
    };
    Ok(Job {
        job_id: text(params.get(0), "job_id")?.into_owned(),
        prev_hash,
        coinb1: bytes(params.get(2), "coinb1")?,
        coinb2: bytes(params.get(3), "coinb2")?,
        merkle_path: branches
            .iter()
            .map(|hash| array(hash.value, "merkle_branch"))
            .collect::<Result<_, _>>()?,
        version: word(params.get(5), "version")?,
        nbits: word(params.get(6), "nbits")?,
        ntime: word(params.get(7), "ntime")?,
        clean_jobs,
    })
}

fn set_difficulty<'a>(params: Array<'_>) -> Result<Body<'a>, ParamsError> {
    match params.get(0).to_f64(&mut Repairs::default()) {
        Some(difficulty) if difficulty > 0.0 => Ok(Body::SetDifficulty { difficulty }),
        _ => Err(ParamsError::Malformed("difficulty")),
    }
}

fn set_target<'a>(params: Array<'_>) -> Result<Body<'a>, ParamsError> {
    Ok(Body::SetTarget { target: array(params.get(0), "target")? })
}

fn set_version_mask<'a>(params: Array<'_>) -> Result<Body<'a>, ParamsError> {
    Ok(Body::SetVersionMask { mask: word(params.get(0), "mask")? })
}

fn set_extranonce<'a>(params: Array<'_>) -> Result<Body<'a>, ParamsError> {
    let extranonce1 = bytes(params.get(0), "extranonce1")?;
    Ok(Body::SetExtranonce { extranonce1, extranonce2_size: extranonce2_size(params.get(1))? })
}

fn reconnect(params: Array<'_>) -> Reconnect<'_> {
    let repairs = &mut Repairs::default();
    Reconnect {
        host: params.get(0).to_text(repairs).filter(|host| !host.is_empty()),
        port: params.get(1).to_u64(repairs).and_then(|port| u16::try_from(port).ok()),
        wait_seconds: params.get(2).to_u64(repairs).unwrap_or(0),
    }
}

pub(super) fn text<'a>(value: Value<'a>, name: &'static str) -> Result<Cow<'a, str>, ParamsError> {
    match value.to_text(&mut Repairs::default()) {
        Some(text) => Ok(text),
        None if value.is_null() => Err(ParamsError::Missing(name)),
        None => Err(ParamsError::Malformed(name)),
    }
}

pub(super) fn bytes(value: Value<'_>, name: &'static str) -> Result<Vec<u8>, ParamsError> {
    hex::decode(&text(value, name)?).ok_or(ParamsError::Malformed(name))
}

/// Sizes pools have granted are 1 to 16; one that does not fit into a byte cannot be meant.
pub(super) fn extranonce2_size(value: Value<'_>) -> Result<usize, ParamsError> {
    let size = value.to_u64(&mut Repairs::default()).and_then(|size| u8::try_from(size).ok());
    size.map(usize::from).ok_or(ParamsError::Malformed("extranonce2_size"))
}

pub(super) fn word(value: Value<'_>, name: &'static str) -> Result<u32, ParamsError> {
    let text = text(value, name)?;
    if text.is_empty() || text.len() > 8 {
        return Err(ParamsError::Malformed(name));
    }
    // Pools that print without padding exist: p2poolv2's mask.
    array_from(&format!("{text:0>8}"), name).map(u32::from_be_bytes)
}

fn array<const N: usize>(value: Value<'_>, name: &'static str) -> Result<[u8; N], ParamsError> {
    array_from(&text(value, name)?, name)
}

fn array_from<const N: usize>(text: &str, name: &'static str) -> Result<[u8; N], ParamsError> {
    hex::decode_array(text).ok_or(ParamsError::Malformed(name))
}
