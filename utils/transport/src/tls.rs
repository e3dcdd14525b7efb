//! TLS of line listeners, with rustls. The same one lock as for everything else orders what is written; a lock of the
//! session itself is between reading and writing.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::metrics::Side;
use crate::noise::measured;
use crate::{CloseReason, TransportMetrics};

/// Bytes read at once in a handshake: a ClientHello and more.
const HANDSHAKE_READ: usize = 4 << 10;

/// The certificate that a listener shows. It can be replaced while the listener works.
pub struct TlsServer {
    config: RwLock<Arc<ServerConfig>>,
}

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be read.
    #[error("certificate: {0}")]
    Certificate(String),
    /// The secret key cannot be read.
    #[error("key: {0}")]
    Key(String),
    /// They do not belong together, or are of a kind that is not known.
    #[error("{0}")]
    Unusable(rustls::Error),
}

impl TlsServer {
    /// From a certificate chain and its secret key, both PEM.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn new(certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        Ok(Self { config: RwLock::new(config(certificate, key)?) })
    }

    /// Shows another certificate from now on; connections there are keep theirs.
    ///
    /// # Errors
    /// [`TlsError`]; the old one stays.
    pub fn replace(&self, certificate: &[u8], key: &[u8]) -> Result<(), TlsError> {
        let config = config(certificate, key)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// The handshake.
    pub(crate) async fn accept(
        &self,
        stream: &mut TcpStream,
        time: Duration,
        metrics: &TransportMetrics,
    ) -> Result<Arc<TlsSession>, CloseReason> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        let connection = ServerConnection::new(config).map_err(|_| CloseReason::TlsFailed)?;
        measured(Side::Tls, time, metrics, async {
            let session = Arc::new(TlsSession(Mutex::new(connection)));
            let mut received = [0; HANDSHAKE_READ];
            let mut said = Vec::new();
            loop {
                session.take_sealed(&mut said)?;
                if !said.is_empty() {
                    stream.write_all(&said).await?;
                    said.clear();
                }
                if !session.lock().is_handshaking() {
                    return Ok(session);
                }
                let read = stream.read(&mut received).await?;
                if read == 0 {
                    return Err(CloseReason::PeerClosed);
                }
                // What follows the handshake in the same read stays in the session.
                if let Err(reason) = session.receive(&received[..read]) {
                    // What is wrong is told to the other end, if it listens.
                    let _ = session.take_sealed(&mut said);
                    let _ = stream.try_write(&said);
                    return Err(reason);
                }
            }
        })
        .await
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsServer")
    }
}

fn config(certificate: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| TlsError::Certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(TlsError::Certificate("no certificate in PEM".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| TlsError::Key(e.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Unusable)?;
    // Nothing is kept for clients that come back: connections of miners live for days.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// TLS of one connection.
pub(crate) struct TlsSession(Mutex<ServerConnection>);

impl TlsSession {
    /// Opens what was received; what is inside is appended to `plain`. Whether there is something to say: an alert, or
    /// an answer to new keys.
    pub(crate) fn open(&self, sealed: &[u8], plain: &mut Vec<u8>) -> Result<bool, CloseReason> {
        let mut connection = self.lock();
        let mut rest = sealed;
        loop {
            if drain(&mut connection, plain)? {
                return Err(CloseReason::PeerClosed);
            }
            if rest.is_empty() {
                return Ok(connection.wants_write());
            }
            receive(&mut connection, &mut rest)?;
        }
    }

    /// Seals bytes; they are appended to `sealed`, along with what the session itself has to say.
    pub(crate) fn seal(&self, plain: &[u8], sealed: &mut Vec<u8>) -> Result<(), CloseReason> {
        let mut connection = self.lock();
        // Without a limit it takes everything.
        connection.set_buffer_limit(None);
        connection.writer().write_all(plain)?;
        take_sealed(&mut connection, sealed)
    }

    /// The last message: nothing more comes.
    pub(crate) fn seal_close(&self, sealed: &mut Vec<u8>) -> Result<(), CloseReason> {
        let mut connection = self.lock();
        connection.send_close_notify();
        take_sealed(&mut connection, sealed)
    }

    /// What the session itself has to say.
    pub(crate) fn take_sealed(&self, sealed: &mut Vec<u8>) -> Result<(), CloseReason> {
        take_sealed(&mut self.lock(), sealed)
    }

    /// Takes what was received in; nothing of it is read out.
    fn receive(&self, sealed: &[u8]) -> Result<(), CloseReason> {
        let mut connection = self.lock();
        let mut rest = sealed;
        while !rest.is_empty() {
            receive(&mut connection, &mut rest)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, ServerConnection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsSession")
    }
}

fn receive(connection: &mut ServerConnection, rest: &mut &[u8]) -> Result<(), CloseReason> {
    if connection.read_tls(rest).map_err(|_| CloseReason::TlsFailed)? == 0 {
        // It has said that nothing more comes, and says more.
        return Err(CloseReason::PeerClosed);
    }
    connection.process_new_packets().map_err(|_| CloseReason::TlsFailed)?;
    Ok(())
}

/// Reads out what is open; whether the peer has said that nothing more comes.
fn drain(connection: &mut ServerConnection, plain: &mut Vec<u8>) -> Result<bool, CloseReason> {
    match connection.reader().read_to_end(plain) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(_) => Err(CloseReason::TlsFailed),
    }
}

fn take_sealed(connection: &mut ServerConnection, to: &mut Vec<u8>) -> Result<(), CloseReason> {
    while connection.wants_write() {
        connection.write_tls(to)?;
    }
    Ok(())
}
