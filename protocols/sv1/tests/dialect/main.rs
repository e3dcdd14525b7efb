//! How real miners and pools speak: one test for each thing they do differently, with the bytes they send. The comment
//! above each line of bytes names who sends it.

mod framing;
mod handshake;
mod jobs;
mod pool;
mod submit;

use adit_sv1::server::{Method, Request, parse_request};
use adit_sv1::{Id, Repairs};

/// Parses a line that must be a message.
fn parse(line: &(impl AsRef<[u8]> + ?Sized)) -> Request<'_> {
    let line = line.as_ref();
    parse_request(line).unwrap_or_else(|error| panic!("{error}: {}", line.escape_ascii()))
}

/// The method of a line that needs no repair.
fn clean(line: &str) -> Method<'_> {
    let request = parse(line);
    assert_eq!(request.repairs, Repairs::NONE, "{line}");
    request.method
}

/// Some id, as it comes out of a request.
fn id(json: &'static str) -> Id<'static> {
    let line: &'static str = format!("{{\"id\":{json},\"method\":\"mining.ping\"}}").leak();
    parse(line).id.expect("the id is not null")
}

/// What a writer appends, checked to be one line of JSON.
fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    let line = String::from_utf8(out).expect("UTF-8");
    assert!(!line.contains(['\n', '\r']), "{line}");
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&line).expect(&line);
    line
}
