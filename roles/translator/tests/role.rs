//! The role as a program runs it: sockets, pages, and an upstream that is not there.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use adit_service::{Handle, Role, parse_config, start};
use adit_translator::TranslatorRole;
use adit_translator::config::Config;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// On a machine busy with other tests.
const SOON: Duration = Duration::from_secs(60);

async fn translator(upstream: SocketAddr) -> (Handle, SocketAddr) {
    let handle = started(upstream, "[[listen]]\naddress = \"127.0.0.1:0\"", Path::new("/")).await;
    let address = listener(&handle, "miners").await;
    (handle, address)
}

/// A translator with its pages and `more` in its configuration, whose files are in `folder`.
async fn started(upstream: SocketAddr, more: &str, folder: &Path) -> Handle {
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[[upstream]]\nurl = \"stratum2+tcp://{upstream}\"\n{more}\n"
    );
    let config: Config = parse_config(&text, folder).unwrap();
    start::<TranslatorRole>(config).await.unwrap()
}

async fn listener(handle: &Handle, name: &str) -> SocketAddr {
    timeout(SOON, handle.listener(name)).await.unwrap().unwrap()
}

/// A miner that says a line and is told one.
struct Talk<S>(BufReader<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    async fn say(&mut self, line: &str) {
        self.0.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// The next line, empty at the end of the connection.
    async fn told(&mut self) -> String {
        let mut line = String::new();
        let read = timeout(SOON, self.0.read_line(&mut line)).await.unwrap();
        read.map_or(String::new(), |_| line)
    }

    async fn ask(&mut self, line: &str) -> String {
        self.say(line).await;
        self.told().await
    }
}

async fn connect(address: SocketAddr) -> Talk<TcpStream> {
    Talk(BufReader::new(TcpStream::connect(address).await.unwrap()))
}

/// A page, with its head.
async fn page(handle: &Handle, path: &str) -> String {
    let mut stream = TcpStream::connect(handle.http_addr.unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    timeout(SOON, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

/// Waits until a page says something.
async fn page_says(handle: &Handle, path: &str, wanted: &str) {
    let says = async {
        while !page(handle, path).await.contains(wanted) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(SOON, says).await.is_err() {
        panic!("{path} does not say {wanted}:\n{}", page(handle, path).await);
    }
}

/// What a ping inside TLS is answered by a listener with this certificate.
async fn ping_inside(address: SocketAddr, certificate: Vec<u8>) -> String {
    let talk = tokio::task::spawn_blocking(move || {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.into()).unwrap();
        let provider = rustls::crypto::ring::default_provider().into();
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "pool.example".try_into().unwrap();
        let client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut stream = rustls::StreamOwned::new(client, stream);
        std::io::Write::write_all(&mut stream, format!("{PING}\n").as_bytes()).unwrap();
        let mut answer = vec![0; PONG.len()];
        std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    });
    timeout(SOON, talk).await.unwrap().unwrap()
}

const SUBSCRIBE: &str = r#"{"id":1,"method":"mining.subscribe","params":["cgminer/4.11.1"]}"#;
const PING: &str = r#"{"id":7,"method":"mining.ping","params":[]}"#;
const PONG: &str = "{\"id\":7,\"result\":\"pong\",\"error\":null}\n";

/// A port where nobody listens and that nobody else gets as long as this process lives.
async fn nobody() -> SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}

#[test]
fn the_example_passes_the_check_of_the_command_line() {
    let config = parse_config(TranslatorRole::EXAMPLE, Path::new("/nowhere")).unwrap();
    TranslatorRole::check(&config).unwrap();
}

#[tokio::test]
async fn miners_are_answered_without_an_upstream_and_readiness_says_what_is_missing() {
    let upstream = nobody().await;
    let (handle, address) = translator(upstream).await;
    let mut miner = BufReader::new(TcpStream::connect(address).await.unwrap());
    // In one segment, as ESP-Miner sends it.
    let hello = concat!(
        r#"{"id":1,"method":"mining.configure","params":[["version-rolling"],{"version-rolling.mask":"ffffffff"}]}"#,
        "\r\n",
        r#"{"id":2,"method":"mining.subscribe","params":["bitaxe/v2"]}"#,
        "\n\n",
        r#"{"id":3,"method":"mining.authorize","params":["a.b","x"]}"#,
        "\n"
    );
    miner.write_all(hello.as_bytes()).await.unwrap();
    for id in 1..=3 {
        let mut line = String::new();
        timeout(SOON, miner.read_line(&mut line)).await.unwrap().unwrap();
        assert!(line.starts_with(&format!("{{\"id\":{id},")), "{line}");
        assert!(line.contains("\"error\":null"), "{line}");
    }

    let readiness = &handle.context().readiness;
    let refused = async {
        loop {
            let waiting = readiness.waiting();
            if waiting.iter().any(|w| {
                w.condition == "upstream"
                    && w.reason.starts_with(&format!("{upstream}: cannot connect"))
            }) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, refused).await.expect("readiness names the upstream and what is wrong");
    handle.shutdown();
    timeout(SOON, handle.wait()).await.unwrap().unwrap();
    let mut rest = String::new();
    timeout(SOON, miner.read_line(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty(), "the connection is closed when the role ends: {rest}");
}

#[tokio::test]
async fn a_line_without_end_costs_its_own_connection() {
    let (handle, address) = translator(nobody().await).await;
    let mut other = BufReader::new(TcpStream::connect(address).await.unwrap());
    let mut flood = TcpStream::connect(address).await.unwrap();
    // More than any line may have. The write may fail when the other end has had enough.
    let _ = flood.write_all(&[b'x'; 64 << 10]).await;
    let mut byte = [0];
    let read = timeout(SOON, tokio::io::AsyncReadExt::read(&mut flood, &mut byte)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "closed: {read:?}");
    other.write_all(b"{\"id\":7,\"method\":\"mining.ping\",\"params\":[]}\n").await.unwrap();
    let mut line = String::new();
    timeout(SOON, other.read_line(&mut line)).await.unwrap().unwrap();
    assert_eq!(line, "{\"id\":7,\"result\":\"pong\",\"error\":null}\n");
    handle.shutdown();
    timeout(SOON, handle.wait()).await.unwrap().unwrap();
}

#[tokio::test]
async fn listeners_have_names_limits_and_terms_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["pool.example".to_owned()]).unwrap();
    std::fs::write(dir.path().join("c.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("k.pem"), made.signing_key.serialize_pem()).unwrap();
    let listeners = "[[listen]]\naddress = \"127.0.0.1:0\"\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nname = \"few\"\nmax_connections = 1\nmin_difficulty = 64\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nname = \"secure\"\ntls_certificate = \"c.pem\"\ntls_key = \"k.pem\"\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nname = \"proxied\"\nproxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]";
    let handle = started(nobody().await, listeners, dir.path()).await;
    let mut plain = connect(listener(&handle, "miners").await).await;
    assert_eq!(plain.ask(PING).await, PONG);

    let few = listener(&handle, "few").await;
    let mut first = connect(few).await;
    assert_eq!(first.ask(PING).await, PONG);
    assert_eq!(connect(few).await.told().await, "", "one too many");

    // TLS: the listener hears a miner inside, and takes nothing else.
    let secure = listener(&handle, "secure").await;
    let trusted = made.cert.der().to_vec();
    assert_eq!(ping_inside(secure, trusted).await, PONG);

    // A proxy says who its client is, and that is who is shown.
    let mut client = connect(listener(&handle, "proxied").await).await;
    client.say("PROXY TCP4 192.0.2.7 198.51.100.1 56324 34255\r").await;
    assert_eq!(client.ask(PING).await, PONG);
    page_says(&handle, "/status", "\"192.0.2.7:56324\"").await;

    let status = page(&handle, "/status").await;
    for name in ["miners", "few", "secure", "proxied"] {
        assert!(status.contains(&format!("\"name\":\"{name}\"")), "{status}");
    }
    for sample in [
        "adit_transport_connections{link=\"Miner\"} 1",
        "adit_transport_connections{link=\"Miner:few\"} 1",
        "adit_transport_connections{link=\"Miner:proxied\"} 1",
        "adit_transport_closed_total{link=\"Miner:few\",reason=\"too-many-connections\"} 1",
        "adit_transport_handshakes_total{side=\"tls\",result=\"ok\"} 1",
    ] {
        page_says(&handle, "/metrics", sample).await;
    }
    handle.shutdown();
    timeout(SOON, handle.wait()).await.unwrap().unwrap();
}

#[tokio::test]
async fn passwords_are_asked_for_where_the_configuration_says_so() {
    let hash = adit_translator::auth::hash_password("secret").unwrap();
    let auth = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[auth]\nmode = \"local\"\n[auth.users]\nfarm = \"{hash}\""
    );
    let handle = started(nobody().await, &auth, Path::new("/")).await;
    let address = listener(&handle, "miners").await;
    let login = async |user: &str, password: &str| {
        let mut miner = connect(address).await;
        miner.ask(SUBSCRIBE).await;
        let line =
            format!(r#"{{"id":2,"method":"mining.authorize","params":["{user}","{password}"]}}"#);
        miner.ask(&line).await
    };
    let yes = "{\"id\":2,\"result\":true,\"error\":null}\n";
    let no = "{\"id\":2,\"result\":null,\"error\":[24,\"Unauthorized worker\",null]}\n";
    assert_eq!(login("farm.rig1", "secret").await, yes);
    assert_eq!(login("farm.rig1", "x").await, no);
    assert_eq!(login("other", "secret").await, no);
    // Ten thousand devices that come back need no hash each: with what a hash takes now, before and after.
    let hashes = || {
        let begun = std::time::Instant::now();
        (0..5).for_each(|_| drop(adit_translator::auth::hash_password("other").unwrap()));
        begun.elapsed()
    };
    let of_hashes = hashes();
    let before = std::time::Instant::now();
    for rig in 0..500 {
        assert_eq!(login(&format!("farm.rig{rig}"), "secret,d=64").await, yes);
    }
    let of_logins = before.elapsed();
    let of_hashes = of_hashes + hashes();
    assert!(of_logins < of_hashes * 50, "{of_logins:?}, and {of_hashes:?} for ten hashes");
    for sample in [
        "adit_translator_logins_total{result=\"right\"} 501",
        "adit_translator_logins_total{result=\"wrong\"} 1",
        "adit_translator_logins_total{result=\"unknown-user\"} 1",
    ] {
        page_says(&handle, "/metrics", sample).await;
    }
    handle.shutdown();
    timeout(SOON, handle.wait()).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_miners_do_wrong_costs_their_own_connection_and_is_counted() {
    let limits = "[[listen]]\naddress = \"127.0.0.1:0\"\n[miners]\nhello_timeout_seconds = 10\nmax_lines_per_second = 50";
    let handle = started(nobody().await, limits, Path::new("/")).await;
    let address = listener(&handle, "miners").await;
    let mut good = connect(address).await;
    good.ask(SUBSCRIBE).await;
    good.ask(r#"{"id":2,"method":"mining.authorize","params":["a","b"]}"#).await;

    let ends = async |bytes: &[u8]| {
        let mut bad = TcpStream::connect(address).await.unwrap();
        let _ = bad.write_all(bytes).await;
        let mut rest = Vec::new();
        let _ = timeout(SOON, bad.read_to_end(&mut rest)).await.expect("it is closed");
    };
    ends(b"GET / HTTP/1.1\r\n\r\n").await;
    ends(format!("{PING}\n").repeat(60).as_bytes()).await;
    ends("{\"id\":1\n".repeat(10).as_bytes()).await;
    ends(&[b'x'; 20 << 10]).await;
    ends(b"").await;
    for reason in [
        "engine:not-stratum",
        "engine:too-many-lines",
        "engine:too-many-bad-lines",
        "line-too-long",
        "engine:no-hello",
    ] {
        let sample = format!("adit_transport_closed_total{{link=\"Miner\",reason=\"{reason}\"}} 1");
        page_says(&handle, "/metrics", &sample).await;
    }
    assert_eq!(good.ask(PING).await, PONG);
    handle.shutdown();
    timeout(SOON, handle.wait()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_storm_of_one_address_is_banned_and_others_are_not() {
    let storm = "[[listen]]\naddress = \"127.0.0.1:0\"\nlimit_loopback = true\nban_seconds = 300\n\
        connection_burst_per_address = 5\nconnections_per_second_per_address = 0.01";
    let handle = started(nobody().await, storm, Path::new("/")).await;
    let address = listener(&handle, "miners").await;
    for _ in 0..5 {
        assert_eq!(connect(address).await.ask(PING).await, PONG);
    }
    for _ in 0..3 {
        assert_eq!(connect(address).await.told().await, "");
    }
    page_says(&handle, "/metrics", "reason=\"rate-limited\"} 1").await;
    page_says(&handle, "/metrics", "reason=\"banned\"} 2").await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = Talk(BufReader::new(socket.connect(address).await.unwrap()));
    assert_eq!(other.ask(PING).await, PONG);
    handle.shutdown();
    timeout(SOON, handle.wait()).await.unwrap().unwrap();
}

/// The kernel's own list of sockets says which of them have a keepalive timer.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_kernel_asks_whether_a_miner_is_still_there() {
    let more = "[[listen]]\naddress = \"127.0.0.1:0\"\ntcp_keepalive_seconds = 33";
    let handle = started(nobody().await, more, Path::new("/")).await;
    let address = listener(&handle, "miners").await;
    let mut miner = connect(address).await;
    assert_eq!(miner.ask(PING).await, PONG);
    let own = format!(":{:04X}", address.port());
    let kept = || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        sockets.lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            // Local address, state "established", and the kind of its timer.
            fields[1].ends_with(&own) && fields[3] == "01" && fields[5].starts_with("02:")
        })
    };
    let soon = async {
        while !kept() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, soon).await.expect("a keepalive timer");
    handle.shutdown();
    timeout(SOON, handle.wait()).await.unwrap().unwrap();
}

#[tokio::test]
async fn users_and_certificates_are_renewed_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let renew = || {
        let made = rcgen::generate_simple_self_signed(["pool.example".to_owned()]).unwrap();
        std::fs::write(dir.path().join("c.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.path().join("k.pem"), made.signing_key.serialize_pem()).unwrap();
        made.cert.der().to_vec()
    };
    let text = |password: &str| {
        let hash = adit_translator::auth::hash_password(password).unwrap();
        format!(
            "[[listen]]\naddress = \"127.0.0.1:0\"\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\nname = \"secure\"\ntls_certificate = \"c.pem\"\ntls_key = \"k.pem\"\n\
             [auth]\nmode = \"local\"\n[auth.users]\nfarm = \"{hash}\""
        )
    };
    let (upstream, first) = (nobody().await, renew());
    let handle = started(upstream, &text("old"), dir.path()).await;
    let (plain, secure) = (listener(&handle, "miners").await, listener(&handle, "secure").await);
    assert_eq!(ping_inside(secure, first).await, PONG);
    let mut kept = connect(plain).await;
    kept.ask(SUBSCRIBE).await;
    let login = |password: &str| {
        format!(r#"{{"id":2,"method":"mining.authorize","params":["farm.a","{password}"]}}"#)
    };
    assert!(kept.ask(&login("old")).await.contains("\"result\":true"));

    let second = renew();
    let config = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[[upstream]]\nurl = \"stratum2+tcp://{upstream}\"\n{}\n",
        text("new")
    );
    let config: Config = parse_config(&config, dir.path()).unwrap();
    let changes = handle.reload(config).unwrap().to_string();
    assert_eq!(changes, "applied: auth.users");
    assert_eq!(ping_inside(secure, second).await, PONG);
    let mut later = connect(plain).await;
    later.ask(SUBSCRIBE).await;
    assert!(later.ask(&login("old")).await.contains("\"error\":[24,"));
    assert!(later.ask(&login("new")).await.contains("\"result\":true"));
    assert_eq!(kept.ask(PING).await, PONG, "who is there stays");
    handle.shutdown();
    timeout(SOON, handle.wait()).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_upstream_is_dialled_however_often_the_configuration_changes_meanwhile() {
    // Takes connections and says nothing, so that each attempt takes its time.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"";
    let handle = started(address, listen, Path::new("/")).await;
    listener(&handle, "miners").await;
    let (held, _) = timeout(SOON, silent.accept()).await.unwrap().unwrap();
    let gone = nobody().await;
    // Each change is another attempt, more than may wait; the last is the one that matters.
    for change in 0..40 {
        let upstream = if change == 39 { good.local_addr().unwrap() } else { gone };
        let text = format!(
            "[http]\nlisten = \"127.0.0.1:0\"\n[[upstream]]\nurl = \"stratum2+tcp://{upstream}\"\nuser_identity = \"{change}\"\n{listen}\n"
        );
        handle.reload(parse_config::<Config>(&text, Path::new("/")).unwrap()).unwrap();
    }
    drop(held);
    timeout(SOON, good.accept()).await.expect("the one that is in the list is dialled").unwrap();
    handle.shutdown();
    timeout(SOON, handle.wait()).await.unwrap().unwrap();
}
