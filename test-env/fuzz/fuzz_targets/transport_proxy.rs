//! The head of a connection behind a proxy, versions 1 and 2 of the PROXY protocol: what is taken is a header and not a
//! byte more, however it arrives, and another implementation reads the same address in it.
#![no_main]

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::str::FromStr;
use std::task::{Context, Poll, Waker};

use adit_transport::CloseReason;
use libfuzzer_sys::fuzz_target;
use ppp::{v1, v2};
use tokio::io::{AsyncRead, ReadBuf};

/// The module itself, which is nobody's business outside of its crate.
#[allow(dead_code)]
#[rustfmt::skip] // formatted where it lives
#[path = "../../../utils/transport/src/proxy.rs"]
mod proxy;

/// What the module takes at most, as it says.
const MAX_LINE: usize = 107;
const MAX_BODY: usize = 2_048;

fuzz_target!(|data: &[u8]| {
    let Some((piece, bytes)) = data.split_first() else { return };
    let (whole, taken) = read(bytes, usize::MAX);
    assert_eq!(read(bytes, usize::from(*piece) + 1), (whole, taken), "in pieces");
    match &whole {
        Ok(source) => {
            assert_eq!(*source, model(&bytes[..taken]));
            // A header is whole in itself, and what follows it is nothing to it.
            assert_eq!(read(&bytes[..taken], 1), (whole, taken));
            let short = &bytes[..taken - 1];
            assert_eq!(read(short, 1).0, Err(CloseReason::PeerClosed));
        }
        Err(CloseReason::PeerClosed) => assert_eq!(taken, bytes.len()),
        Err(CloseReason::BadProxyHeader) => {
            assert!(taken <= MAX_LINE.max(16 + MAX_BODY));
            refused(&bytes[..taken]);
        }
        Err(other) => panic!("{other}"),
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        networks(text);
    }
});

/// Whose address another implementation reads in a header that we took.
fn model(header: &[u8]) -> Option<SocketAddr> {
    if header.starts_with(v2::PROTOCOL_PREFIX) {
        let theirs = v2::Header::try_from(header);
        return match theirs.map(|header| (header.command, header.addresses)) {
            Ok((v2::Command::Local, _)) => None,
            Ok((_, v2::Addresses::IPv4(ip))) if header[13] & 0xf == 1 => {
                Some((ip.source_address, ip.source_port).into())
            }
            Ok((_, v2::Addresses::IPv6(ip))) if header[13] & 0xf == 1 => {
                Some((ip.source_address, ip.source_port).into())
            }
            // Other families and datagrams name nobody that could have connected.
            Ok(_) => None,
            // Of a proxy that speaks for itself, and of what is not TCP over IP, the rest is nothing to us.
            Err(_) => {
                assert!(header[12] == 0x20 || !matches!(header[13], 0x11 | 0x21));
                None
            }
        };
    }
    match v1::Header::try_from(header) {
        Ok(theirs) => match theirs.addresses {
            v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
            v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
            v1::Addresses::Unknown => None,
        },
        Err(error) => {
            // Differences that are known: what stands in a line without a source is nothing to us, nor is it to us
            // of which family a destination is.
            let line = std::str::from_utf8(header).expect("a line that was taken");
            let words: Vec<_> = line.trim_end_matches("\r\n").split(' ').collect();
            match words[..] {
                ["PROXY", "UNKNOWN", ..] => None,
                ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, from, to] => {
                    let ip: IpAddr = source.parse().expect("an address that was taken");
                    assert_eq!(ip.is_ipv4(), family == "TCP4");
                    let other = destination.parse::<IpAddr>().expect("the other address");
                    let odd = |port: &str| {
                        port.len() > 1 && !port.starts_with(|c| matches!(c, '1'..='9'))
                    };
                    assert!(other.is_ipv4() != ip.is_ipv4() || odd(from) || odd(to), "{error}");
                    Some((ip, from.parse().expect("a port that was taken")).into())
                }
                _ => panic!("taken: {line:?}, and they say {error}"),
            }
        }
    }
}

/// What we refuse no proxy sends.
fn refused(start: &[u8]) {
    if let Ok(theirs) = v2::Header::try_from(start) {
        // All of it was read, but for a body that is longer than any.
        assert!(theirs.length() > MAX_BODY, "refused: {theirs:?}");
    }
    if start.ends_with(b"\r\n")
        && let Ok(theirs) = v1::Header::try_from(start)
        // They end a line at any carriage return.
        && theirs.header.len() == start.len()
    {
        panic!("refused: {theirs:?}");
    }
}

/// Reads a header from a stream that brings so many bytes at a time; says how many were taken of it.
fn read(bytes: &[u8], piece: usize) -> (Result<Option<SocketAddr>, CloseReason>, usize) {
    let mut stream = Pieces { bytes, piece, rests: false };
    let result = {
        let mut reading = pin!(proxy::read_header(&mut stream));
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(result) = reading.as_mut().poll(&mut cx) {
                break result;
            }
        }
    };
    (result, bytes.len() - stream.bytes.len())
}

struct Pieces<'a> {
    bytes: &'a [u8],
    piece: usize,
    /// Nothing is there, every other time.
    rests: bool,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.rests = !self.rests;
        if self.rests {
            return Poll::Pending;
        }
        let take = self.piece.min(self.bytes.len()).min(buf.remaining());
        let (now, later) = self.bytes.split_at(take);
        buf.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

/// A network as an operator writes it: shown, it reads the same, and its own address is in it.
fn networks(text: &str) {
    let Ok(network) = proxy::Network::from_str(text) else { return };
    assert_eq!(network.to_string().parse(), Ok(network));
    let address: IpAddr = text.split('/').next().expect("a part").parse().expect("an address");
    assert!(network.contains(address));
}
