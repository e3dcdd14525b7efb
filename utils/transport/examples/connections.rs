//! What a connection costs: resident memory of the server's process for each idle connection, and the time in which one
//! job of 400 bytes is written to all of them.
//!
//! `cargo run --release -p adit-transport --example connections -- noise 5000` (Linux; needs as many open files); `lines` and
//! `tls`, which is lines in TLS 1.3, likewise. The clients are in a process of their own.
#![allow(clippy::print_stdout)] // its answer

use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_sv2::frame::Header;
use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::noise::Validity;
use adit_transport::{
    DialOptions, DialTarget, Engine, Event, Hub, HubOptions, LineOptions, ListenLimits,
    NoiseServer, Now, Outbox, PeerId, Protocol, TlsServer,
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Keeps a list of who is there.
#[derive(Default)]
struct Peers(Vec<PeerId>);

impl Engine for Peers {
    type Link = Protocol;
    type Effect = ();

    fn handle(&mut self, peer: PeerId, _: Protocol, event: Event<'_>, _: Now, _: &mut Outbox<()>) {
        match event {
            Event::Opened { .. } => self.0.push(peer),
            Event::Closed(_) => self.0.retain(|p| *p != peer),
            _ => {}
        }
    }

    fn tick(&mut self, _: Now, _: &mut Outbox<()>) {}
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["client", "tls", address, count, certificate] => tls_client(address, count, certificate),
        ["client", name, address, count, ..] => client(protocol(name)?, address, count).await,
        [name, count] => server(name, protocol(name)?, count.parse()?).await,
        _ => Err("usage: connections noise|lines|tls COUNT".into()),
    }
}

fn protocol(name: &str) -> Result<Protocol> {
    match name {
        "noise" => Ok(Protocol::Noise),
        "lines" | "tls" => Ok(Protocol::Lines),
        _ => Err("neither noise nor lines nor tls".into()),
    }
}

async fn server(name: &str, protocol: Protocol, count: usize) -> Result<()> {
    let hub = Hub::new(Peers::default(), |()| {}, Arc::default(), HubOptions::default());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let (limits, cancel) = (ListenLimits::default(), CancellationToken::new());
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([HOST.to_owned()])?;
    let certificate = cert.pem();
    let _serving = match protocol {
        Protocol::Noise => {
            let authority = AuthoritySecretKey::from_entropy([1; 32])?;
            let server = Arc::new(NoiseServer::new(authority, Validity::default())?);
            tokio::spawn(hub.serve_noise(listener, protocol, server, limits, cancel))
        }
        Protocol::Lines => {
            let key = signing_key.serialize_pem();
            let tls = TlsServer::new(certificate.as_bytes(), key.as_bytes())?;
            let tls = (name == "tls").then(|| Arc::new(tls));
            let options = LineOptions { tls, ..LineOptions::default() };
            tokio::spawn(hub.serve_lines_with(listener, protocol, options, limits, cancel))
        }
    };
    // One connection first, so that what the process needs anyway does not count.
    let _one = clients(name, &address, 1, &certificate)?;
    until(&hub, 1).await;
    let before = resident_kib()?;
    let _many = clients(name, &address, count, &certificate)?;
    until(&hub, 1 + count).await;
    let idle = (resident_kib()? - before) / count as f64;
    let mut fan_outs = Vec::new();
    for _ in 0..20 {
        sleep(Duration::from_millis(300)).await; // until the clients have read the one before
        fan_outs.push(fan_out(&hub, protocol));
    }
    fan_outs.sort();
    let after = (resident_kib()? - before) / count as f64;
    println!(
        "{name}: {count} connections, {idle:.1} KiB each when idle, {after:.1} KiB after 20 jobs; a job to all in {:.1} ms (best {:.1} ms)",
        fan_outs[fan_outs.len() / 2].as_secs_f64() * 1e3,
        fan_outs[0].as_secs_f64() * 1e3,
    );
    Ok(())
}

fn clients(
    name: &str,
    address: &str,
    count: usize,
    certificate: &str,
) -> Result<tokio::process::Child> {
    Ok(Command::new(std::env::current_exe()?)
        .args(["client", name, address, &count.to_string(), certificate])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?)
}

async fn client(protocol: Protocol, address: &str, count: &str) -> Result<()> {
    let hub = Hub::new(Peers::default(), |()| {}, Arc::default(), HubOptions::default());
    let target = DialTarget::from(address.parse::<std::net::SocketAddr>()?);
    for _ in 0..count.parse::<usize>()? {
        let options = DialOptions::default();
        match protocol {
            Protocol::Noise => hub.dial_noise(protocol, target.clone(), options).await?,
            Protocol::Lines => hub.dial_lines(protocol, target.clone(), options).await?,
        };
    }
    std::future::pending().await
}

/// Says one line, and reads nothing: the jobs fit into the kernel's buffers.
fn tls_client(address: &str, count: &str, certificate: &str) -> Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let mut open = Vec::new();
    for _ in 0..count.parse::<usize>()? {
        let mut stream = std::net::TcpStream::connect(address)?;
        let mut connection = ClientConnection::new(config.clone(), HOST.try_into()?)?;
        connection.writer().write_all(&[&[b'x'; 100][..], b"\n"].concat())?;
        while connection.is_handshaking() || connection.wants_write() {
            connection.complete_io(&mut stream)?;
        }
        open.push((stream, connection));
    }
    loop {
        std::thread::park();
    }
}

/// What the certificate is for.
const HOST: &str = "pool.example";

async fn until(hub: &Hub<Peers>, count: usize) {
    while hub.with(|engine, _, _| engine.0.len()) < count {
        sleep(Duration::from_millis(20)).await;
    }
}

/// The time from the job to the last connection's write.
fn fan_out(hub: &Hub<Peers>, protocol: Protocol) -> Duration {
    let header = Header { extension_type: 0, channel_msg: true, msg_type: 0x1f, msg_length: 400 };
    let frame = [&header.to_bytes()[..], &[0; 400]].concat();
    let started = Instant::now();
    hub.with(|engine, _, out| {
        let line = out.share(|bytes| bytes.extend([&frame[..], b"\n"].concat()));
        for (channel_id, peer) in (0..).zip(&engine.0) {
            match protocol {
                Protocol::Noise => out.send_encoded(*peer, &frame, channel_id),
                Protocol::Lines => out.repeat(*peer, &line),
            }
        }
    });
    started.elapsed()
}

fn resident_kib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
