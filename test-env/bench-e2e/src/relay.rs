//! Between translator and pool: bytes as they are, and when they came from the pool. What is sealed stays sealed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::SystemTime;

use anyhow::Result;

/// When something came from the pool: before it went on to the translator.
type Times = Arc<Mutex<Vec<SystemTime>>>;

/// A listener in the pool's place.
pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    times: Times,
}

impl Relay {
    /// In front of `pool`, for as long as the process lives.
    pub(crate) fn start(pool: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let times = Times::default();
        let noted = times.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(pool) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let (Ok(to_server), Ok(to_client)) = (server.try_clone(), client.try_clone())
                else {
                    continue;
                };
                let noted = noted.clone();
                thread::spawn(move || pump(client, to_server, None));
                thread::spawn(move || pump(server, to_client, Some(noted)));
            }
        });
        Ok(Self { addr, times })
    }

    /// When the first thing came since then.
    pub(crate) fn first_since(&self, since: SystemTime) -> Option<SystemTime> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.iter().copied().find(|time| *time >= since)
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, times: Option<Times>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if let Some(times) = &times {
            times.lock().unwrap_or_else(PoisonError::into_inner).push(SystemTime::now());
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
