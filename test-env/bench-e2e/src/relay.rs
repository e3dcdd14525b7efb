//! Between translator and pool: bytes as they are, and when they came from the pool. What is sealed stays sealed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

/// When something came from the pool: before it went on to the translator.
type Times = Arc<Mutex<Vec<SystemTime>>>;

/// A listener in the pool's place.
pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    times: Times,
    /// When anything last went either way.
    last: Arc<Mutex<Instant>>,
}

impl Relay {
    /// In front of `pool`, for as long as the process lives.
    pub(crate) fn start(pool: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let times = Times::default();
        let last = Arc::new(Mutex::new(Instant::now()));
        let (noted, touched) = (times.clone(), last.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(pool) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let (Ok(to_server), Ok(to_client)) = (server.try_clone(), client.try_clone())
                else {
                    continue;
                };
                let (noted, up, down) = (noted.clone(), touched.clone(), touched.clone());
                thread::spawn(move || pump(client, to_server, None, &up));
                thread::spawn(move || pump(server, to_client, Some(noted), &down));
            }
        });
        Ok(Self { addr, times, last })
    }

    /// When the first thing came since then.
    pub(crate) fn first_since(&self, since: SystemTime) -> Option<SystemTime> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.iter().copied().find(|time| *time >= since)
    }

    /// Waits until nothing went either way for so long; whether that came about within `patience`.
    pub(crate) fn wait_silent(&self, silence: Duration, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let age = self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
            if age >= silence {
                return true;
            }
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            thread::sleep((silence - age).min(deadline - now));
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, times: Option<Times>, last: &Mutex<Instant>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        *last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if let Some(times) = &times {
            times.lock().unwrap_or_else(PoisonError::into_inner).push(SystemTime::now());
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
