//! Noise handshakes over a TCP stream.

use std::io;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use adit_sv2::keys::{AuthorityPublicKey, AuthoritySecretKey};
use adit_sv2::noise::{
    ACT1_LEN, ACT2_LEN, Initiator, Opener, Responder, ResponderIdentity, Sealer, Validity,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::metrics::Side;
use crate::{CloseReason, Now, TransportMetrics};

/// What a server shows in handshakes: its static key, made when it starts, and the certificate of its authority for it,
/// signed anew every minute.
#[derive(Debug)]
pub struct NoiseServer {
    identity: RwLock<ResponderIdentity>,
}

impl NoiseServer {
    /// Makes the static key and certifies it.
    ///
    /// # Errors
    /// The operating system has no random numbers.
    pub fn new(authority: AuthoritySecretKey, validity: Validity) -> io::Result<Self> {
        let now = Now::read().unix_secs();
        let identity = ResponderIdentity::new(authority, validity, now, entropy()?);
        Ok(Self { identity: RwLock::new(identity) })
    }

    /// The key that clients are to be told.
    pub fn authority(&self) -> AuthorityPublicKey {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).authority()
    }

    fn respond(
        &self,
        act1: &[u8; ACT1_LEN],
    ) -> Result<([u8; ACT2_LEN], Sealer, Opener), CloseReason> {
        let now = Now::read().unix_secs();
        let entropy = entropy()?;
        let mut identity = self.identity.read().unwrap_or_else(PoisonError::into_inner);
        if identity.is_due(now) {
            drop(identity);
            let [signing] = self::entropy()?;
            self.identity.write().unwrap_or_else(PoisonError::into_inner).renew(now, &signing);
            identity = self.identity.read().unwrap_or_else(PoisonError::into_inner);
        }
        Ok(Responder::respond(&identity, act1, entropy)?)
    }
}

/// The server's side.
pub(crate) async fn respond(
    stream: &mut TcpStream,
    server: &NoiseServer,
    time: Duration,
    metrics: &TransportMetrics,
) -> Result<(Sealer, Opener), CloseReason> {
    measured(Side::Responder, time, metrics, async {
        let mut act1 = [0; ACT1_LEN];
        stream.read_exact(&mut act1).await?;
        let (act2, sealer, opener) = server.respond(&act1)?;
        stream.write_all(&act2).await?;
        Ok((sealer, opener))
    })
    .await
}

/// The client's side.
pub(crate) async fn initiate(
    stream: &mut TcpStream,
    expected: Option<AuthorityPublicKey>,
    clock_tolerance: Duration,
    time: Duration,
    metrics: &TransportMetrics,
) -> Result<(Sealer, Opener), CloseReason> {
    measured(Side::Initiator, time, metrics, async {
        let (initiator, act1) = Initiator::new(expected, entropy()?);
        stream.write_all(&act1).await?;
        let mut act2 = [0; ACT2_LEN];
        stream.read_exact(&mut act2).await?;
        let tolerance = u32::try_from(clock_tolerance.as_secs()).unwrap_or(u32::MAX);
        let now = Now::read().unix_secs();
        let (sealer, opener, _) = initiator.finish(&act2, now, tolerance)?;
        Ok((sealer, opener))
    })
    .await
}

pub(crate) async fn measured<T>(
    side: Side,
    time: Duration,
    metrics: &TransportMetrics,
    handshake: impl Future<Output = Result<T, CloseReason>>,
) -> Result<T, CloseReason> {
    let started = Instant::now();
    let result = timeout(time, handshake).await.unwrap_or(Err(CloseReason::HandshakeTimeout));
    metrics.handshake(side, started.elapsed(), result.as_ref().err());
    result
}

fn entropy<const N: usize>() -> io::Result<[[u8; 32]; N]> {
    let mut bytes = [[0; 32]; N];
    getrandom::fill(bytes.as_flattened_mut()).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(bytes)
}
