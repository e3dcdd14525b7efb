use adit_sv2::codec::Str0255;
use adit_sv2::frame::encode_frame;
use adit_sv2::messages::common::{PROTOCOL_MINING, SetupConnection, SetupConnectionSuccess};
use adit_sv2::messages::mining::{CloseChannel, SetTarget};
use serde_json::json;

use super::*;
use crate::harness::{Endpoint, LinePeer, Sv2Peer};

const SOON: Duration = Duration::from_secs(60);

fn encoded<'m>(message: &impl adit_sv2::messages::Message<'m>) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_frame(message, &mut frame);
    frame
}

fn target(channel_id: u32) -> SetTarget {
    SetTarget { channel_id, maximum_target: [channel_id as u8; 32] }
}

/// A server on one connection: whatever it is sent it answers with `answer`, until the client goes.
fn serve(answer: impl Fn(&Record) -> Vec<Vec<u8>> + Send + 'static) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let authority = AuthoritySecretKey::from_entropy(random()).unwrap();
    let key = authority.public();
    let identity = ResponderIdentity::new(authority, Validity::default(), now(), [random(); 3]);
    thread::spawn(move || {
        for stream in listener.incoming() {
            // Who is cut off in the middle is not waited for.
            let Ok((mut reader, mut writer)) = accept(stream.unwrap(), &identity) else { continue };
            while let Ok(Some(bytes)) = reader.next() {
                let mut answers = answer(&Record::new(0, ToServer, bytes, true)).into_iter();
                if !answers.all(|answer| writer.send(&answer).is_ok()) {
                    break;
                }
            }
        }
    });
    Endpoint { addr, key: Some(key) }
}

/// A server that says yes, and three targets to every target.
fn targets() -> Endpoint {
    serve(|record| match &*record.name {
        "SetupConnection" => vec![encoded(&SetupConnectionSuccess { used_version: 2, flags: 0 })],
        _ => (1..=3).map(|channel_id| encoded(&target(channel_id))).collect(),
    })
}

fn between(server: &Endpoint) -> (Sniffer, Sv2Peer) {
    let sniffer = Sniffer::noise(server.addr, server.key.unwrap()).unwrap();
    let client = Sv2Peer::set_up(&Endpoint::from(&sniffer), PROTOCOL_MINING, 5).unwrap();
    (sniffer, client)
}

fn channel_of(record: &Record) -> u32 {
    u32::from_le_bytes(record.frame().1[..4].try_into().unwrap())
}

#[test]
fn both_directions_are_seen_in_order() {
    let (sniffer, mut client) = between(&targets());
    client.send(&target(9)).unwrap();
    for channel_id in 1..=3 {
        assert_eq!(channel_of(&client.wait_for("SetTarget", SOON).unwrap()), channel_id);
    }
    let names: Vec<_> = sniffer.records().iter().map(|r| (r.direction, r.name.clone())).collect();
    let expected = [
        (ToServer, "SetupConnection"),
        (ToClient, "SetupConnection.Success"),
        (ToServer, "SetTarget"),
        (ToClient, "SetTarget"),
        (ToClient, "SetTarget"),
        (ToClient, "SetTarget"),
    ];
    assert_eq!(names, expected.map(|(direction, name)| (direction, name.to_owned())));
    let mut reading = sniffer.from_start();
    let setup = reading.wait_for(ToServer, "SetupConnection", SOON).unwrap();
    let AnyMessage::Common(message) = setup.message().unwrap().0 else { panic!("{setup}") };
    assert_eq!(message.to_string(), Sv2Peer::setup_connection(0, 5).to_string());
    reading.assert_absent(ToClient, "CloseChannel");
    assert!(reading.wait_for(ToServer, "SetupConnection", Duration::ZERO).is_err());
    sniffer.from_now().assert_absent(ToClient, "SetTarget");
}

#[test]
#[should_panic(expected = "said what should not be said: #0 <- SetupConnection.Success")]
fn what_was_said_is_not_absent() {
    let (sniffer, _client) = between(&targets());
    sniffer.from_start().assert_absent(ToClient, "SetupConnection.Success");
}

#[test]
fn messages_are_dropped_and_replaced() {
    let (sniffer, mut client) = between(&targets());
    let dropping = sniffer.intercept(ToServer, "SetTarget", Action::Drop);
    client.send(&target(9)).unwrap();
    dropping.wait_hit(SOON).unwrap();
    dropping.end();
    let close = CloseChannel { channel_id: 7, reason_code: Str0255::cut("bye") };
    let close = encoded(&close);
    let replacing = sniffer.intercept(
        ToClient,
        "SetTarget",
        Action::Replace(Box::new(move |record| match channel_of(record) {
            2 => vec![close.clone(), record.bytes.clone()],
            _ => vec![],
        })),
    );
    client.send(&target(9)).unwrap();
    assert_eq!(channel_of(&client.receive(SOON).unwrap().unwrap()), 7);
    assert_eq!(channel_of(&client.receive(SOON).unwrap().unwrap()), 2);
    while replacing.hits() < 3 {
        thread::yield_now();
    }
    drop(replacing);
    client.send(&target(9)).unwrap();
    assert_eq!(channel_of(&client.receive(SOON).unwrap().unwrap()), 1, "and nothing came between");
}

#[test]
fn messages_are_held_and_delayed() {
    let (sniffer, mut client) = between(&targets());
    let holding = sniffer.intercept(ToClient, "SetTarget", Action::Hold);
    client.send(&target(9)).unwrap();
    holding.wait_hit(SOON).unwrap();
    assert!(client.receive(Duration::from_millis(100)).is_err(), "it is held");
    holding.end();
    for channel_id in 1..=3 {
        assert_eq!(channel_of(&client.wait_for("SetTarget", SOON).unwrap()), channel_id);
    }
    let time = Duration::from_millis(60);
    let _delaying = sniffer.intercept(ToClient, "SetTarget", Action::Delay(time));
    let asked = Instant::now();
    client.send(&target(9)).unwrap();
    client.wait_for("SetTarget", SOON).unwrap();
    assert!(asked.elapsed() >= time);
}

#[test]
fn a_cut_ends_connections_and_not_the_sniffer() {
    let server = targets();
    let (sniffer, mut client) = between(&server);
    let holding = sniffer.intercept(ToClient, "SetTarget", Action::Hold);
    client.send(&target(9)).unwrap();
    holding.wait_hit(SOON).unwrap();
    sniffer.cut();
    assert!(client.wait_closed(SOON).unwrap().is_empty());
    let again = Sv2Peer::set_up(&Endpoint::from(&sniffer), PROTOCOL_MINING, 0);
    again.unwrap();
    assert_eq!(sniffer.records().last().unwrap().connection, 1);
    // A wrong key on either side is noticed.
    let wrong = Endpoint { key: server.key, ..Endpoint::from(&sniffer) };
    assert!(Sv2Peer::connect(&wrong).is_err());
    let blind = Sniffer::noise(server.addr, sniffer.authority_key().unwrap()).unwrap();
    assert!(Sv2Peer::connect(&Endpoint::from(&blind)).is_err());
}

#[test]
fn unknown_messages_pass() {
    let server = serve(|record| vec![record.bytes.clone()]);
    let sniffer = Sniffer::noise(server.addr, server.key.unwrap()).unwrap();
    let mut client = Sv2Peer::connect(&Endpoint::from(&sniffer)).unwrap();
    let mut frame =
        Header { extension_type: 0x4242, channel_msg: false, msg_type: 7, msg_length: 3 }
            .to_bytes()
            .to_vec();
    frame.extend([1, 2, 3]);
    client.send_frame(&frame).unwrap();
    let echoed = client.wait_for("extension 4242/07", SOON).unwrap();
    assert_eq!(echoed.bytes, frame);
    assert_eq!(sniffer.records().len(), 2);
    assert!(SetupConnection::TYPE == 0 && echoed.message().is_err());
}

#[test]
fn lines_are_sniffed_as_well() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut reader, mut writer) = lines(listener.accept().unwrap().0).unwrap();
        while let Ok(Some(line)) = reader.next() {
            let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
            writer
                .send(json!({ "id": json["id"], "result": true }).to_string().as_bytes())
                .unwrap();
        }
    });
    let sniffer = Sniffer::lines(addr).unwrap();
    let mut client = LinePeer::connect(&Endpoint::from(&sniffer)).unwrap();
    client.send("{\"id\":4,\"method\":\"mining.subscribe\",\"params\":[]}\r").unwrap();
    let reply = client.wait_until(SOON, |json| json["id"] == 4).unwrap();
    assert_eq!(reply["result"], true);
    let mut reading = sniffer.from_start();
    assert_eq!(reading.wait_for(ToServer, "mining.subscribe", SOON).unwrap().json()["id"], 4);
    reading.wait_for(ToClient, "reply", SOON).unwrap();
    assert!(reading.wait_for(ToClient, "mining.notify", Duration::ZERO).is_err());
}
