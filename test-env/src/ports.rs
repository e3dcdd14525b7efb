//! Free ports of the loopback.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

/// Where a lab's node listens by default: left alone by [`free_port`].
pub const NODE_RPC: u16 = 18443;

/// A port of the loopback that is free, and that this function gives to nobody else while this process lives: it belongs
/// to its server also while that is down. The UDP port of the same number stands for it.
///
/// It lies below the range from which the system takes ports for outgoing connections: a server that is killed and
/// comes back must find its port free, and a client that tries meanwhile must not get it as its own.
///
/// # Errors
/// None is free.
pub fn free_port() -> Result<u16> {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(u32::MAX);
    static HELD: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    // Programs that run side by side begin at different places.
    let begin = std::process::id().wrapping_mul(97) % COUNT;
    let _ = NEXT.compare_exchange(u32::MAX, begin, Ordering::Relaxed, Ordering::Relaxed);
    for _ in 0..COUNT {
        let port = (FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) as u16;
        let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
        if port != NODE_RPC && is_free(port) {
            HELD.lock().unwrap_or_else(PoisonError::into_inner).push(claim);
            return Ok(port);
        }
    }
    bail!("no port is free")
}

/// Whether nobody listens there now.
///
/// It does not listen there to find out: a program that another thread starts at that moment would listen as well, until
/// it runs.
pub fn is_free(port: u16) -> bool {
    let claim = || -> rustix::io::Result<()> {
        let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        // As servers do, who then share the port with whoever does not listen.
        set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
    };
    claim().is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Command;
    use std::thread;

    use super::*;

    /// Until it runs, a program that is started has what the process that starts it has open at that moment.
    #[test]
    fn a_free_port_is_free_while_programs_are_started() {
        let starter = thread::spawn(|| {
            for _ in 0..100 {
                assert!(Command::new("true").status().unwrap().success());
            }
        });
        let port = free_port().unwrap();
        while !starter.is_finished() {
            assert!(is_free(port));
        }
        starter.join().unwrap();
    }

    #[test]
    fn a_port_is_given_once() {
        let port = free_port().unwrap();
        assert!(is_free(port), "for the server");
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(!is_free(port), "any more");
        drop(server);
        assert!(UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_err(), "for nobody else");
        assert_ne!(free_port().unwrap(), port);
    }
}
