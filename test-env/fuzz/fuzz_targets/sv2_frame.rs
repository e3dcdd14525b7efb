//! Six bytes of header, the payload behind them: what is read is written back to the letter, TLVs included.
#![no_main]

use adit_sv2::frame::{Header, payload_limit};
use adit_sv2::messages::AnyMessage;
use adit_sv2::tlv::Tlvs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((bytes, payload)) = data.split_first_chunk() else { return };
    let header = Header::parse(bytes);
    assert_eq!(header.to_bytes(), *bytes);
    let _ = payload_limit(&header);

    let (message, tlvs) = match AnyMessage::decode(&header, payload) {
        Ok(read) => read,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(message.to_string().starts_with(message.name()));
    let mut frame = Vec::new();
    message.encode_frame(&mut frame);
    let (head, written) = frame.split_first_chunk().expect("a frame begins with its header");
    let head = Header::parse(head);
    assert_eq!(head.msg_length as usize, written.len());
    assert_eq!(Header { msg_length: header.msg_length, ..head }, header);

    let (fields, rest) = payload.split_at(written.len());
    if written != fields {
        // Of a BOOL only the lowest bit counts; nothing else has more than one form.
        let info = AnyMessage::all().find(|info| info.name == message.name());
        let bools = info.iter().flat_map(|info| info.fields).filter(|(_, kind)| *kind == "bool");
        let differ: Vec<_> = written.iter().zip(fields).filter(|(a, b)| a != b).collect();
        assert!(differ.len() <= bools.count(), "{message}");
        assert!(differ.iter().all(|(ours, theirs)| **ours == **theirs & 1), "{message}");
    }
    // By bytes, since NaN is not equal to itself.
    let mut again = Vec::new();
    let (message, none) = AnyMessage::decode(&head, written).expect("our own frame");
    message.encode_frame(&mut again);
    assert!(none.is_empty() && again == frame);
    check_tlvs(tlvs, rest);
});

fn check_tlvs(tlvs: Tlvs<'_>, bytes: &[u8]) {
    assert_eq!(tlvs.is_empty(), bytes.is_empty());
    let (mut written, mut bad) = (Vec::new(), 0);
    for tlv in tlvs.iter() {
        match tlv {
            Ok(tlv) => tlv.write(&mut written),
            Err(_) => bad += 1,
        }
    }
    assert!(bad <= 1 && bytes.starts_with(&written));
    assert_eq!(bad == 0, written.len() == bytes.len());
    if let Ok(Some(name)) = tlvs.user_identity() {
        assert!(name.len() <= 32);
    }
    let _ = format!("{tlvs:?}");
}
