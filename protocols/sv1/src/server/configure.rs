//! `mining.configure` (BIP310).

use std::borrow::Cow;

use crate::{Array, Object, ParamsError, Repairs, Value};

/// Extensions one request may name; BIP310 and its users know 4. More would be an amplifier: each takes a line's worth
/// of reply.
const MAX_EXTENSIONS: usize = 16;

/// A `mining.configure` request.
#[derive(Debug, Clone, PartialEq)]
pub struct Configure<'a> {
    /// What was asked for, in that order, nothing twice. The reply has one entry for each.
    pub extensions: Vec<Extension<'a>>,
}

/// One extension asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Extension<'a> {
    /// `version-rolling`.
    VersionRolling {
        /// The version bits the miner would like to roll; all of them where it does not say.
        mask: u32,
        /// The fewest bits it can use. BIP310 requires it, most miners leave it out.
        min_bit_count: Option<u8>,
    },
    /// `minimum-difficulty`.
    MinimumDifficulty {
        /// The lowest difficulty the miner wants: positive, finite. `None` where it names none that can be used.
        value: Option<f64>,
    },
    /// `subscribe-extranonce`: the miner follows `mining.set_extranonce`.
    SubscribeExtranonce,
    /// `info`: what the miner says of itself.
    Info(Info<'a>),
    /// Any other.
    Unknown(Cow<'a, str>),
}

/// What a miner says of itself in the `info` extension.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Info<'a> {
    /// `info.connection-url`: the address the miner believes to be connected to.
    pub connection_url: Option<Cow<'a, str>>,
    /// `info.hw-version`: maker and model.
    pub hw_version: Option<Cow<'a, str>>,
    /// `info.sw-version`: its firmware.
    pub sw_version: Option<Cow<'a, str>>,
    /// `info.hw-id`: the device's own id.
    pub hw_id: Option<Cow<'a, str>>,
}

impl Extension<'_> {
    /// The name of the extension, which is its key in the reply.
    pub fn name(&self) -> &str {
        match self {
            Self::VersionRolling { .. } => "version-rolling",
            Self::MinimumDifficulty { .. } => "minimum-difficulty",
            Self::SubscribeExtranonce => "subscribe-extranonce",
            Self::Info(_) => "info",
            Self::Unknown(name) => name,
        }
    }
}

pub(super) fn parse<'a>(
    params: Array<'a>,
    repairs: &mut Repairs,
) -> Result<Configure<'a>, ParamsError> {
    let options = match params.get(1) {
        Value::Object(object) => Some(object),
        _ => None,
    };
    let mut extensions = Vec::new();
    match params.get(0) {
        Value::Array(names) => {
            for name in names.iter() {
                let Value::Text(name) = name.value else { continue };
                add(&mut extensions, name.decode(repairs), options, repairs)?;
            }
        }
        Value::Text(name) => add(&mut extensions, name.decode(repairs), options, repairs)?,
        Value::Null => return Err(ParamsError::Missing("extensions")),
        _ => return Err(ParamsError::Malformed("extensions")),
    }
    Ok(Configure { extensions })
}

fn add<'a>(
    extensions: &mut Vec<Extension<'a>>,
    name: Cow<'a, str>,
    options: Option<Object<'a>>,
    repairs: &mut Repairs,
) -> Result<(), ParamsError> {
    if extensions.iter().any(|known| known.name() == name) {
        return Ok(());
    }
    if extensions.len() == MAX_EXTENSIONS {
        return Err(ParamsError::Malformed("extensions"));
    }
    let option = |key| options.map_or(Value::Null, |options| options.get(key));
    extensions.push(match &*name {
        "version-rolling" => Extension::VersionRolling {
            mask: mask(option("version-rolling.mask"), repairs),
            min_bit_count: min_bit_count(option("version-rolling.min-bit-count"), repairs),
        },
        "minimum-difficulty" => {
            let value =
                option("minimum-difficulty.value").to_f64(repairs).filter(|value| *value > 0.0);
            if value.is_none() {
                repairs.insert(Repairs::CONFIGURE_OPTION);
            }
            Extension::MinimumDifficulty { value }
        }
        "subscribe-extranonce" => Extension::SubscribeExtranonce,
        "info" => Extension::Info(Info {
            connection_url: option("info.connection-url").to_text(repairs),
            hw_version: option("info.hw-version").to_text(repairs),
            sw_version: option("info.sw-version").to_text(repairs),
            hw_id: option("info.hw-id").to_text(repairs),
        }),
        _ => Extension::Unknown(name),
    });
    Ok(())
}

fn mask(value: Value<'_>, repairs: &mut Repairs) -> u32 {
    let text = match value {
        Value::Text(text) => Some(text.decode(repairs)),
        _ => None,
    };
    let digits = text.as_deref().map(|text| text.trim().trim_start_matches("0x"));
    let mask = digits
        .filter(|digits| !digits.starts_with('+'))
        .and_then(|digits| u32::from_str_radix(digits, 16).ok());
    mask.unwrap_or_else(|| {
        repairs.insert(Repairs::DEFAULT_MASK);
        u32::MAX
    })
}

fn min_bit_count(value: Value<'_>, repairs: &mut Repairs) -> Option<u8> {
    if value.is_null() {
        return None;
    }
    let count = value
        .to_u64(repairs)
        .filter(|count| *count <= 32)
        .and_then(|count| u8::try_from(count).ok());
    if count.is_none() {
        repairs.insert(Repairs::CONFIGURE_OPTION);
    }
    count
}
