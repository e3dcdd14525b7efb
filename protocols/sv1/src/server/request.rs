//! Lines from a miner.

use std::borrow::Cow;

use super::{Configure, PasswordOptions, Submit, configure, submit};
use crate::{Array, Id, LineError, ParamsError, Repairs, Value, hex, json};

/// One line from a miner.
#[derive(Debug, Clone, PartialEq)]
pub struct Request<'a> {
    /// Where an answer is wanted, the id to echo. Without one nothing may be answered.
    pub id: Option<Id<'a>>,
    /// What is asked.
    pub method: Method<'a>,
    /// What had to be repaired to understand it.
    pub repairs: Repairs,
}

/// What a miner asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Method<'a> {
    /// `mining.configure` (BIP310).
    Configure(Configure<'a>),
    /// `mining.subscribe`.
    Subscribe(Subscribe<'a>),
    /// `mining.authorize`.
    Authorize(Authorize<'a>),
    /// `mining.submit`.
    Submit(Submit<'a>),
    /// `mining.suggest_difficulty`, also written `mining.suggest_difficulty(N)`.
    SuggestDifficulty {
        /// The difficulty asked for: positive, finite, often below 1.
        difficulty: f64,
    },
    /// `mining.suggest_target`.
    SuggestTarget {
        /// The target asked for, the most significant byte first.
        target: [u8; 32],
    },
    /// `mining.extranonce.subscribe`.
    ExtranonceSubscribe,
    /// `mining.multi_version`, Bitmain's way before BIP310.
    MultiVersion,
    /// `mining.get_transactions` or `mining.get_txnhashes`.
    GetTransactions,
    /// `mining.ping`.
    Ping,
    /// `mining.capabilities`.
    Capabilities,
    /// Not a request: the miner's answer to one of ours. [`Request::id`] is the id it was given.
    Answer(Answer<'a>),
    /// A known method whose parameters cannot be used.
    Invalid {
        /// Its name.
        method: &'static str,
        /// What is wrong.
        error: ParamsError,
    },
    /// A method not known here; empty where the line names none.
    Unknown {
        /// Its name.
        method: Cow<'a, str>,
    },
    /// A line without content. Nothing to do.
    Blank,
}

/// `mining.subscribe`: `[user agent, session, host, port]`, every one of them optional.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe<'a> {
    /// What the miner calls itself.
    pub user_agent: Option<Cow<'a, str>>,
    /// The session the miner had before. Anything: NiceHash sends a time stamp.
    pub session: Option<Cow<'a, str>>,
    /// All parameters, the first two included.
    pub params: Array<'a>,
}

/// `mining.authorize`: `[user, password]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorize<'a> {
    /// The worker's name; empty where none was given.
    pub user: Cow<'a, str>,
    /// The password, if any.
    pub password: Option<Cow<'a, str>>,
}

impl Authorize<'_> {
    /// The options miners put into the password.
    pub fn options(&self) -> PasswordOptions {
        self.password.as_deref().map(PasswordOptions::parse).unwrap_or_default()
    }
}

/// A miner's answer to a request of ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer<'a> {
    /// The result; for `client.get_version` the miner's name, for `mining.ping` `"pong"`.
    pub result: Value<'a>,
    /// The error, null if there is none.
    pub error: Value<'a>,
    /// Whether it came as a request with the method `pong`, as ESP-Miner answers a ping.
    pub pong: bool,
}

impl<'a> Answer<'a> {
    /// The result as text, if it is some.
    pub fn text(&self) -> Option<Cow<'a, str>> {
        self.result.to_text(&mut Repairs::default())
    }
}

impl Method<'_> {
    /// A short fixed name, fit for a log or a metric label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Configure(_) => "mining.configure",
            Self::Subscribe(_) => "mining.subscribe",
            Self::Authorize(_) => "mining.authorize",
            Self::Submit(_) => "mining.submit",
            Self::SuggestDifficulty { .. } => "mining.suggest_difficulty",
            Self::SuggestTarget { .. } => "mining.suggest_target",
            Self::ExtranonceSubscribe => "mining.extranonce.subscribe",
            Self::MultiVersion => "mining.multi_version",
            Self::GetTransactions => "mining.get_transactions",
            Self::Ping => "mining.ping",
            Self::Capabilities => "mining.capabilities",
            Self::Answer(_) => "answer",
            Self::Invalid { method, .. } => method,
            Self::Unknown { .. } => "unknown",
            Self::Blank => "blank",
        }
    }
}

/// Reads one line from a miner.
///
/// An error means that the line is no message. Everything else, unknown methods and unusable parameters included, is
/// a [`Request`], since it has an id that waits for an answer.
pub fn parse_request(line: &[u8]) -> Result<Request<'_>, LineError> {
    if json::is_blank(line) {
        return Ok(Request { id: None, method: Method::Blank, repairs: Repairs::NONE });
    }
    let (mut id, mut method, mut params) = (None, Value::Null, Value::Null);
    let (mut result, mut error, mut answers) = (Value::Null, Value::Null, false);
    for member in json::read_object(line)?.iter() {
        let member = member?;
        match member.key.raw() {
            b"id" => id = Id::read(member.json)?,
            b"method" => method = member.value,
            b"params" => params = member.value,
            b"result" => (result, answers) = (member.value, true),
            b"error" => (error, answers) = (member.value, true),
            _ => {}
        }
    }
    let mut repairs = Repairs::NONE;
    let name = match method {
        Value::Text(name) => name.decode(&mut repairs),
        _ => Cow::Borrowed(""),
    };
    let method = if answers && name.is_empty() || name == "pong" || name == "mining.pong" {
        Method::Answer(Answer { result, error, pong: !name.is_empty() })
    } else {
        parse_method(name, params, &mut repairs)
    };
    Ok(Request { id, method, repairs })
}

fn parse_method<'a>(name: Cow<'a, str>, params: Value<'a>, repairs: &mut Repairs) -> Method<'a> {
    let params = match params {
        Value::Array(array) => array,
        _ => {
            repairs.insert(Repairs::NO_PARAMS);
            Array::default()
        }
    };
    let (label, parsed) = match &*name {
        "mining.submit" => ("mining.submit", submit::parse(params, repairs).map(Method::Submit)),
        "mining.configure" => {
            ("mining.configure", configure::parse(params, repairs).map(Method::Configure))
        }
        "mining.subscribe" => return Method::Subscribe(subscribe(params, repairs)),
        "mining.authorize" => return Method::Authorize(authorize(params, repairs)),
        "mining.suggest_target" => ("mining.suggest_target", suggest_target(params, repairs)),
        "mining.extranonce.subscribe" => return Method::ExtranonceSubscribe,
        "mining.multi_version" => return Method::MultiVersion,
        "mining.get_transactions" | "mining.get_txnhashes" => return Method::GetTransactions,
        "mining.ping" => return Method::Ping,
        "mining.capabilities" => return Method::Capabilities,
        other => match other.strip_prefix("mining.suggest_difficulty") {
            Some(argument) => {
                ("mining.suggest_difficulty", suggest_difficulty(argument, params, repairs))
            }
            None => return Method::Unknown { method: name },
        },
    };
    parsed.unwrap_or_else(|error| Method::Invalid { method: label, error })
}

fn subscribe<'a>(params: Array<'a>, repairs: &mut Repairs) -> Subscribe<'a> {
    let user_agent = params.get(0).to_text(repairs);
    // A session that is a number is no fault: NiceHash's is a time stamp.
    let session = params.get(1).to_text(&mut Repairs::default());
    Subscribe { user_agent, session, params }
}

fn authorize<'a>(params: Array<'a>, repairs: &mut Repairs) -> Authorize<'a> {
    let user = params.get(0).to_text(repairs).unwrap_or_default();
    Authorize { user, password: params.get(1).to_text(repairs) }
}

fn suggest_difficulty<'a>(
    argument: &str,
    params: Array<'_>,
    repairs: &mut Repairs,
) -> Result<Method<'a>, ParamsError> {
    let argument = argument.trim().trim_start_matches('(').trim_end_matches(')');
    let difficulty = if argument.is_empty() {
        let value = params.get(0);
        if value.is_null() {
            return Err(ParamsError::Missing("difficulty"));
        }
        value.to_f64(repairs)
    } else {
        repairs.insert(Repairs::ARGUMENT_IN_METHOD);
        json::parse_number(argument)
    };
    match difficulty {
        Some(difficulty) if difficulty > 0.0 => Ok(Method::SuggestDifficulty { difficulty }),
        _ => Err(ParamsError::Malformed("difficulty")),
    }
}

fn suggest_target<'a>(params: Array<'_>, repairs: &mut Repairs) -> Result<Method<'a>, ParamsError> {
    let text = params.get(0).to_text(repairs).ok_or(ParamsError::Missing("target"))?;
    let digits = text.trim().trim_start_matches("0x");
    if digits.is_empty() || digits.len() > 64 {
        return Err(ParamsError::Malformed("target"));
    }
    let target =
        hex::decode_array(&format!("{digits:0>64}")).ok_or(ParamsError::Malformed("target"))?;
    Ok(Method::SuggestTarget { target })
}
