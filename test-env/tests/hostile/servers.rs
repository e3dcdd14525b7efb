//! Servers at fault.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::messages::common::{PROTOCOL_MINING, SetupConnection};
use adit_sv2::messages::template_distribution::{CoinbaseOutputConstraints, NewTemplate};
use adit_sv2::noise::{ACT1_LEN, Responder, ResponderIdentity, Validity};
use adit_test_env::harness::{Sv2Peer, eventually, program, read_to_end};
use adit_test_env::sniffer::{Action, Direction, Sniffer};

use super::*;

/// Servers that are not who they should be, or not as a client wants them: clients say so and do not work with them.
#[test]
fn servers_that_clients_refuse() {
    let expired = Expired::start();
    let stranger = Expired::start();
    let not_valid = expired.endpoint();
    // One that is well, with a key that is another's.
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let pool = Setup::pool(&provider.endpoint()).start().unwrap();
    pool.wait_ready(SOON).unwrap();
    let with_wrong_key = |role: &Role| Endpoint { key: stranger.endpoint().key, ..role.endpoint() };

    let says = "expired 1000 s ago";
    let wrong = "not signed by the expected authority";
    // The scripted server's clock goes on.
    let says = &says[..says.len() - " 1000 s ago".len()];
    let cases = [
        (Setup::pool(&not_valid), says, "certificate-expired"),
        (Setup::translator(&not_valid), says, "certificate-expired"),
        (Setup::pool(&with_wrong_key(&provider)), wrong, "wrong-authority-key"),
        (Setup::translator(&with_wrong_key(&pool)), wrong, "wrong-authority-key"),
    ];
    for (setup, why, reason) in cases {
        let role = setup.start().unwrap();
        eventually(SOON, "the client says why", || {
            role.ready().is_err_and(|missing| missing.contains(why))
        });
        eventually(SOON, "its status says so", || role.status().unwrap().to_string().contains(why));
        eventually(SOON, "its log says so", || role.log().contains(why));
        eventually(SOON, "it is counted", || {
            let metrics = role.metrics().unwrap();
            metrics.sum("adit_transport_closed_total", &[("reason", reason)]) >= 1.0
        });
    }
    // The other side only sees that somebody leaves, which it guesses the meaning of.
    for (role, link) in [(&provider, "Client"), (&pool, "Miner")] {
        eventually(SOON, "the server counts it", || {
            closed(role, link, "peer-closed-after-handshake") >= 1.0
        });
        eventually(SOON, "its log says so", || {
            role.log().contains("it may expect another authority key")
        });
    }

    // A mining device has nothing else to do.
    for (server, why) in [(not_valid, says), (with_wrong_key(&pool), wrong)] {
        let url = format!("stratum2+tcp://{}/{}", server.addr, server.key.unwrap());
        let device = Command::new(program("mining-device").unwrap())
            .args(["--strict", "--connect", &url])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&device.stderr);
        assert_eq!(device.status.code(), Some(1), "{said}");
        assert!(said.contains(why), "{said}");
        let mut waits = Setup::device("sv2-extended", &server).start().unwrap();
        eventually(SOON, "the device says why", || waits.log().contains(why));
        assert!(waits.ready().is_err());
        waits.kill9().unwrap();
    }

    // And one that refuses the client: both sides say why.
    let sniffer = Sniffer::noise(pool.endpoint().addr, pool.endpoint().key.unwrap()).unwrap();
    let bent =
        SetupConnection { min_version: 7, max_version: 8, ..Sv2Peer::setup_connection(0, 0) };
    let bent = frame_of(&bent);
    let _bend = sniffer.intercept(
        Direction::ToServer,
        "SetupConnection",
        Action::Replace(Box::new(move |_| vec![bent.clone()])),
    );
    let translator = Setup::translator(&Endpoint::from(&sniffer)).start().unwrap();
    eventually(SOON, "the translator says why", || {
        translator.ready().is_err_and(|why| why.contains("protocol-version-mismatch"))
    });
    eventually(SOON, "the pool counts it", || {
        closed(&pool, "Miner", "engine:setup-connection-refused") >= 1.0
    });
    eventually(SOON, "its log says why", || pool.log().contains("protocol-version-mismatch"));
    pool.wait_ready(SOON).unwrap();

    let sniffer =
        Sniffer::noise(provider.endpoint().addr, provider.endpoint().key.unwrap()).unwrap();
    let bent = frame_of(&Sv2Peer::setup_connection(PROTOCOL_MINING, 0));
    let _bend = sniffer.intercept(
        Direction::ToServer,
        "SetupConnection",
        Action::Replace(Box::new(move |_| vec![bent.clone()])),
    );
    let refused = Setup::pool(&Endpoint::from(&sniffer)).start().unwrap();
    eventually(SOON, "the pool says why", || {
        refused.ready().is_err_and(|why| why.contains("unsupported-protocol"))
    });
    eventually(SOON, "the template provider counts it", || {
        closed(&provider, "Client", "engine:unsupported-protocol") >= 1.0
    });
    eventually(SOON, "its log says why", || provider.log().contains("unsupported-protocol"));
}

/// Servers that go mad: the client gives the connection up and comes back, and its own clients notice nothing.
#[test]
fn servers_that_say_nonsense() {
    let between = |role: &Role| {
        let Endpoint { addr, key } = role.endpoint();
        Sniffer::noise(addr, key.unwrap()).unwrap()
    };
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let templates = between(&provider);
    let pool = Setup::pool(&Endpoint::from(&templates)).start().unwrap();
    let jobs = between(&pool);
    let mut stack = Stack::of(node, provider, pool).unwrap();
    stack.translator = Some(Setup::translator(&Endpoint::from(&jobs)).start().unwrap());
    stack.add_miner("sv1").unwrap();
    stack.add_miner("sv2-extended").unwrap();
    stack.wait_ready().unwrap();
    stack.mine(1, SOON);
    let begun: Vec<_> = stack.miners.iter().map(reconnects).collect();

    // What is said instead of these messages, and how often who hears it has given up.
    let servers = [(&templates, "NewTemplate"), (&jobs, "NewExtendedMiningJob")];
    let instead = |at: usize, nonsense: fn(&[u8]) -> Vec<Vec<u8>>| {
        let (sniffer, name) = servers[at];
        let action = Action::Replace(Box::new(move |record| nonsense(&record.bytes)));
        sniffer.intercept(Direction::ToClient, name, action)
    };
    let given_up = |stack: &Stack, at: usize| match at {
        0 => closed(&stack.pool, "TemplateProvider(0)", ""),
        _ => closed(stack.translator.as_ref().unwrap(), "Upstream", ""),
    };

    // Messages of extensions that nobody agreed on are passed over.
    let before = [given_up(&stack, 0), given_up(&stack, 1)];
    let all_with_unknown = [0, 1].map(|at| {
        instead(at, |message| {
            let unknown = |extension, channel_msg| frame(extension, channel_msg, 0x1f, &[7; 60]);
            vec![unknown(0x7001, false), unknown(2, true), message.to_vec()]
        })
    });
    stack.mine(2, SOON);
    drop(all_with_unknown);
    assert_eq!([given_up(&stack, 0), given_up(&stack, 1)], before);

    // A message that is cut, and one that only clients send.
    let cut: fn(&[u8]) -> Vec<Vec<u8>> = |message| {
        let header = Header::parse(message[..Header::LEN].try_into().unwrap());
        let payload = &message[Header::LEN..Header::LEN + 9];
        vec![frame(0, header.channel_msg, header.msg_type, payload)]
    };
    let clients: fn(&[u8]) -> Vec<Vec<u8>> = |message| {
        let header = Header::parse(message[..Header::LEN].try_into().unwrap());
        let constraints = frame(0, false, CoinbaseOutputConstraints::TYPE, &[0; 6]);
        let template = header.msg_type == NewTemplate::TYPE;
        vec![if template { constraints } else { frame_of(&open_standard(1, 1.0)) }]
    };
    for nonsense in [cut, clients] {
        for at in [0, 1] {
            let before = given_up(&stack, at);
            let interception = instead(at, nonsense);
            eventually(SOON, "the connection is given up", || given_up(&stack, at) > before);
            drop(interception);
        }
        stack.mine(1, SOON);
        stack.wait_ready().unwrap();
    }
    assert_eq!(stack.miners.iter().map(reconnects).collect::<Vec<_>>(), begun);
}

/// A server whose certificate is over.
struct Expired(Endpoint);

impl Expired {
    fn start() -> Self {
        let mut random = Random(u64::from(std::process::id()));
        let authority = AuthoritySecretKey::from_entropy(random.key()).unwrap();
        let key = Some(authority.public());
        let validity = Validity { seconds: 10, backdate: 0 };
        let entropy = [random.key(), random.key(), random.key()];
        let identity = ResponderIdentity::new(authority, validity, unix_seconds() - 1_010, entropy);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut act1 = [0; ACT1_LEN];
                let mut stream = stream.unwrap();
                if stream.read_exact(&mut act1).is_ok() {
                    let keys = [random.key(), random.key()];
                    let (act2, _, _) = Responder::respond(&identity, &act1, keys).unwrap();
                    let _ = stream.write_all(&act2);
                    // Nobody says anything to such a server.
                    let said = read_to_end(&mut stream, SOON);
                    assert!(said.is_ok_and(|said| said.is_empty()));
                }
            }
        });
        Self(Endpoint { addr, key })
    }

    fn endpoint(&self) -> Endpoint {
        self.0
    }
}
