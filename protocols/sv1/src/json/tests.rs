use super::*;

fn decode(json: &[u8]) -> (String, Repairs) {
    let (value, _) = Cursor::new(json).value().unwrap();
    let mut repairs = Repairs::NONE;
    let text = value.to_text(&mut repairs).unwrap().into_owned();
    (text, repairs)
}

#[test]
fn plain_text_is_borrowed() {
    let (value, json) = Cursor::new(r#"  "worker.1é" "#.as_bytes()).value().unwrap();
    assert_eq!(json, r#""worker.1é""#.as_bytes());
    let mut repairs = Repairs::NONE;
    assert!(matches!(value.to_text(&mut repairs), Some(Cow::Borrowed("worker.1é"))));
    assert!(repairs.is_empty());
}

#[test]
fn escapes() {
    assert_eq!(decode(br#""a\"\\\/b""#), (r#"a"\/b"#.into(), Repairs::NONE));
    assert_eq!(decode(br#""\u0041\u00e9\ud83d\ude00""#), ("Aé😀".into(), Repairs::NONE));
    assert_eq!(decode(br#""a\tb\n\u0000c""#), ("abc".into(), Repairs::CONTROL_CHARACTER));
    for kept in [r"\w", r"\u12", r"\ud83d", r"\ud83dx", r"\ude00\ude00", r"\ud83d\u0041"] {
        let (text, repairs) = decode(format!("\"{kept}\"").as_bytes());
        assert!(repairs.contains(Repairs::BAD_ESCAPE), "{kept}");
        assert!(text.starts_with('\\'), "{kept}");
    }
}

#[test]
fn what_sprintf_leaves_in_strings() {
    assert_eq!(decode(b"\"wor\tker\x01\""), ("worker".into(), Repairs::CONTROL_CHARACTER));
    assert_eq!(decode(b"\"w\xf6rker\""), ("w\u{fffd}rker".into(), Repairs::NOT_UTF8));
    assert_eq!(decode(br#""wo"rk"er""#), (r#"wo"rk"er"#.into(), Repairs::UNESCAPED_QUOTE));
    assert_eq!(decode(br#""DOMAIN\worker""#), (r"DOMAIN\worker".into(), Repairs::BAD_ESCAPE));
}

#[test]
fn places_are_kept() {
    let object = read_object(br#"{"p":["a",,null,7 , {"x":[1,2]},[] ],"q":"x"}"#).unwrap();
    let Value::Array(array) = object.get("p") else { panic!("not an array") };
    let json: Vec<_> = array.iter().map(|element| element.json).collect();
    let expected: [&[u8]; 6] = [b"\"a\"", b"null", b"null", b"7", br#"{"x":[1,2]}"#, b"[]"];
    assert_eq!(json, expected);
    assert_eq!(array.get(3), Value::Number("7"));
    assert_eq!(array.get(9), Value::Null);
    assert_eq!(array.iter().count(), 6);
}

#[test]
fn an_array_ends_where_it_makes_no_sense() {
    for (json, good) in
        [("[1 2]", 0), ("[1,2 3,4]", 1), ("[:]", 0), ("[\"a\":1]", 0), ("[tru]", 0), ("[1}]", 0)]
    {
        let Ok((Value::Array(array), _)) = Cursor::new(json.as_bytes()).value() else {
            assert_eq!(json, "[1}]");
            continue;
        };
        let values: Vec<_> = array.iter().map(|element| element.value).collect();
        assert_eq!(values.len(), good + 1, "{json}");
        assert_eq!(values.last(), Some(&Value::Invalid), "{json}");
    }
    for (json, count) in [("[]", 0), ("[ ]", 0), ("[1,]", 1)] {
        let (Value::Array(array), _) = Cursor::new(json.as_bytes()).value().unwrap() else {
            panic!("{json}")
        };
        assert_eq!(array.iter().count(), count, "{json}");
    }
}

#[test]
fn numbers() {
    let mut repairs = Repairs::NONE;
    let number = |text| Value::Number(text);
    assert_eq!(number("1024").to_u64(&mut repairs), Some(1024));
    assert_eq!(number("1024.0").to_u64(&mut repairs), Some(1024));
    assert_eq!(number("1e3").to_u64(&mut repairs), Some(1000));
    assert_eq!(number("18446744073709551615").to_u64(&mut repairs), Some(u64::MAX));
    assert_eq!(number("0.00015").to_f64(&mut repairs), Some(0.00015));
    for bad in ["1.5", "-1", "1e99", "--", "."] {
        assert_eq!(number(bad).to_u64(&mut repairs), None, "{bad}");
    }
    assert_eq!(number("1e999").to_f64(&mut repairs), None);
    assert!(repairs.is_empty());
    assert_eq!(Value::Text(Text(b" 1024 ")).to_f64(&mut repairs), Some(1024.0));
    assert_eq!(repairs, Repairs::TEXT_FOR_NUMBER);
    for word in [b"inf".as_slice(), b"NaN", b"infinity", b"0x10"] {
        assert_eq!(Value::Text(Text(word)).to_f64(&mut repairs), None);
    }
}

#[test]
fn what_is_no_object_is_an_error() {
    let cases: [(&[u8], LineError); 12] = [
        (b"", LineError::NotAnObject),
        (b"GET / HTTP/1.1", LineError::NotAnObject),
        (b"[{}]", LineError::NotAnObject),
        (b"{", LineError::UnexpectedEnd),
        (br#"{"id":1"#, LineError::UnexpectedEnd),
        (br#"{"id":"#, LineError::UnexpectedEnd),
        (br#"{"id":"a}"#, LineError::UnexpectedEnd),
        (br#"{"id":"a\"#, LineError::UnexpectedEnd),
        (br#"{"id":1]"#, LineError::Unexpected { offset: 7, byte: b']' }),
        (br#"{"id":1}{"id":2}"#, LineError::Unexpected { offset: 8, byte: b'{' }),
        (br#"{"a":[[}]}"#, LineError::Unexpected { offset: 7, byte: b'}' }),
        (br#"{"id":1}}"#, LineError::Unexpected { offset: 8, byte: b'}' }),
    ];
    for (line, error) in cases {
        assert_eq!(read_object(line), Err(error), "{}", line.escape_ascii());
    }
}

#[test]
fn depth_is_limited_and_not_the_stack() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(read_object(nested(MAX_DEPTH as usize - 1).as_bytes()).is_ok());
    assert_eq!(read_object(nested(MAX_DEPTH as usize).as_bytes()), Err(LineError::TooDeep));
    assert_eq!(read_object(nested(1 << 20).as_bytes()), Err(LineError::TooDeep));
}
