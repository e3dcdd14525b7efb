//! The first messages of a miner's connection (spec 3.6.1, 5.3.1), and extension 0x0001.

use adit_sv2::codec::{Seq064K, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::messages::Message;
use adit_sv2::messages::common::{
    PROTOCOL_MINING, PROTOCOL_VERSION, SetupConnection, SetupConnectionError,
    SetupConnectionSuccess,
};
use adit_sv2::messages::extensions::{
    RequestExtensions, RequestExtensionsError, RequestExtensionsSuccess,
};
use adit_sv2::messages::mining::{REQUIRES_STANDARD_JOBS, REQUIRES_VERSION_ROLLING};
use adit_sv2::tlv::{EXTENSIONS_NEGOTIATION, WORKER_HASHRATE_TRACKING};
use adit_transport::{Outbox, PeerId};

use super::Effect;
use super::downstream::reason;

/// Features of `SetupConnection` that we have; others are refused. Miners below us do not bring their own jobs.
const SUPPORTED_FLAGS: u32 = REQUIRES_STANDARD_JOBS | REQUIRES_VERSION_ROLLING;

/// Extensions that a client may ask for.
const KNOWN_EXTENSIONS: [u16; 2] = [EXTENSIONS_NEGOTIATION, WORKER_HASHRATE_TRACKING];

/// What a client said of itself.
#[derive(Debug)]
pub(super) struct Introduction {
    /// It takes standard jobs only (`REQUIRES_STANDARD_JOBS`).
    pub(super) standard_jobs: bool,
    /// What it is.
    pub(super) vendor: String,
    /// Its shares name their workers (extension 0x0002).
    pub(super) worker_names: bool,
}

/// Answers the first frame; an error is the reason to close the connection.
pub(super) fn set_up(
    peer: PeerId,
    header: &Header,
    payload: &[u8],
    out: &mut Outbox<Effect>,
) -> Result<Introduction, &'static str> {
    if (header.extension_type, header.channel_msg, header.msg_type)
        != (0, false, SetupConnection::TYPE)
    {
        return Err(reason::NO_SETUP);
    }
    let (message, _) = SetupConnection::decode(payload).map_err(|error| {
        tracing::debug!(%peer, %error, "frame cannot be read");
        reason::MALFORMED
    })?;
    let unsupported = message.flags & !SUPPORTED_FLAGS;
    let (flags, code) = if message.protocol != PROTOCOL_MINING {
        (0, "unsupported-protocol") // whose flags mean something else
    } else if !(message.min_version..=message.max_version).contains(&PROTOCOL_VERSION) {
        (unsupported, "protocol-version-mismatch")
    } else if unsupported != 0 {
        (unsupported, "unsupported-feature-flags")
    } else {
        tracing::debug!(%peer, message = %message, "miner connected");
        out.send(peer, &SetupConnectionSuccess { used_version: PROTOCOL_VERSION, flags: 0 });
        return Ok(Introduction {
            standard_jobs: message.flags & REQUIRES_STANDARD_JOBS != 0,
            vendor: message.vendor.to_clean_string(),
            worker_names: false,
        });
    };
    tracing::info!(%peer, code, message = %message, "connection refused");
    out.send(peer, &SetupConnectionError { flags, error_code: Str0255::cut(code) });
    Err(reason::REFUSED)
}

impl Introduction {
    /// Extension 0x0001: always answered. Names of workers (0x0002) are taken, and the negotiation itself is in force; no
    /// other extension is supported. A request that is refused leaves what was agreed before.
    pub(super) fn request_extensions(
        &mut self,
        peer: PeerId,
        header: &Header,
        payload: &[u8],
        out: &mut Outbox<Effect>,
    ) -> Result<(), &'static str> {
        if (header.channel_msg, header.msg_type) != (false, RequestExtensions::TYPE) {
            return Err(reason::UNEXPECTED);
        }
        let (RequestExtensions { request_id, requested_extensions }, _) =
            RequestExtensions::decode(payload).map_err(|_| reason::MALFORMED)?;
        let asked = |id: u16| requested_extensions.iter().any(|asked| asked == id);
        let granted: Vec<u16> = KNOWN_EXTENSIONS.into_iter().filter(|id| asked(*id)).collect();
        let unsupported: Vec<u16> =
            requested_extensions.iter().filter(|id| !KNOWN_EXTENSIONS.contains(id)).collect();
        if unsupported.is_empty() || !granted.is_empty() {
            self.worker_names = granted.contains(&WORKER_HASHRATE_TRACKING);
            let supported_extensions = Seq064K::new(&granted).unwrap_or_default();
            out.send(peer, &RequestExtensionsSuccess { request_id, supported_extensions });
        } else {
            let unsupported_extensions = Seq064K::new(&unsupported).unwrap_or_default();
            let required_extensions = Seq064K::default();
            let refused =
                RequestExtensionsError { request_id, unsupported_extensions, required_extensions };
            out.send(peer, &refused);
        }
        Ok(())
    }
}
