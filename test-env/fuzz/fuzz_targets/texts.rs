//! What operators and miners write in a line: the address of a node, of a role, a hashrate, a miner's name and the template
//! for it, a user agent, the hash of a password. And what a role, or somebody in its place, says to a health check.
#![no_main]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::LazyLock;

use adit_explorer::config::{Kind, RoleKeys};
use adit_mining_device::HashRate;
use adit_node::{Auth, NodeConfig};
use adit_service::healthcheck;
use adit_translator::config::{FirmwareTable, Upstream};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Node(&'a str),
    Role(&'a str),
    HashRate(&'a str),
    Name { template: &'a str, user: &'a str, ip: Result<[u8; 4], [u16; 8]> },
    UserAgent(&'a str),
    PasswordHash(&'a str),
    Health { status: Option<u16>, answer: &'a [u8] },
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Node(url) => node(url),
    Input::Role(url) => role(url),
    Input::HashRate(text) => {
        if let Ok(HashRate(rate)) = text.parse() {
            assert!(rate.is_finite() && rate > 0.0, "{rate}");
        }
    }
    Input::Name { template, user, ip } => {
        name(
            template,
            user,
            ip.map_or_else(|ip| Ipv6Addr::from(ip).into(), |ip| Ipv4Addr::from(ip).into()),
        );
    }
    Input::UserAgent(agent) => {
        static TABLE: LazyLock<FirmwareTable> = LazyLock::new(|| FirmwareTable::new(&[]));
        let found = TABLE.find(agent);
        assert!(found <= TABLE.unknown() && !TABLE.label(found).is_empty());
        assert_eq!(TABLE.find(&agent.to_ascii_uppercase()), found);
    }
    Input::PasswordHash(text) => {
        if let Err(why) = adit_translator::auth::check_hash(text) {
            assert!(!why.is_empty() && !why.contains(char::is_control), "{why:?}");
        }
    }
    Input::Health { status, answer } => health(status, answer),
});

/// Good, or refused without the password that may stand in it.
fn node(url: &str) {
    let auth = Auth::UserPass { user: String::new(), password: String::new() };
    let config = NodeConfig::new(url, auth);
    match config.check() {
        Ok(()) => {
            let authority = url.strip_prefix("http://").or(url.strip_prefix("HTTP://"));
            assert!(
                url.len() < 7 || authority.is_some() || url[..7].eq_ignore_ascii_case("http://")
            );
            let whole = url.split('#').next().unwrap_or_default();
            assert!(!whole.contains(['@', '?']) || whole.matches('/').count() > 2, "{url}");
            // What connects to it reads the same.
            adit_node::Node::new(config).expect("it was checked");
        }
        Err(error) => {
            let said = error.to_string();
            if let Some((before, _)) = url.rsplit_once('@') {
                let scheme = before.find("//").map_or("", |at| &before[..at + 2]);
                assert!(said.starts_with(&format!("node url '{scheme}***@")), "{said}");
            }
        }
    }
}

fn role(url: &str) {
    let keys = RoleKeys { name: "a".into(), kind: Kind::Pool, url: url.to_owned(), upstream: None };
    let Some((host, port)) = keys.authority() else { return };
    assert!(port != 0 && !host.is_empty() && host.is_ascii() && !host.contains(['/', '@', ' ']));
    // It is nothing but these.
    let rest = url["http://".len()..].strip_prefix(host).expect("the host is first");
    let digits = rest.trim_end_matches('/').strip_prefix(':').expect("the port is next");
    assert_eq!(digits.parse(), Ok(port));
}

/// What a miner calls itself is no template, and fits where a template was checked for that.
fn name(template: &str, user: &str, ip: IpAddr) {
    let upstream = Upstream {
        url: format!("stratum2+tcp://a:1/{KEY}").parse().expect("an address"),
        user_identity: template.to_owned(),
        max_ntime_ahead_seconds: 0,
        verify_payout: None,
        verify_payout_percent: 90.0,
    };
    let name = upstream.identity(user, ip);
    let (account, worker) = user.split_once('.').unwrap_or((user, ""));
    let ip = ip.to_canonical().to_string();
    assert!(ip.len() <= 39);
    // The same in another way: cut at the placeholders, each part of which no value can complete.
    let mut expected = vec![(template.to_owned(), false)];
    for (placeholder, value) in
        [("{user}", user), ("{account}", account), ("{worker}", worker), ("{ip}", &ip)]
    {
        expected = (expected.into_iter())
            .flat_map(|(text, done)| {
                let parts: Vec<_> = match done {
                    true => vec![(text, true)],
                    false => {
                        let fixed = text.split(placeholder).map(|part| (part.to_owned(), false));
                        fixed.flat_map(|part| [(value.to_owned(), true), part]).skip(1).collect()
                    }
                };
                parts
            })
            .collect();
    }
    let known = ["{user}", "{account}", "{worker}", "{ip}"];
    let fixed = known.iter().fold(template.to_owned(), |text, name| text.replace(name, "\0"));
    if !fixed.contains(['{', '}']) {
        assert_eq!(name, expected.into_iter().map(|(text, _)| text).collect::<String>());
    }
}

const KEY: &str = "9bXiEd8boQVhq7WddEcERUL5tyyJVFYdU8th3HfbNXK3Yw6GRXh";

/// Healthy is what says so with the right status, and nothing else.
fn health(status: Option<u16>, answer: &[u8]) {
    static LISTENER: LazyLock<TcpListener> =
        LazyLock::new(|| TcpListener::bind(("127.0.0.1", 0)).expect("a port"));
    let mut bytes = status.map_or_else(Vec::new, |status| {
        format!("HTTP/1.1 {status} X\r\nConnection: close\r\n\r\n").into_bytes()
    });
    bytes.extend_from_slice(answer);
    let url = healthcheck::url_of(LISTENER.local_addr().expect("its address")).expect("a port");
    let asked = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = LISTENER.accept().expect("a connection");
            // All of a question is one packet.
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(&bytes);
        });
        healthcheck::ask(&url)
    });
    let text = String::from_utf8_lossy(&bytes);
    let parts = text.split_once("\r\n\r\n");
    let healthy = parts.filter(|(head, _)| head.split(' ').nth(1) == Some("200"));
    assert_eq!(asked.ok().as_deref(), healthy.map(|(_, body)| body));
}
