//! A role's own pages, asked for by whoever, on a real socket: what there is is answered, what there is not is refused, and
//! no request is the end of those that follow.
#![no_main]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;

use adit_service::{CommonConfig, ConfigError, Context, Http, Log, Role};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// By method and place among those that there are, with what is behind it and what is accepted.
    Asked { method: u8, place: u8, behind: &'a str, accept: &'a [u8] },
    /// Whatever this is.
    Bytes(&'a [u8]),
}

const PLACES: [&str; 7] = ["/healthz", "/readyz", "/status", "/metrics", "/reload", "/", "/x"];
const METHODS: [&str; 5] = ["GET", "HEAD", "POST", "PUT", "BREW"];

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::Asked { method, place, behind, accept } => {
            let method = METHODS[usize::from(method) % METHODS.len()];
            let place = PLACES[usize::from(place) % PLACES.len()];
            let plain = |c: char| {
                c.is_ascii_graphic()
                    && !matches!(c, '<' | '>' | '"' | '#' | '\\' | '^' | '`' | '{' | '|' | '}')
            };
            let behind = if behind.chars().all(plain) { behind } else { "" };
            let visible = |byte: &u8| (b' '..=b'~').contains(byte) || *byte >= 0x80;
            let accept = if accept.iter().all(visible) { accept } else { b"" };
            asked(method, &format!("{place}{behind}"), accept);
        }
        Input::Bytes(bytes) => drop(exchange(bytes, true)),
    }
    let (head, body) = exchange(b"GET /healthz HTTP/1.0\r\n\r\n", false).expect("it still answers");
    assert!(head.starts_with("HTTP/1.0 200 ") && body == b"ok\n", "{head}");
});

fn asked(method: &str, target: &str, accept: &[u8]) {
    let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAccept: ");
    let request = [head.as_bytes(), accept, b"\r\n\r\n"].concat();
    let Some((head, body)) = exchange(&request, false) else { panic!("no answer to {target:?}") };
    let status = head.split(' ').nth(1).expect("a status");
    if status == "400" || status == "414" || status == "431" {
        // Not a target to the library.
        return;
    }
    let path = target.split('?').next().expect("a part");
    let allowed = match path {
        "/healthz" | "/readyz" | "/status" | "/metrics" | "/" => matches!(method, "GET" | "HEAD"),
        "/reload" => method == "POST",
        _ => return assert_eq!(status, "404", "{target}"),
    };
    let expected = match path {
        _ if !allowed => "405",
        "/readyz" => "503",
        "/reload" => "404",
        _ => "200",
    };
    assert_eq!(status, expected, "{method} {target}");
    if allowed && path == "/metrics" {
        // Where it is text at all.
        let open = accept.is_ascii()
            && String::from_utf8_lossy(accept).contains("application/openmetrics-text");
        assert_eq!(head.contains("application/openmetrics-text"), open, "{head}");
        assert!(method == "HEAD" || body.ends_with(b"# EOF\n") == open);
    }
    if expected == "200" && path == "/status" && method == "GET" {
        serde_json::from_slice::<serde_json::Value>(&body).expect("JSON");
    }
    assert!(method != "HEAD" || body.is_empty());
}

/// Sends, and reads until the other end closes: the header, and what is behind it.
fn exchange(request: &[u8], is_all: bool) -> Option<(String, Vec<u8>)> {
    static ROLE: LazyLock<SocketAddr> = LazyLock::new(start);
    let mut stream = TcpStream::connect(*ROLE).expect("it listens");
    // It may close in the middle of a bad request.
    let _ = stream.write_all(request);
    if is_all {
        // It need not wait for the rest.
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    Some((head, answer.split_off(end + 4)))
}

fn start() -> SocketAddr {
    let (sender, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
            let config = Config { http: Http { listen, ..Http::default() }, log: Log::default() };
            let role = adit_service::start::<Waiting>(config).await.expect("a role");
            let _ = sender.send(role.http_addr.expect("its pages"));
            std::future::pending::<()>().await;
        });
    });
    address.recv().expect("an address")
}

/// A role that waits.
struct Waiting;

#[derive(serde::Deserialize)]
struct Config {
    http: Http,
    log: Log,
}

impl CommonConfig for Config {
    fn http(&self) -> &Http {
        &self.http
    }

    fn log(&self) -> &Log {
        &self.log
    }
}

impl Role for Waiting {
    const NAME: &'static str = "waiting";
    const ABOUT: &'static str = "Waits";
    const EXAMPLE: &'static str = "";
    type Config = Config;

    fn check(_: &Config) -> Result<(), ConfigError> {
        Ok(())
    }

    async fn run(_: Config, cx: Context) -> anyhow::Result<()> {
        cx.readiness.waiting_for("nothing", "it waits");
        cx.shutdown.cancelled().await;
        Ok(())
    }
}
