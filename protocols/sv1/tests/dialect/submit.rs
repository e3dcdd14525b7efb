//! Shares.

use std::borrow::Cow;

use adit_sv1::server::{Method, Submit, merge_version, parse_request, write};
use adit_sv1::{ErrorCode, ParamsError, Repairs};

use super::{id, parse, written};

/// A share, the extranonce2 in the size granted, and every repair.
fn share(line: &str, extranonce2_size: usize) -> (Submit<'_>, Vec<u8>, Repairs) {
    let request = parse(line);
    let Method::Submit(submit) = request.method else { panic!("{request:?}") };
    let mut extranonce2 = vec![0xee; extranonce2_size];
    let repairs = request.repairs.union(submit.extranonce2.write_to(&mut extranonce2));
    (submit, extranonce2, repairs)
}

/// A share with these last parameters, from `extranonce2` on.
fn fields(fields: &str) -> String {
    format!(r#"{{"id": 5, "method": "mining.submit", "params": ["bc1q.w", "1f", {fields}]}}"#)
}

/// Why a share cannot be used.
fn refused(line: &str) -> ParamsError {
    let request = parse(line);
    assert_eq!(request.id, Some(id("5")), "the share must be answered");
    match request.method {
        Method::Invalid { method: "mining.submit", error } => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn five_parameters_as_minerd_sends_them() {
    let line = r#"{"method": "mining.submit", "params": ["", "1", "00000000", "6b00f646", "3e2c0900"], "id":4}"#;
    let (submit, extranonce2, repairs) = share(line, 4);
    assert_eq!((&*submit.user, &*submit.job_id), ("", "1"));
    assert_eq!((submit.ntime, submit.nonce, submit.version_bits), (0x6b00_f646, 0x3e2c_0900, None));
    assert_eq!((extranonce2, repairs), (vec![0; 4], Repairs::NONE));
}

#[test]
fn six_parameters_as_esp_miner_sends_them() {
    let line = fields(r#""0100000000000000", "66a1b2c3", "e9b8a7f6", "0a4e2000""#);
    let (submit, extranonce2, repairs) = share(&line, 8);
    assert_eq!((submit.ntime, submit.nonce), (0x66a1_b2c3, 0xe9b8_a7f6));
    assert_eq!(submit.version_bits, Some(0x0a4e_2000));
    assert_eq!((extranonce2, repairs), (vec![1, 0, 0, 0, 0, 0, 0, 0], Repairs::NONE));
}

#[test]
fn nothing_of_a_share_is_copied() {
    let line = fields(r#""01000000", "66a1b2c3", "e9b8a7f6", "0a4e2000""#);
    let (submit, ..) = share(&line, 4);
    assert!(matches!((&submit.user, &submit.job_id), (Cow::Borrowed(_), Cow::Borrowed(_))));
}

#[test]
fn upper_case() {
    let line = fields(r#""0A0B0C0D", "66A1B2C3", "E9B8A7F6", "1FFFE000""#);
    let (submit, extranonce2, repairs) = share(&line, 4);
    assert_eq!(
        (submit.ntime, submit.nonce, submit.version_bits),
        (0x66a1_b2c3, 0xe9b8_a7f6, Some(0x1fff_e000))
    );
    assert_eq!((extranonce2, repairs), (vec![10, 11, 12, 13], Repairs::NONE));
}

#[test]
fn nonces_without_leading_zeros() {
    // NerdMiner: String(nonce, HEX).
    for (text, nonce) in [("e9b8a7f", 0x0e9b_8a7f), ("0", 0), ("1", 1)] {
        let line = fields(&format!(r#""00000001", "66a1b2c3", "{text}""#));
        let (submit, _, repairs) = share(&line, 4);
        assert_eq!((submit.nonce, repairs), (nonce, Repairs::SHORT_NONCE));
    }
}

#[test]
fn nonces_too_long_are_cut_as_ckpool_does() {
    let line = fields(r#""00000001", "66a1b2c3", "e9b8a7f6ff""#);
    let (submit, _, repairs) = share(&line, 4);
    assert_eq!((submit.nonce, repairs), (0xe9b8_a7f6, Repairs::LONG_NONCE));
}

#[test]
fn ntime_and_version_of_other_lengths() {
    let line = fields(r#""00000001", "0066a1b2c3", "e9b8a7f6", "2000""#);
    let (submit, _, repairs) = share(&line, 4);
    assert_eq!((submit.ntime, submit.version_bits), (0x66a1_b2c3, Some(0x2000)));
    assert_eq!(repairs, Repairs::NTIME_LENGTH.union(Repairs::VERSION_LENGTH));
    assert_eq!(
        refused(&fields(r#""00000001", "166a1b2c3", "e9b8a7f6""#)),
        ParamsError::Malformed("ntime")
    );
}

#[test]
fn spaces_and_prefixes() {
    let line = fields(r#""00000001 ", " 66a1b2c3", "  e9b8a7", "0x00002000""#);
    let (submit, extranonce2, repairs) = share(&line, 4);
    assert_eq!(
        (submit.ntime, submit.nonce, submit.version_bits),
        (0x66a1_b2c3, 0x00e9_b8a7, Some(0x2000))
    );
    assert_eq!(extranonce2, [0, 0, 0, 1]);
    assert_eq!(repairs, Repairs::SPACES.union(Repairs::SHORT_NONCE).union(Repairs::HEX_PREFIX));
}

#[test]
fn extranonce2_padded_with_spaces() {
    // NerdMiner 1.7.0 (#763), which hashes the spaces as zeros.
    let line = fields(r#""               1", "66a1b2c3", "e9b8a7f6""#);
    let (_, extranonce2, repairs) = share(&line, 8);
    assert_eq!((extranonce2, repairs), (vec![0, 0, 0, 0, 0, 0, 0, 1], Repairs::SPACES));
    // More spaces than there is room for.
    let (_, extranonce2, repairs) = share(&line, 4);
    assert_eq!((extranonce2, repairs), (vec![0, 0, 0, 1], Repairs::SPACES));
}

#[test]
fn extranonce2_of_the_wrong_length_is_repaired_as_ckpool_does() {
    for (text, expected, repair) in [
        ("0102", vec![1, 2, 0, 0], Repairs::SHORT_EXTRANONCE2),
        ("010", vec![1, 0, 0, 0], Repairs::SHORT_EXTRANONCE2),
        ("0102030405", vec![1, 2, 3, 4], Repairs::LONG_EXTRANONCE2),
        ("010203045", vec![1, 2, 3, 4], Repairs::LONG_EXTRANONCE2),
        ("01020304", vec![1, 2, 3, 4], Repairs::NONE),
    ] {
        let line = fields(&format!(r#""{text}", "66a1b2c3", "e9b8a7f6""#));
        let (_, extranonce2, repairs) = share(&line, 4);
        assert_eq!((extranonce2, repairs), (expected, repair), "{text}");
    }
}

#[test]
fn numbers_for_strings() {
    let line = r#"{"id":5,"method":"mining.submit","params":["w",31,"00000001",1721873091,7]}"#;
    let (submit, _, repairs) = share(line, 4);
    assert_eq!((&*submit.job_id, submit.ntime, submit.nonce), ("31", 1_721_873_091, 7));
    assert_eq!(repairs, Repairs::NUMBER_FOR_TEXT);
}

#[test]
fn a_null_version_is_none_and_more_parameters_are_ignored() {
    let line = fields(r#""00000001", "66a1b2c3", "e9b8a7f6", null"#);
    let (submit, _, repairs) = share(&line, 4);
    assert_eq!((submit.version_bits, repairs), (None, Repairs::NONE));
    let line = fields(r#""00000001", "66a1b2c3", "e9b8a7f6", "00002000", "x", 1"#);
    let (submit, _, repairs) = share(&line, 4);
    assert_eq!((submit.version_bits, repairs), (Some(0x2000), Repairs::EXTRA_PARAMS));
}

#[test]
fn what_cannot_be_repaired_says_which_field() {
    for (line, error) in [
        (
            r#"{"id":5,"method":"mining.submit","params":[]}"#.to_owned(),
            ParamsError::Missing("job_id"),
        ),
        (r#"{"id":5,"method":"mining.submit"}"#.to_owned(), ParamsError::Missing("job_id")),
        (
            r#"{"id":5,"method":"mining.submit","params":{}}"#.to_owned(),
            ParamsError::Missing("job_id"),
        ),
        (fields("null"), ParamsError::Missing("extranonce2")),
        (fields(r#""""#), ParamsError::Malformed("extranonce2")),
        (fields(r#""    ""#), ParamsError::Malformed("extranonce2")),
        (fields(r#""0g""#), ParamsError::Malformed("extranonce2")),
        (fields("7"), ParamsError::Malformed("extranonce2")),
        (fields(r#""00", , "00000000""#), ParamsError::Missing("ntime")),
        (fields(r#""00", "66a1b2cx", "00000000""#), ParamsError::Malformed("ntime")),
        (fields(r#""00", -1, "00000000""#), ParamsError::Malformed("ntime")),
        (fields(r#""00", "66a1b2c3""#), ParamsError::Missing("nonce")),
        // ckpool: SE_NO_NONCE.
        (fields(r#""00", "66a1b2c3", """#), ParamsError::Malformed("nonce")),
        (fields(r#""00", "66a1b2c3", "0x""#), ParamsError::Malformed("nonce")),
        (fields(r#""00", "66a1b2c3", "+1234567""#), ParamsError::Malformed("nonce")),
        (fields(r#""00", "66a1b2c3", "1234567éé""#), ParamsError::Malformed("nonce")),
        (fields(r#""00", "66a1b2c3", 4294967296"#), ParamsError::Malformed("nonce")),
        (fields(r#""00", "66a1b2c3", "00000000", "zz""#), ParamsError::Malformed("version")),
    ] {
        assert_eq!(refused(&line), error, "{line}");
    }
}

#[test]
fn rolled_versions() {
    const MASK: u32 = 0x1fff_e000;
    for (job, bits, version, repairs) in [
        // BIP310.
        (0x2000_0000, Some(0x0a4e_2000), 0x2a4e_2000, Repairs::NONE),
        (0x2000_0000, Some(0), 0x2000_0000, Repairs::NONE),
        // The job's own bits under the mask give way.
        (0x3fff_e004, Some(0), 0x2000_0004, Repairs::NONE),
        // Five parameters after version rolling was negotiated: nothing was rolled.
        (0x3000_0000, None, 0x3000_0000, Repairs::NONE),
        // Firmware that sends the whole version.
        (0x2000_0000, Some(0x2a4e_2000), 0x2a4e_2000, Repairs::FULL_VERSION),
        (0x2000_0000, Some(0x2000_0000), 0x2000_0000, Repairs::FULL_VERSION),
        // Bits nobody allowed.
        (0x2000_0000, Some(0x4000_2000), 0x2000_2000, Repairs::VERSION_OUTSIDE_MASK),
    ] {
        assert_eq!(merge_version(job, MASK, bits), (version, repairs), "{job:08x} {bits:08x?}");
    }
    // Version rolling was never negotiated.
    assert_eq!(
        merge_version(0x2000_0000, 0, Some(0x2000)),
        (0x2000_0000, Repairs::VERSION_OUTSIDE_MASK)
    );
}

#[test]
fn verdicts() {
    let reply = |code: ErrorCode| written(|out| write::error(out, id("4"), code, code.text()));
    assert_eq!(
        written(|out| write::result_bool(out, id("4"), true)),
        r#"{"id":4,"result":true,"error":null}"#
    );
    for (code, json) in [
        (ErrorCode::Other, r#"[20,"Other/Unknown",null]"#),
        (ErrorCode::JobNotFound, r#"[21,"Job not found",null]"#),
        (ErrorCode::DuplicateShare, r#"[22,"Duplicate share",null]"#),
        (ErrorCode::LowDifficulty, r#"[23,"Low difficulty share",null]"#),
        (ErrorCode::Unauthorized, r#"[24,"Unauthorized worker",null]"#),
        (ErrorCode::NotSubscribed, r#"[25,"Not subscribed",null]"#),
    ] {
        assert_eq!(reply(code), format!(r#"{{"id":4,"result":null,"error":{json}}}"#));
    }
}

#[test]
fn a_share_with_an_id_that_is_no_json_is_no_message() {
    assert!(parse_request(br#"{"id":4x,"method":"mining.submit","params":[]}"#).is_err());
}
