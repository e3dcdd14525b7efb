//! `mining.submit`.

use std::borrow::Cow;

use crate::{Array, ParamsError, Repairs, Value, hex};

/// `mining.submit`: `[user, job id, extranonce2, ntime, nonce, version bits]`, the last one optional.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submit<'a> {
    /// The worker's name. Need not be one that was authorised on this connection, not even in its letters' case.
    pub user: Cow<'a, str>,
    /// The job worked on.
    pub job_id: Cow<'a, str>,
    /// The miner's own part of the coinbase.
    pub extranonce2: Extranonce2<'a>,
    /// The header's time in seconds since 1970.
    pub ntime: u32,
    /// The header's nonce.
    pub nonce: u32,
    /// The version bits rolled, see [`merge_version`]. `None` in the five-parameter form.
    pub version_bits: Option<u32>,
}

/// The `extranonce2` of a share: hex digits, not yet measured against the size the miner was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extranonce2<'a>(Cow<'a, str>);

impl Extranonce2<'_> {
    /// Writes the bytes into `out`, whose length is the size the miner was given, and says what had to be repaired.
    ///
    /// Digits too few are zeros on the right and digits too many are dropped, as ckpool does. Blanks in front are zeros
    /// in their place: NerdMiner 1.7.0 pads with them, and reads them as zeros when it hashes.
    pub fn write_to(&self, out: &mut [u8]) -> Repairs {
        let (mut digits, wanted) = (self.0.as_bytes(), 2 * out.len());
        let mut repairs = Repairs::NONE;
        if digits.first() == Some(&b' ') {
            repairs.insert(Repairs::SPACES);
        }
        while let [b' ', rest @ ..] = digits {
            if digits.len() <= wanted {
                break;
            }
            digits = rest;
        }
        match digits.len().cmp(&wanted) {
            std::cmp::Ordering::Less => repairs.insert(Repairs::SHORT_EXTRANONCE2),
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => repairs.insert(Repairs::LONG_EXTRANONCE2),
        }
        out.fill(0);
        for (place, digit) in digits.iter().take(wanted).enumerate() {
            let value = hex::nibble(*digit).unwrap_or(0);
            out[place / 2] |= if place % 2 == 0 { value << 4 } else { value };
        }
        repairs
    }
}

/// The header version of a share, by BIP310: the job's bits outside `mask`, the miner's bits under it.
///
/// `bits` is `None` where the miner sent five parameters: it did not roll. Some firmware sends the whole version instead
/// of the bits under the mask; the result is the same, and the repair says so. Bits outside the mask that are not the
/// job's own are dropped, and the share will most likely turn out to miss its target.
pub const fn merge_version(job_version: u32, mask: u32, bits: Option<u32>) -> (u32, Repairs) {
    let Some(bits) = bits else { return (job_version, Repairs::NONE) };
    let repairs = if bits & !mask == 0 {
        Repairs::NONE
    } else if (bits ^ job_version) & !mask == 0 {
        Repairs::FULL_VERSION
    } else {
        Repairs::VERSION_OUTSIDE_MASK
    };
    ((job_version & !mask) | (bits & mask), repairs)
}

pub(super) fn parse<'a>(
    params: Array<'a>,
    repairs: &mut Repairs,
) -> Result<Submit<'a>, ParamsError> {
    let mut elements = params.iter();
    let mut next = || elements.next().map_or(Value::Null, |element| element.value);
    let submit = Submit {
        user: next().to_text(repairs).unwrap_or_default(),
        job_id: next().to_text(repairs).ok_or(ParamsError::Missing("job_id"))?,
        extranonce2: extranonce2(next(), repairs)?,
        ntime: word(next(), &NTIME, repairs)?.ok_or(ParamsError::Missing("ntime"))?,
        nonce: word(next(), &NONCE, repairs)?.ok_or(ParamsError::Missing("nonce"))?,
        version_bits: word(next(), &VERSION_BITS, repairs)?,
    };
    if elements.next().is_some() {
        repairs.insert(Repairs::EXTRA_PARAMS);
    }
    Ok(submit)
}

fn extranonce2<'a>(
    value: Value<'a>,
    repairs: &mut Repairs,
) -> Result<Extranonce2<'a>, ParamsError> {
    const NAME: &str = "extranonce2";
    let text = match value {
        Value::Null => return Err(ParamsError::Missing(NAME)),
        Value::Text(text) => text.decode(repairs),
        _ => return Err(ParamsError::Malformed(NAME)),
    };
    let text = match text {
        Cow::Borrowed(text) => Cow::Borrowed(trim_end(text, repairs)),
        Cow::Owned(text) => Cow::Owned(trim_end(&text, repairs).to_owned()),
    };
    // No digit at all is not an extranonce2 that came out too short.
    let digits = text.trim_start_matches(' ');
    if digits.is_empty() || !digits.bytes().all(|digit| hex::nibble(digit).is_some()) {
        return Err(ParamsError::Malformed(NAME));
    }
    Ok(Extranonce2(text))
}

fn trim_end<'t>(text: &'t str, repairs: &mut Repairs) -> &'t str {
    let trimmed = text.trim_end_matches(' ');
    if trimmed.len() < text.len() {
        repairs.insert(Repairs::SPACES);
    }
    trimmed
}

/// A field of 8 hex digits, and what it is called when it has more or fewer.
struct Word {
    name: &'static str,
    short: Repairs,
    long: Repairs,
    /// Whether digits too many are cut off at the end, as ckpool does with nonces, instead of zeros at the front.
    cut: bool,
}

const NTIME: Word =
    Word { name: "ntime", short: Repairs::NTIME_LENGTH, long: Repairs::NTIME_LENGTH, cut: false };
const NONCE: Word =
    Word { name: "nonce", short: Repairs::SHORT_NONCE, long: Repairs::LONG_NONCE, cut: true };
const VERSION_BITS: Word = Word {
    name: "version",
    short: Repairs::VERSION_LENGTH,
    long: Repairs::VERSION_LENGTH,
    cut: false,
};

/// Reads a hex field; `None` where it is null or absent. A JSON number is the number it says.
fn word(value: Value<'_>, word: &Word, repairs: &mut Repairs) -> Result<Option<u32>, ParamsError> {
    let parsed = match value {
        Value::Null => return Ok(None),
        Value::Text(text) => hex_word(&text.decode(repairs), word, repairs),
        Value::Number(_) => {
            repairs.insert(Repairs::NUMBER_FOR_TEXT);
            value.to_u64(repairs).and_then(|number| u32::try_from(number).ok())
        }
        _ => None,
    };
    parsed.map(Some).ok_or(ParamsError::Malformed(word.name))
}

fn hex_word(text: &str, word: &Word, repairs: &mut Repairs) -> Option<u32> {
    let mut digits = text.trim_matches(' ');
    if digits.len() < text.len() {
        repairs.insert(Repairs::SPACES);
    }
    if let Some(rest) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        repairs.insert(Repairs::HEX_PREFIX);
        digits = rest;
    }
    match digits.len() {
        0 => return None,
        1..8 => repairs.insert(word.short),
        8 => {}
        _ => {
            repairs.insert(word.long);
            digits = if word.cut { digits.get(..8)? } else { digits.trim_start_matches('0') };
            if digits.len() > 8 {
                return None;
            }
        }
    }
    digits
        .bytes()
        .try_fold(0_u32, |number, digit| Some(number << 4 | u32::from(hex::nibble(digit)?)))
}
