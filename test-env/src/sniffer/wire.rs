//! Reading and writing whole messages on blocking sockets, encrypted or as lines.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use adit_sv2::frame::payload_limit;
use adit_sv2::keys::AuthorityPublicKey;
use adit_sv2::noise::{
    ACT1_LEN, ACT2_LEN, Initiator, Opened, Opener, Responder, ResponderIdentity, Sealer,
};

/// How far the clocks of two ends on one machine may seem to be apart, in seconds.
const CLOCK_TOLERANCE: u32 = 10;

/// Turns bytes into messages.
pub(crate) enum Decoder {
    Noise(Opener),
    Lines,
}

/// Turns messages into bytes.
pub(crate) enum Encoder {
    Noise(Sealer),
    Lines,
}

/// The receiving side of a connection.
pub(crate) struct Reader {
    stream: TcpStream,
    decoder: Decoder,
    buf: Vec<u8>,
}

/// The sending side of a connection.
pub(crate) struct Writer {
    stream: TcpStream,
    encoder: Encoder,
}

/// Shakes hands as a client that expects `authority`, or anybody.
pub(crate) fn connect(
    mut stream: TcpStream,
    authority: Option<AuthorityPublicKey>,
) -> io::Result<(Reader, Writer)> {
    let (initiator, act1) = Initiator::new(authority, [random(), random()]);
    stream.write_all(&act1)?;
    let mut act2 = [0; ACT2_LEN];
    stream.read_exact(&mut act2)?;
    let (sealer, opener, _) = initiator
        .finish(&act2, now(), CLOCK_TOLERANCE)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    halves(stream, Decoder::Noise(opener), Encoder::Noise(sealer))
}

/// Shakes hands as a server.
pub(crate) fn accept(
    mut stream: TcpStream,
    identity: &ResponderIdentity,
) -> io::Result<(Reader, Writer)> {
    let mut act1 = [0; ACT1_LEN];
    stream.read_exact(&mut act1)?;
    let (act2, sealer, opener) = Responder::respond(identity, &act1, [random(), random()])
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    stream.write_all(&act2)?;
    halves(stream, Decoder::Noise(opener), Encoder::Noise(sealer))
}

/// A connection of plain lines.
pub(crate) fn lines(stream: TcpStream) -> io::Result<(Reader, Writer)> {
    halves(stream, Decoder::Lines, Encoder::Lines)
}

fn halves(stream: TcpStream, decoder: Decoder, encoder: Encoder) -> io::Result<(Reader, Writer)> {
    stream.set_nodelay(true)?;
    let reader = Reader { stream: stream.try_clone()?, decoder, buf: Vec::new() };
    Ok((reader, Writer { stream, encoder }))
}

impl Reader {
    /// The next whole message: a frame in plaintext, header included, or a line without its end. `None` at the end of
    /// the stream; an error also when the socket's read timeout is over, after which it can be called again.
    pub(crate) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(received) => self.buf.extend_from_slice(&chunk[..received]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The socket, for timeouts.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn take(&mut self) -> io::Result<Option<Vec<u8>>> {
        match &mut self.decoder {
            Decoder::Lines => {
                let Some(end) = self.buf.iter().position(|byte| *byte == b'\n') else {
                    return Ok(None);
                };
                let mut line: Vec<u8> = self.buf.drain(..=end).collect();
                line.truncate(line.trim_ascii_end().len());
                Ok(Some(line))
            }
            Decoder::Noise(opener) => {
                let opened = opener
                    .next(&mut self.buf, payload_limit)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                let Opened::Frame { header, payload, consumed } = opened else { return Ok(None) };
                let mut frame = header.to_bytes().to_vec();
                frame.extend_from_slice(payload);
                self.buf.drain(..consumed);
                Ok(Some(frame))
            }
        }
    }
}

impl Writer {
    /// Sends one message: a plaintext frame, header included, or a line without its end.
    pub(crate) fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(message.len() + 64);
        match &mut self.encoder {
            Encoder::Noise(sealer) => sealer.seal(message, &mut bytes).map_err(io::Error::other)?,
            Encoder::Lines => {
                bytes.extend_from_slice(message);
                bytes.push(b'\n');
            }
        }
        self.stream.write_all(&bytes)
    }

    /// The socket, for bytes that are no message.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as u32)
}

/// Bytes for keys.
pub(crate) fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
}
