//! The command `healthcheck`: asks a running role whether it is ready; for programs with a command line of their own.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};

/// Connecting, asking and every part of the answer each may take this long.
const TIMEOUT: Duration = Duration::from_secs(3);
/// More than any role's answer.
const MAX_ANSWER: u64 = 64 * 1024;

/// The URL to ask a role that listens as configured.
///
/// # Errors
/// With port 0 nobody knows where it listens.
pub fn url_of(listen: SocketAddr) -> anyhow::Result<String> {
    ensure!(listen.port() != 0, "http.listen takes any free port: give the right one with --url");
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(format!("http://{}/readyz", SocketAddr::new(ip, listen.port())))
}

/// Asks; gives the answer's text if it is a yes.
///
/// # Errors
/// The answer is a no, which the error says, or there is none.
pub fn ask(url: &str) -> anyhow::Result<String> {
    request("GET", url)
}

/// Asks for something to be done; gives the answer's text if it was.
pub(crate) fn post(url: &str) -> anyhow::Result<String> {
    request("POST", url)
}

fn request(method: &str, url: &str) -> anyhow::Result<String> {
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("{url}: expected http://HOST:PORT/PATH"))?;
    let (host, path) = match rest.split_once('/') {
        Some((host, path)) if !path.is_empty() => (host, path),
        Some((host, _)) => (host, "readyz"),
        None => (rest, "readyz"),
    };
    // HTTP/1.0: the answer comes in one piece and the connection is closed after it.
    ensure!(!rest.contains(|c: char| c.is_whitespace() || c.is_control()), "{url}: not a URL");
    let head = format!("{method} /{path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
    let answer = exchange(host, &head).with_context(|| url.to_owned())?;
    let (head, body) =
        answer.split_once("\r\n\r\n").with_context(|| format!("{url}: not an answer in HTTP"))?;
    let code = head.split(' ').nth(1).with_context(|| format!("{url}: not an answer in HTTP"))?;
    if code != "200" {
        bail!("{} (HTTP {code})", body.trim_end().replace('\n', "; "));
    }
    Ok(body.to_owned())
}

fn exchange(host: &str, request: &str) -> anyhow::Result<String> {
    let mut last = anyhow::anyhow!("the name has no address");
    let addrs = if host.parse::<IpAddr>().is_ok() || !host.contains(':') {
        (host, 80).to_socket_addrs()
    } else {
        host.to_socket_addrs()
    };
    for addr in addrs? {
        match TcpStream::connect_timeout(&addr, TIMEOUT) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                stream.write_all(request.as_bytes())?;
                let mut answer = Vec::new();
                stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
                return Ok(String::from_utf8_lossy(&answer).into_owned());
            }
            Err(e) => last = e.into(),
        }
    }
    Err(last)
}
