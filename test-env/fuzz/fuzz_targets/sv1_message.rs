//! Lines of a pool: every one can be read or refused, and a job that is passed on reads as it was read.
#![no_main]

use adit_sv1::client::{Body, parse_message, pong};
use adit_sv1::server::write;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    let Ok(message) = parse_message(line) else { return };
    if let Some(id) = message.id {
        let mut out = Vec::new();
        pong(&mut out, id);
        assert_eq!(parse_message(&out).expect("our own line").id, Some(id));
    }
    match message.body {
        Body::Reply(reply) => {
            if let Err(rejection) = reply.accepted() {
                assert!(!rejection.to_string().is_empty());
            }
            let _ = reply.configured();
            if let (Some(id), Ok(read)) = (message.id, reply.subscribed()) {
                let mut out = Vec::new();
                let session = read.session.clone().unwrap_or_default();
                write::subscribe(&mut out, id, &session, &read.extranonce1, read.extranonce2_size);
                let Body::Reply(again) = parse_message(&out).expect("our own line").body else {
                    panic!("no reply")
                };
                let again = again.subscribed().expect("our own reply");
                assert_eq!(again.extranonce1, read.extranonce1);
                assert_eq!(again.extranonce2_size, read.extranonce2_size);
                assert_eq!(again.session, Some(session));
            }
        }
        Body::Notify(job) => {
            let mut out = Vec::new();
            write::notify(&mut out, &job.as_notify());
            let again = parse_message(&out).expect("our own line");
            assert_eq!(again.body, Body::Notify(job));
        }
        Body::SetDifficulty { difficulty } => assert!(difficulty.is_finite() && difficulty > 0.0),
        Body::SetExtranonce { extranonce1, extranonce2_size } => {
            let mut out = Vec::new();
            write::set_extranonce(&mut out, &extranonce1, extranonce2_size);
            let again = parse_message(&out).expect("our own line");
            assert_eq!(again.body, Body::SetExtranonce { extranonce1, extranonce2_size });
        }
        Body::ShowMessage { message } => assert!(!message.contains(char::is_control)),
        _ => {}
    }
});
