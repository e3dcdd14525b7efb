//! The PROXY protocol, versions 1 and 2: a proxy in front of a listener says whom a connection comes from.
//!
//! After HAProxy's `proxy-protocol.txt`. Only who is trusted is listened to, since whoever sends the header can name any
//! address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::CloseReason;

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header of version 1, line end included.
const MAX_LINE: usize = 107;
/// Longest body of version 2 that is read: addresses of 216 bytes and more TLVs than anybody sends.
const MAX_BODY: usize = 2_048;

/// A network: an address and how many of its leading bits count, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

/// A text that is no network.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is no network: expected an address, or an address and bits such as 10.0.0.0/8")]
pub struct NotANetwork(String);

impl Network {
    /// Whether an address is in it. An IPv4 address is one, however written.
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |own: u128, other: u128, width: u32| {
            let shift = width - self.bits.min(width);
            own.checked_shr(shift).unwrap_or(0) == other.checked_shr(shift).unwrap_or(0)
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                same(own.to_bits().into(), other.to_bits().into(), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => same(own.to_bits(), other.to_bits(), 128),
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let wrong = || NotANetwork(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(width), |bits| bits.parse().map_err(|_| wrong()))?;
        if bits > width {
            return Err(wrong());
        }
        Ok(Self { address: address.to_canonical(), bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Reads the header and nothing behind it. `None` where the proxy speaks for itself: a health check.
pub(crate) async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>, CloseReason> {
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let [version_command, family, length @ ..] = rest;
        let length = usize::from(u16::from_be_bytes(length));
        if length > MAX_BODY {
            return Err(CloseReason::BadProxyHeader);
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        return version_2(version_command, family, &body).ok_or(CloseReason::BadProxyHeader);
    }
    let mut line = start.to_vec();
    if !line.starts_with(b"PROXY ") {
        return Err(CloseReason::BadProxyHeader);
    }
    // Byte by byte: what is behind the line is not ours to take.
    while !line.ends_with(b"\r\n") {
        if line.len() == MAX_LINE {
            return Err(CloseReason::BadProxyHeader);
        }
        line.push(stream.read_u8().await?);
    }
    version_1(&line).ok_or(CloseReason::BadProxyHeader)
}

/// `None` if it is wrong, `Some(None)` if it names nobody.
fn version_1(line: &[u8]) -> Option<Option<SocketAddr>> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    let mut words = line.split(' ');
    if words.next() != Some("PROXY") {
        return None;
    }
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (source, destination) = (words.next()?, words.next()?);
    let address: IpAddr = match family {
        "TCP4" => source.parse::<Ipv4Addr>().ok()?.into(),
        "TCP6" => source.parse::<Ipv6Addr>().ok()?.into(),
        _ => return None,
    };
    destination.parse::<IpAddr>().ok()?;
    let (port, _): (u16, u16) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    if words.next().is_some() {
        return None;
    }
    Some(Some(SocketAddr::new(address, port)))
}

fn version_2(version_command: u8, family: u8, body: &[u8]) -> Option<Option<SocketAddr>> {
    match version_command {
        0x20 => return Some(None),
        0x21 => {}
        _ => return None,
    }
    match family {
        // TCP over IPv4: source, destination, ports.
        0x11 => {
            let (address, rest) = body.split_first_chunk::<4>()?;
            let port = rest.get(4..)?.first_chunk::<4>()?.first_chunk::<2>()?;
            Some(Some((Ipv4Addr::from(*address), u16::from_be_bytes(*port)).into()))
        }
        // TCP over IPv6.
        0x21 => {
            let (address, rest) = body.split_first_chunk::<16>()?;
            let port = rest.get(16..)?.first_chunk::<4>()?.first_chunk::<2>()?;
            Some(Some((Ipv6Addr::from(*address), u16::from_be_bytes(*port)).into()))
        }
        // Other families, and what is not known, are to be taken as they are (2.2 of the text).
        _ => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> (Result<Option<SocketAddr>, CloseReason>, usize) {
        let mut rest = bytes;
        let result = read_header(&mut rest).await;
        (result, rest.len())
    }

    fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[version_command, family], &length, body].concat()
    }

    #[tokio::test]
    async fn version_1_as_haproxy_sends_it() {
        for (header, source) in [
            ("PROXY TCP4 192.0.2.7 198.51.100.1 56324 34255\r\n", Some("192.0.2.7:56324")),
            ("PROXY TCP6 2001:db8::7 2001:db8::1 5 6\r\n", Some("[2001:db8::7]:5")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
        ] {
            let line = format!("{header}{{\"id\":1");
            let (result, left) = read(line.as_bytes()).await;
            assert_eq!(result, Ok(source.map(|s| s.parse().unwrap())), "{header}");
            assert_eq!(left, 7, "what is behind the header is left alone");
        }
    }

    #[tokio::test]
    async fn version_2_as_haproxy_sends_it() {
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 4, 0x85, 0xcf];
        let with_tlv = [&v4[..], &[4, 0, 1, 0]].concat();
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        v6[15] = 7;
        v6[33] = 5;
        for (header, source) in [
            (v2(0x21, 0x11, &v4), Some("192.0.2.7:56324")),
            (v2(0x21, 0x11, &with_tlv), Some("192.0.2.7:56324")),
            (v2(0x21, 0x21, &v6), Some("[2001:db8::7]:5")),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ] {
            let bytes = [&header[..], b"{\"id\":1"].concat();
            let (result, left) = read(&bytes).await;
            assert_eq!(result, Ok(source.map(|s| s.parse().unwrap())), "{header:?}");
            assert_eq!(left, 7);
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
        for line in [
            "{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[]}\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 5 6\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324 70000\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
            &long,
        ] {
            assert_eq!(read(line.as_bytes()).await.0, Err(CloseReason::BadProxyHeader), "{line}");
        }
        for header in [v2(0x11, 0x11, &[0; 12]), v2(0x21, 0x11, &[0; 11]), v2(0x21, 0, &[0; 4000])]
        {
            assert_eq!(read(&header).await.0, Err(CloseReason::BadProxyHeader));
        }
        assert_eq!(read(b"PROXY TCP4").await.0, Err(CloseReason::PeerClosed));
    }

    #[test]
    fn networks() {
        let network: Network = "10.1.0.0/16".parse().unwrap();
        let contains = |text: &str| network.contains(text.parse().unwrap());
        assert!(contains("10.1.255.3") && contains("::ffff:10.1.0.1"));
        assert!(!contains("10.2.0.1") && !contains("::1"));
        let one: Network = "2001:db8::1".parse().unwrap();
        assert!(one.contains("2001:db8::1".parse().unwrap()));
        assert!(!one.contains("2001:db8::2".parse().unwrap()));
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(
            all.contains("203.0.113.9".parse().unwrap()) && !all.contains("::1".parse().unwrap())
        );
        for text in ["", "x", "10.0.0.0/33", "10.0.0.0/x", "::/129", "10.0.0.0/-1"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        assert_eq!(network.to_string(), "10.1.0.0/16");
    }
}
