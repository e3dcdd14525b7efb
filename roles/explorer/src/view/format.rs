//! Numbers, times and names for people.

use maud::{Markup, html};

use crate::world::unix;

/// Bitcoins with as many decimals as it takes, at least two.
pub fn btc(sats: u64) -> String {
    let (whole, rest) = (sats / 100_000_000, sats % 100_000_000);
    let digits = format!("{rest:08}");
    let decimals = digits.trim_end_matches('0').len().max(2);
    format!("{}.{} BTC", grouped(whole), &digits[..decimals])
}

/// The same where it may be below zero.
pub fn signed_btc(sats: i64) -> String {
    let sign = if sats < 0 { "−" } else { "+" };
    format!("{sign}{}", btc(sats.unsigned_abs()))
}

/// Small amounts.
pub fn sats(sats: u64) -> String {
    format!("{} sat", grouped(sats))
}

/// `1 234 567`, with thin spaces.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// Hashes per second.
pub fn hashrate(rate: f64) -> String {
    format!("{}H/s", scaled(rate, 1e3, &["", "k", "M", "G", "T", "P", "E", "Z", "Y"]))
}

/// Expected hashes of a difficulty are what can be told from a CPU's to a farm's.
pub fn difficulty(difficulty: f64) -> String {
    if difficulty <= 0.0 || !difficulty.is_finite() {
        return "–".to_owned();
    }
    if difficulty < 0.001 {
        // As powers of ten nobody can read them beside one another: as hashes they can.
        return format!(
            "{}hashes",
            scaled(difficulty * 4_294_967_296.0, 1e3, &["", "k", "M", "G"])
        );
    }
    scaled(difficulty, 1e3, &["", "k", "M", "G", "T", "P"]).trim_end().to_owned()
}

/// Bytes.
pub fn bytes(bytes: u64) -> String {
    format!("{}B", scaled(bytes as f64, 1024.0, &["", "Ki", "Mi", "Gi"]))
}

/// Three digits that matter and a unit's prefix: `12.3 k`.
fn scaled(mut value: f64, step: f64, prefixes: &[&str]) -> String {
    if !value.is_finite() {
        return "– ".to_owned();
    }
    let mut prefix = 0;
    while value >= step * 0.9995 && prefix + 1 < prefixes.len() {
        value /= step;
        prefix += 1;
    }
    let decimals = match value {
        v if v >= 99.95 || (prefix == 0 && v == v.trunc()) => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}\u{202f}{}", prefixes[prefix])
}

/// A time span measured in seconds, for latencies: `1.6 ms`.
pub fn latency(seconds: f64) -> String {
    match seconds {
        s if s.is_infinite() => "off the scale".to_owned(),
        s if s < 1e-3 => format!("{:.1} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", (s * 1e3).max(1.0)),
        s => format!("{s:.1} s"),
    }
}

/// A time span in words of one unit: `12 s`, `5 min`, `3 h`, `2 d`.
pub fn span(seconds: u64) -> String {
    match seconds {
        s if s < 60 => format!("{s} s"),
        s if s < 3_600 => format!("{} min", s / 60),
        s if s < 86_400 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        s => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// How long ago; the page's script keeps it true.
pub fn ago(at: u64) -> Markup {
    if at == 0 {
        return html! { "–" };
    }
    let now = unix();
    html! {
        time data-at=(at) title=(date(at)) {
            @if now >= at { (span(now - at)) " ago" } @else { "in " (span(at - now)) }
        }
    }
}

/// For how long something has been so.
pub fn since(at: u64) -> Markup {
    html! { time data-since=(at) title=(date(at)) { (span(unix().saturating_sub(at))) } }
}

/// Date and time, UTC.
pub fn date(unix: u64) -> String {
    let (days, rest) = (unix / 86_400, unix % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3_600, rest % 3_600 / 60, rest % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// The date of a day since 1970-01-01, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years that begin in March, so that leap days come last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + carry, month, day)
}

/// A hash with its middle left out.
pub fn short(hash: &str) -> String {
    match (hash.get(..8), hash.get(hash.len().saturating_sub(8)..)) {
        (Some(start), Some(end)) if hash.len() > 20 => format!("{start}…{end}"),
        _ => hash.to_owned(),
    }
}

/// The beginning of a text.
pub fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// `1 block`, `2 blocks`.
pub fn count(number: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(btc(5_000_000_000), "50.00 BTC");
        assert_eq!(btc(1), "0.00000001 BTC");
        assert_eq!(signed_btc(-150_000_000), "−1.50 BTC");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(hashrate(962.67), "963\u{202f}H/s");
        assert_eq!(hashrate(1_500.0), "1.50\u{202f}kH/s");
        assert_eq!(hashrate(999_999.0), "1.00\u{202f}MH/s");
        assert_eq!(hashrate(f64::NAN), "– H/s");
        assert_eq!(bytes(7_139_328), "6.81\u{202f}MiB");
        assert_eq!(latency(0.0004), "0.4 ms");
        assert_eq!(latency(0.012), "12 ms");
        assert_eq!(difficulty(0.0), "–");
        assert_eq!(difficulty(1_234.0), "1.23\u{202f}k");
    }

    #[test]
    fn times() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_827_696), "2000-02-29 12:34:56 UTC");
        assert_eq!(date(1_795_246_303), "2026-11-21 07:31:43 UTC");
        assert_eq!(span(59), "59 s");
        assert_eq!(span(3_700), "1 h 1 min");
    }

    #[test]
    fn names() {
        assert_eq!(short("0123456789abcdef0123456789abcdef"), "01234567…89abcdef");
        assert_eq!(short("€".repeat(9).as_str()), "€".repeat(9));
        assert_eq!(cut("äöü", 2), "äö…");
        assert_eq!(cut("äöü", 3), "äöü");
    }
}
