//! Messages out of place, and random ones.

use adit_sv2::messages::common::{
    PROTOCOL_MINING, PROTOCOL_TEMPLATE_DISTRIBUTION, SetupConnection, SetupConnectionError,
};
use adit_sv2::messages::mining::{
    OpenExtendedMiningChannel, OpenStandardMiningChannelSuccess, REQUIRES_WORK_SELECTION,
    UpdateChannel,
};
use adit_sv2::messages::template_distribution::{
    CoinbaseOutputConstraints, RequestTransactionData,
};
use adit_test_env::harness::{Sv2Peer, eventually};

use super::*;

/// What is said in order, and means something that nobody may say.
#[test]
fn messages_out_of_place() {
    let mut works = Works::start();
    let (provider, pool) = (works.provider().endpoint(), works.pool().endpoint());

    // Not what is spoken here, or not so: told why, then closed.
    let (mining, td) = (PROTOCOL_MINING, PROTOCOL_TEMPLATE_DISTRIBUTION);
    let newer = |setup| SetupConnection { min_version: 3, max_version: 9, ..setup };
    let older = |setup| SetupConnection { min_version: 0, max_version: 1, ..setup };
    let setup = Sv2Peer::setup_connection;
    let flag = 1 << 17;
    for (server, setup, code, flags) in [
        (&pool, setup(td, 0), "unsupported-protocol", 0),
        (&pool, setup(99, 0), "unsupported-protocol", 0),
        (&pool, newer(setup(mining, 0)), "protocol-version-mismatch", 0),
        (&pool, older(setup(mining, 0)), "protocol-version-mismatch", 0),
        (&pool, setup(mining, flag | 1), "unsupported-feature-flags", flag),
        (
            &pool,
            setup(mining, REQUIRES_WORK_SELECTION),
            "unsupported-feature-flags",
            REQUIRES_WORK_SELECTION,
        ),
        (&provider, setup(mining, 0), "unsupported-protocol", 0),
        (&provider, newer(setup(td, 0)), "protocol-version-mismatch", 0),
        (&provider, older(setup(td, 0)), "protocol-version-mismatch", 0),
        (&provider, setup(td, flag), "unsupported-feature-flags", flag),
    ] {
        let mut peer = Sv2Peer::connect(server).unwrap();
        peer.send(&setup).unwrap();
        let said = peer.wait_closed(SOON).unwrap();
        assert_eq!(said.len(), 1, "{setup}: {said:?}");
        assert_eq!(said[0].name, "SetupConnection.Error", "{setup}");
        let (error, _) = SetupConnectionError::decode(said[0].frame().1).unwrap();
        assert_eq!((error.error_code.to_clean_string().as_str(), error.flags), (code, flags));
    }
    works.closes(works.pool(), "Miner", "engine:setup-connection-refused", 6);
    for (reason, count) in [
        ("engine:unsupported-protocol", 1),
        ("engine:protocol-version-mismatch", 2),
        ("engine:unsupported-feature-flags", 1),
    ] {
        works.closes(works.provider(), "Client", reason, count);
    }

    // Before SetupConnection there is nothing to say, after it nothing twice, and never what a server says.
    let constraints = CoinbaseOutputConstraints {
        coinbase_output_max_additional_size: 100,
        coinbase_output_max_additional_sigops: 0,
    };
    let cut = frame_of(&open_standard(1, 1.0));
    let cut = frame(0, false, OpenStandardMiningChannel::TYPE, &cut[6..20]);
    let mining_cases = [
        (false, frame_of(&open_standard(1, 1.0)), "message-before-setup-connection"),
        (false, frame(1, false, 0, &[1, 0, 0, 0]), "message-before-setup-connection"),
        (false, frame(0, false, 0, &[0; 3]), "malformed-frame"),
        (true, frame_of(&setup(mining, 0)), "second-setup-connection"),
        (true, frame_of(&constraints), "unexpected-message"),
        (true, frame(0, true, 0x15, &[0; 100]), "unexpected-message"), // NewMiningJob
        (true, cut, "malformed-frame"),
        (true, frame(0, false, 0xee, &[]), "unexpected-message"),
    ];
    for (set_up, bytes, reason) in mining_cases {
        refuses(works.pool(), "Miner", mining, set_up, &bytes, reason);
    }
    let td_cases = [
        (false, frame_of(&constraints), "not a SetupConnection"),
        (true, frame_of(&RequestTransactionData { template_id: 1 }), "message out of order"),
        (true, frame_of(&setup(td, 0)), "undecodable message"),
        (true, frame(0, false, 0x70, &[0; 3]), "undecodable message"),
        (true, frame_of(&open_standard(1, 1.0)), "undecodable message"),
    ];
    for (set_up, bytes, reason) in td_cases {
        refuses(works.provider(), "Client", td, set_up, &bytes, reason);
    }

    // Extensions that were not agreed on are passed over in silence, whatever is in them; requests are answered.
    let mut peer = Sv2Peer::set_up(&pool, mining, 0).unwrap();
    for (extension, channel_msg) in [(2, false), (2, true), (0x7fff, true), (0x4000, false)] {
        peer.send_frame(&frame(extension, channel_msg, 0xab, &Random(3).bytes(77))).unwrap();
    }
    for hash_rate in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0] {
        peer.send(&open_standard(7, hash_rate)).unwrap();
        let refused = peer.receive(SOON).unwrap().unwrap();
        assert!(refused.to_string().contains("invalid-nominal-hashrate"), "{refused}");
        let open = open_standard(7, hash_rate);
        let (request_id, user_identity) = (open.request_id, open.user_identity);
        peer.send(&OpenExtendedMiningChannel {
            request_id,
            user_identity,
            nominal_hash_rate: hash_rate,
            max_target: open.max_target,
            min_extranonce_size: 4,
        })
        .unwrap();
        let refused = peer.receive(SOON).unwrap().unwrap();
        assert!(refused.to_string().contains("invalid-nominal-hashrate"), "{refused}");
    }
    peer.send(&open_standard(8, 1.0)).unwrap();
    let opened = peer.wait_for("OpenStandardMiningChannel.Success", SOON).unwrap();
    let (opened, _) = OpenStandardMiningChannelSuccess::decode(opened.frame().1).unwrap();
    peer.send(&UpdateChannel {
        channel_id: opened.channel_id,
        nominal_hash_rate: f32::NAN,
        maximum_target: [0xff; 32],
    })
    .unwrap();
    let refused = peer.wait_for("UpdateChannel.Error", SOON).unwrap();
    assert!(refused.to_string().contains("invalid-nominal-hashrate"), "{refused}");

    let mut peer = Sv2Peer::set_up(&provider, td, 0).unwrap();
    peer.send_frame(&frame(0x1234, true, 0x72, &[1; 50])).unwrap();
    peer.send(&constraints).unwrap();
    peer.wait_for("NewTemplate", SOON).unwrap();
    peer.send(&RequestTransactionData { template_id: u64::MAX }).unwrap();
    let refused = peer.wait_for("RequestTransactionData.Error", SOON).unwrap();
    assert!(refused.to_string().contains("template-id-not-found"), "{refused}");
    works.are_unharmed();
}

/// Says `bytes` and is closed for `reason`, with nothing in answer.
#[track_caller]
fn refuses(role: &Role, link: &str, protocol: u8, set_up: bool, bytes: &[u8], reason: &str) {
    let server = role.endpoint();
    let reason = format!("engine:{reason}");
    let before = closed(role, link, &reason);
    let mut peer = match set_up {
        true => Sv2Peer::set_up(&server, protocol, 0).unwrap(),
        false => Sv2Peer::connect(&server).unwrap(),
    };
    peer.send_frame(bytes).unwrap();
    let said = peer.wait_closed(SOON).unwrap();
    assert!(said.is_empty(), "{said:?}");
    closes(role, link, &reason, before, 1);
}

/// Frames of every known type and of others, with random payloads and cut and bent real messages, after a good start.
#[test]
fn random_frames() {
    const FRAMES: usize = 1_500;
    let mut works = Works::start();
    let protocols = [
        (works.provider(), "Client", PROTOCOL_TEMPLATE_DISTRIBUTION),
        (works.pool(), "Miner", PROTOCOL_MINING),
    ];
    for (role, link, protocol) in protocols {
        let server = role.endpoint();
        let before = closed(role, link, "");
        let mut random = Random(4 + u64::from(protocol));
        let constraints = CoinbaseOutputConstraints {
            coinbase_output_max_additional_size: 100,
            coinbase_output_max_additional_sigops: 0,
        };
        let real = [
            frame_of(&Sv2Peer::setup_connection(protocol, 0)),
            frame_of(&open_standard(1, 1e3)),
            frame_of(&RequestTransactionData { template_id: 1 }),
            frame_of(&constraints),
        ];
        let mut connections = 0;
        let mut said = 0;
        while said < FRAMES {
            let mut peer = Sv2Peer::set_up(&server, protocol, 0).unwrap();
            connections += 1;
            if random.below(2) == 0 {
                // From here on a template provider listens to more.
                peer.send(&constraints).unwrap();
            }
            for _ in 0..50 {
                let bytes = random_frame(&mut random, &real);
                said += 1;
                if peer.send_frame(&bytes).is_err() {
                    break;
                }
            }
            drop(peer);
        }
        eventually(SOON, "all of them are closed and counted", || {
            closed(role, link, "") >= before + f64::from(connections)
        });
        assert_eq!(closed(role, link, "engine-failed"), 0.0);
    }

    let translator = works.translator();
    let mut random = Random(5);
    let real = "{\"id\":1,\"method\":\"mining.submit\",\"params\":[\"a\",\"1\",\"00000000\",\"00000000\",\"00000000\"]}";
    let methods = ["subscribe", "authorize", "configure", "submit", "suggest_difficulty"];
    for _ in 0..30 {
        let mut stream = tcp(translator.endpoint().addr);
        for _ in 0..50 {
            let mut line = real.replace("submit", methods[random.below(5)]).into_bytes();
            for _ in 0..random.below(4) {
                let at = random.below(line.len());
                line[at] = random.next() as u8;
            }
            line.truncate(random.below(2 * line.len()).max(2));
            line.push(b'\n');
            if stream.write_all(&line).is_err() {
                break;
            }
        }
    }
    eventually(SOON, "all of them are closed and counted", || {
        closed(translator, "Miner", "") >= works.before(translator, "Miner", "") + 30.0
    });
    works.are_unharmed();
}

fn random_frame(random: &mut Random, real: &[Vec<u8>]) -> Vec<u8> {
    let extension = match random.below(8) {
        0 => random.next() as u16 & 0x7fff,
        1 => 1,
        _ => 0,
    };
    if random.below(3) == 0 {
        let mut bent = real[random.below(real.len())].clone();
        for _ in 0..random.below(3) {
            let at = Header::LEN + random.below(bent.len() - Header::LEN);
            bent[at] = random.next() as u8;
        }
        return bent;
    }
    let types = [0..0x04, 0x10..0x28, 0x50..0x60, 0x70..0x78, 0..0x100];
    let types = types[random.below(types.len())].clone();
    let msg_type = types.start + random.below(types.len());
    let length = [0, 1, 8, 40, 100, 600][random.below(6)];
    let payload = random.bytes(length);
    frame(extension, random.below(2) == 0, msg_type as u8, &payload)
}
