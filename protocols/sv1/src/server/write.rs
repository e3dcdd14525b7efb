//! What a miner is told: one JSON object appended per call, without the line feed.
//!
//! Replies take the [`Id`] they answer, so that a request without one cannot be answered by mistake. All of them carry
//! both `result` and `error`, errors as `[code,"text",null]` beside a null result: that is what every firmware reads.

use std::io::Write;

use crate::{ErrorCode, Id, hex};

/// Answers `true` or `false`: to `mining.submit`, `mining.authorize`, `mining.extranonce.subscribe` and suggestions.
pub fn result_bool(out: &mut Vec<u8>, id: Id<'_>, result: bool) {
    let result: &[u8] = if result { b"true" } else { b"false" };
    reply(out, id, |out| out.extend_from_slice(result));
}

/// Answers with a string: `"pong"` to a miner's `mining.ping`.
pub fn result_text(out: &mut Vec<u8>, id: Id<'_>, result: &str) {
    reply(out, id, |out| string(out, result));
}

/// Answers with an empty list: to `mining.get_transactions`.
pub fn result_empty_list(out: &mut Vec<u8>, id: Id<'_>) {
    reply(out, id, |out| out.extend_from_slice(b"[]"));
}

/// Answers with an error. `text` is [`ErrorCode::text`] unless there is something better to say.
pub fn error(out: &mut Vec<u8>, id: Id<'_>, code: ErrorCode, text: &str) {
    out.extend_from_slice(b"{\"id\":");
    out.extend_from_slice(id.as_json().as_bytes());
    out.extend_from_slice(b",\"result\":null,\"error\":[");
    number(out, code.code());
    out.push(b',');
    string(out, text);
    out.extend_from_slice(b",null]}");
}

/// The answer to one extension of `mining.configure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtensionAnswer<'a> {
    /// `version-rolling`: the bits the miner may roll, or refused.
    VersionRolling(Option<u32>),
    /// `minimum-difficulty`: whether it is kept to.
    MinimumDifficulty(bool),
    /// `subscribe-extranonce`: whether `mining.set_extranonce` may come.
    SubscribeExtranonce(bool),
    /// `info`: whether it was taken notice of.
    Info(bool),
    /// An extension not known here, by its name: refused.
    Unknown(&'a str),
}

/// Answers `mining.configure`. `answers` holds one entry for each extension asked for, none twice.
pub fn configure<'a>(
    out: &mut Vec<u8>,
    id: Id<'_>,
    answers: impl IntoIterator<Item = ExtensionAnswer<'a>>,
) {
    reply(out, id, |out| {
        out.push(b'{');
        for (place, answer) in answers.into_iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            let (name, granted) = match answer {
                ExtensionAnswer::VersionRolling(mask) => ("version-rolling", mask.is_some()),
                ExtensionAnswer::MinimumDifficulty(granted) => ("minimum-difficulty", granted),
                ExtensionAnswer::SubscribeExtranonce(granted) => ("subscribe-extranonce", granted),
                ExtensionAnswer::Info(granted) => ("info", granted),
                ExtensionAnswer::Unknown(name) => (name, false),
            };
            string(out, name);
            out.extend_from_slice(if granted { b":true" } else { b":false" });
            if let ExtensionAnswer::VersionRolling(Some(mask)) = answer {
                out.extend_from_slice(b",\"version-rolling.mask\":");
                quoted_word(out, mask);
            }
        }
        out.push(b'}');
    });
}

/// Answers `mining.subscribe`: the session, the `extranonce1` and the size in bytes of the `extranonce2` to come.
pub fn subscribe(
    out: &mut Vec<u8>,
    id: Id<'_>,
    session: &str,
    extranonce1: &[u8],
    extranonce2_size: usize,
) {
    reply(out, id, |out| {
        out.extend_from_slice(b"[[[\"mining.set_difficulty\",");
        string(out, session);
        out.extend_from_slice(b"],[\"mining.notify\",");
        string(out, session);
        out.extend_from_slice(b"]],");
        quoted_hex(out, &[extranonce1]);
        out.push(b',');
        number(out, extranonce2_size);
        out.push(b']');
    });
}

/// A job as `mining.notify` says it. Hashes are in the byte order they have in the header and in the merkle tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notify<'a> {
    /// Names the job in shares: short, ASCII, never used for other work on the same connection.
    pub job_id: &'a str,
    /// The hash of the block to build on.
    pub prev_hash: &'a [u8; 32],
    /// The coinbase transaction before the extranonce.
    pub coinb1: &'a [u8],
    /// Bytes that follow `coinb1` and that the miner takes for part of it: an upstream's extranonce prefix.
    pub extranonce_prefix: &'a [u8],
    /// Bytes that go before `coinb2` and that the miner takes for part of it: what an upstream granted beyond what the
    /// miner was given.
    pub extranonce_suffix: &'a [u8],
    /// The coinbase transaction after the extranonce.
    pub coinb2: &'a [u8],
    /// The merkle path of the coinbase, from the leaf upwards.
    pub merkle_path: &'a [[u8; 32]],
    /// The header's version.
    pub version: u32,
    /// The header's compact target.
    pub nbits: u32,
    /// The header's time in seconds since 1970.
    pub ntime: u32,
    /// Whether shares of earlier jobs are of no use any more.
    pub clean_jobs: bool,
}

/// `mining.notify`.
pub fn notify(out: &mut Vec<u8>, job: &Notify<'_>) {
    let extranonce = job.extranonce_prefix.len() + job.extranonce_suffix.len();
    let coinbase = job.coinb1.len() + extranonce + job.coinb2.len();
    out.reserve(192 + job.job_id.len() + 2 * coinbase + 67 * job.merkle_path.len());
    notification(out, "mining.notify", |out| {
        string(out, job.job_id);
        out.extend_from_slice(b",\"");
        // Each of the hash's eight 4-byte words has its bytes reversed.
        for word in job.prev_hash.chunks_exact(4) {
            hex::push(out, &[word[3], word[2], word[1], word[0]]);
        }
        out.extend_from_slice(b"\",");
        quoted_hex(out, &[job.coinb1, job.extranonce_prefix]);
        out.push(b',');
        quoted_hex(out, &[job.extranonce_suffix, job.coinb2]);
        out.extend_from_slice(b",[");
        for (place, hash) in job.merkle_path.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            quoted_hex(out, &[hash]);
        }
        out.push(b']');
        for word in [job.version, job.nbits, job.ntime] {
            out.push(b',');
            quoted_word(out, word);
        }
        out.extend_from_slice(if job.clean_jobs { b",true" } else { b",false" });
    });
}

/// The lowest difficulty that is announced: about one hash a share.
pub const LOWEST_DIFFICULTY: f64 = 1.0 / 4_294_967_296.0;

/// The highest difficulty that is announced: 2^224, that of the target 1.
pub const HIGHEST_DIFFICULTY: f64 = (1_u128 << 112) as f64 * (1_u128 << 112) as f64;

/// The difficulty a miner is told when it is to mine at `difficulty`: whole numbers from 1 upwards, since old firmware
/// misreads fractions, rounded down, since a miner told more than its shares are credited for loses the difference.
/// Below 1 it is the number itself, at least [`LOWEST_DIFFICULTY`], which also stands for what is no number.
pub fn announced_difficulty(difficulty: f64) -> f64 {
    if difficulty >= 1.0 {
        difficulty.min(HIGHEST_DIFFICULTY).floor()
    } else {
        LOWEST_DIFFICULTY.max(difficulty)
    }
}

/// `mining.set_difficulty`. Returns what was said, see [`announced_difficulty`]: shares of the jobs that follow are to
/// be judged by it.
pub fn set_difficulty(out: &mut Vec<u8>, difficulty: f64) -> f64 {
    let announced = announced_difficulty(difficulty);
    notification(out, "mining.set_difficulty", |out| number(out, announced));
    announced
}

/// `mining.set_version_mask` (BIP310).
pub fn set_version_mask(out: &mut Vec<u8>, mask: u32) {
    notification(out, "mining.set_version_mask", |out| quoted_word(out, mask));
}

/// `mining.set_extranonce`. Takes effect with the next `mining.notify`, which therefore must be a new, clean job.
pub fn set_extranonce(out: &mut Vec<u8>, extranonce1: &[u8], extranonce2_size: usize) {
    notification(out, "mining.set_extranonce", |out| {
        quoted_hex(out, &[extranonce1]);
        out.push(b',');
        number(out, extranonce2_size);
    });
}

/// Where `client.reconnect` sends a miner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReconnectTo<'a> {
    /// A host name or address.
    pub host: &'a str,
    /// A TCP port.
    pub port: u16,
    /// How many seconds to wait first.
    pub wait_seconds: u32,
}

/// `client.reconnect`; to the same host if `to` is `None`, which is what most firmware follows at all.
pub fn reconnect(out: &mut Vec<u8>, to: Option<ReconnectTo<'_>>) {
    notification(out, "client.reconnect", |out| {
        if let Some(to) = to {
            string(out, to.host);
            out.push(b',');
            number(out, to.port);
            out.push(b',');
            number(out, to.wait_seconds);
        }
    });
}

/// `client.show_message`.
pub fn show_message(out: &mut Vec<u8>, message: &str) {
    notification(out, "client.show_message", |out| string(out, message));
}

/// `client.get_version`, a request: the miner's answer carries `id`.
pub fn get_version(out: &mut Vec<u8>, id: u64) {
    request(out, id, "client.get_version");
}

/// `mining.ping`, a request: the miner's answer carries `id`.
pub fn ping(out: &mut Vec<u8>, id: u64) {
    request(out, id, "mining.ping");
}

fn reply(out: &mut Vec<u8>, id: Id<'_>, result: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"{\"id\":");
    out.extend_from_slice(id.as_json().as_bytes());
    out.extend_from_slice(b",\"result\":");
    result(out);
    out.extend_from_slice(b",\"error\":null}");
}

fn notification(out: &mut Vec<u8>, method: &str, params: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"{\"id\":null,\"method\":\"");
    out.extend_from_slice(method.as_bytes());
    out.extend_from_slice(b"\",\"params\":[");
    params(out);
    out.extend_from_slice(b"]}");
}

fn request(out: &mut Vec<u8>, id: u64, method: &str) {
    out.extend_from_slice(b"{\"id\":");
    number(out, id);
    out.extend_from_slice(b",\"method\":\"");
    out.extend_from_slice(method.as_bytes());
    out.extend_from_slice(b"\",\"params\":[]}");
}

/// Appends a JSON string.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string can always be written to memory");
}

/// Appends a number whose `Display` is valid JSON: any integer and any finite float.
pub(crate) fn number(out: &mut Vec<u8>, number: impl std::fmt::Display) {
    write!(out, "{number}").expect("a number can always be written to memory");
}

pub(crate) fn quoted_hex(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.push(b'"');
    for part in parts {
        hex::push(out, part);
    }
    out.push(b'"');
}

pub(crate) fn quoted_word(out: &mut Vec<u8>, word: u32) {
    quoted_hex(out, &[&word.to_be_bytes()]);
}
