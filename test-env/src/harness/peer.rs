//! Scripted peers: a test's own end of a connection, which may say what no role would.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use adit_sv2::codec::Str0255;
use adit_sv2::frame::encode_frame;
use adit_sv2::messages::Message;
use adit_sv2::messages::common::{PROTOCOL_VERSION, SetupConnection};
use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Endpoint;
use crate::sniffer::{Direction, Reader, Record, Writer, connect, lines};

/// To connect and shake hands, on a machine busy with other tests.
const CONNECT: Duration = Duration::from_secs(60);

/// A client of a Stratum V2 server.
pub struct Sv2Peer {
    reader: Reader,
    writer: Writer,
}

impl Sv2Peer {
    /// Connects and shakes hands. Without a key any server is believed.
    ///
    /// # Errors
    /// Nobody answers, or not rightly.
    pub fn connect(server: &Endpoint) -> Result<Self> {
        let stream = tcp(server)?;
        let (reader, writer) = connect(stream, server.key).context("shaking hands")?;
        Ok(Self { reader, writer })
    }

    /// Connects, shakes hands, and sets the connection up for `protocol`.
    ///
    /// # Errors
    /// The server refuses.
    pub fn set_up(server: &Endpoint, protocol: u8, flags: u32) -> Result<Self> {
        let mut peer = Self::connect(server)?;
        peer.send(&Self::setup_connection(protocol, flags))?;
        peer.wait_for("SetupConnection.Success", CONNECT)?;
        Ok(peer)
    }

    /// What [`set_up`](Self::set_up) says first.
    pub fn setup_connection(protocol: u8, flags: u32) -> SetupConnection<'static> {
        SetupConnection {
            protocol,
            min_version: PROTOCOL_VERSION,
            max_version: PROTOCOL_VERSION,
            flags,
            endpoint_host: Str0255::cut("127.0.0.1"),
            endpoint_port: 0,
            vendor: Str0255::cut("test"),
            hardware_version: Str0255::default(),
            firmware: Str0255::default(),
            device_id: Str0255::default(),
        }
    }

    /// Says a message.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send<'m, M: Message<'m>>(&mut self, message: &M) -> Result<()> {
        let mut frame = Vec::new();
        encode_frame(message, &mut frame);
        self.send_frame(&frame)
    }

    /// Says a plaintext frame, header included, whatever is in it.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send_frame(&mut self, frame: &[u8]) -> Result<()> {
        Ok(self.writer.send(frame)?)
    }

    /// Writes bytes that are not sealed.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.writer.stream().write_all(bytes)?)
    }

    /// The next message; none once the server has closed the connection.
    ///
    /// # Errors
    /// Nothing comes in time.
    pub fn receive(&mut self, within: Duration) -> Result<Option<Record>> {
        let message = receive(&mut self.reader, within)?;
        Ok(message.map(|bytes| Record::new(0, Direction::ToClient, bytes, true)))
    }

    /// The next message of this name, others being skipped.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn wait_for(&mut self, name: &str, within: Duration) -> Result<Record> {
        let deadline = Instant::now() + within;
        let mut skipped = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.receive(left).with_context(|| format!("no {name}, but {skipped:#?}"))? {
                Some(record) if record.name == name => return Ok(record),
                Some(record) => skipped.push(record.to_string()),
                None => bail!("closed before a {name}, after {skipped:#?}"),
            }
        }
    }

    /// What still comes until the server closes the connection.
    ///
    /// # Errors
    /// It does not close it in time.
    pub fn wait_closed(&mut self, within: Duration) -> Result<Vec<Record>> {
        let deadline = Instant::now() + within;
        let mut said = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.receive(left).with_context(|| format!("not closed; said {said:#?}"))? {
                Some(record) => said.push(record),
                None => return Ok(said),
            }
        }
    }
}

/// A client of a Stratum V1 server.
pub struct LinePeer {
    reader: Reader,
    writer: Writer,
}

impl LinePeer {
    /// Connects.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn connect(server: &Endpoint) -> Result<Self> {
        let (reader, writer) = lines(tcp(server)?)?;
        Ok(Self { reader, writer })
    }

    /// Says a line.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, line: &str) -> Result<()> {
        Ok(self.writer.send(line.as_bytes())?)
    }

    /// The next line that is JSON and `fits`, others being skipped.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn wait_until(&mut self, within: Duration, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + within;
        let mut skipped = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line =
                receive(&mut self.reader, left).with_context(|| format!("only {skipped:#?}"))?;
            let line = line.with_context(|| format!("closed after {skipped:#?}"))?;
            match serde_json::from_slice(&line) {
                Ok(json) if fits(&json) => return Ok(json),
                _ => skipped.push(String::from_utf8_lossy(&line).into_owned()),
            }
        }
    }
}

/// Connects a bare socket.
pub(super) fn tcp(server: &Endpoint) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server.addr, CONNECT)
        .with_context(|| format!("connecting to {}", server.addr))?;
    stream.set_read_timeout(Some(CONNECT))?;
    Ok(stream)
}

/// Reads from a bare socket until the other end closes it; a reset is an end as well.
///
/// # Errors
/// It is not closed in time.
pub fn read_to_end(stream: &mut TcpStream, within: Duration) -> Result<Vec<u8>> {
    let deadline = Instant::now() + within;
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        stream.set_read_timeout(Some(time_left(deadline)))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(all),
            Ok(received) => all.extend_from_slice(&chunk[..received]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(all),
            Err(error) => return Err(error).context("waiting for the other end to close"),
        }
    }
}

fn receive(reader: &mut Reader, within: Duration) -> Result<Option<Vec<u8>>> {
    reader.stream().set_read_timeout(Some(within.max(Duration::from_millis(1))))?;
    match reader.next() {
        Ok(message) => Ok(message),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A read timeout of zero would mean none at all.
fn time_left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}
