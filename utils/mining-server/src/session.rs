//! The first messages of a miner's connection: what both ends need (spec 3.6.1, 5.3.1), and extensions (0x0001).

use std::net::SocketAddr;

use adit_sv2::codec::{Seq064K, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::messages::common::{
    PROTOCOL_MINING, PROTOCOL_VERSION, SetupConnection, SetupConnectionError,
    SetupConnectionSuccess,
};
use adit_sv2::messages::extensions::{
    RequestExtensions, RequestExtensionsError, RequestExtensionsSuccess,
};
use adit_sv2::messages::mining::{
    Mining, REQUIRES_EXTENDED_CHANNELS, REQUIRES_FIXED_VERSION, REQUIRES_STANDARD_JOBS,
    REQUIRES_VERSION_ROLLING, REQUIRES_WORK_SELECTION,
};
use adit_sv2::messages::{DecodeError, Message};
use adit_sv2::tlv::{EXTENSIONS_NEGOTIATION, Tlvs};
use adit_transport::{Outbox, PeerId};

/// Why a miner's connection is closed; the transport counts them.
pub mod reason {
    /// A line where frames are spoken.
    pub const LINE: &str = "line-on-a-frame-connection";
    /// A frame that cannot be read.
    pub const MALFORMED: &str = "malformed-frame";
    /// A message that clients do not send, or of another protocol.
    pub const UNEXPECTED: &str = "unexpected-message";
    /// A message before `SetupConnection`.
    pub const NO_SETUP: &str = "message-before-setup-connection";
    /// `SetupConnection` once more.
    pub const SECOND_SETUP: &str = "second-setup-connection";
    /// It was refused.
    pub const REFUSED: &str = "setup-connection-refused";
    /// No channel for too long.
    pub const IDLE: &str = "no-channel-in-time";
    /// It goes on without an extension that is required.
    pub const NO_EXTENSION: &str = "required-extension-missing";
}

/// What a server offers to every connection alike, as the spec demands of all servers behind one name (3.6.3).
#[derive(Clone, Debug)]
pub struct Offer {
    /// Whether jobs allow version rolling.
    pub version_rolling: bool,
    /// Whether custom jobs are taken.
    pub work_selection: bool,
    /// Extensions that may be asked for.
    pub supported_extensions: Vec<u16>,
    /// Extensions that must be.
    pub required_extensions: Vec<u16>,
}

impl Offer {
    fn flags(&self) -> u32 {
        let when = |offered: bool, flag: u32| if offered { flag } else { 0 };
        REQUIRES_STANDARD_JOBS
            | when(self.work_selection, REQUIRES_WORK_SELECTION)
            | when(self.version_rolling, REQUIRES_VERSION_ROLLING)
    }
}

/// What was agreed on one connection.
#[derive(Debug, Default)]
pub struct Session {
    set_up: bool,
    /// The client takes standard jobs only (`REQUIRES_STANDARD_JOBS`).
    pub standard_jobs: bool,
    /// The client brings its own jobs (`REQUIRES_WORK_SELECTION`).
    pub work_selection: bool,
    /// What the client says that it is.
    pub vendor: String,
    extensions: Vec<u16>,
}

impl Session {
    /// Whether `SetupConnection` is behind it.
    pub fn is_set_up(&self) -> bool {
        self.set_up
    }

    /// Whether this extension is in force.
    pub fn has_extension(&self, id: u16) -> bool {
        self.extensions.contains(&id)
    }

    /// Whether every extension is in force without which a client is not served.
    pub fn has_required(&self, offer: &Offer) -> bool {
        offer.required_extensions.iter().all(|id| self.has_extension(*id))
    }

    /// Handles the first frame (spec 3.6.1); an error is the reason to close the connection.
    pub fn set_up<F>(
        &mut self,
        peer: PeerId,
        remote: SocketAddr,
        (header, payload): (&Header, &[u8]),
        offer: &Offer,
        out: &mut Outbox<F>,
    ) -> Result<(), &'static str> {
        if (header.extension_type, header.channel_msg, header.msg_type)
            != (0, false, SetupConnection::TYPE)
        {
            return Err(reason::NO_SETUP);
        }
        let (message, _) = SetupConnection::decode(payload).map_err(|error| {
            tracing::debug!(%peer, %error, "frame cannot be read");
            reason::MALFORMED
        })?;
        let Err((flags, code)) = self.agree(&message, offer) else {
            tracing::debug!(%peer, %remote, message = %message, "miner connected");
            let flags = self.requirements(offer);
            out.send(peer, &SetupConnectionSuccess { used_version: PROTOCOL_VERSION, flags });
            return Ok(());
        };
        tracing::info!(%peer, %remote, code, message = %message, "connection refused");
        out.send(peer, &SetupConnectionError { flags, error_code: Str0255::cut(code) });
        Err(reason::REFUSED)
    }

    /// An error is the flags at fault and the code.
    fn agree(
        &mut self,
        message: &SetupConnection<'_>,
        offer: &Offer,
    ) -> Result<(), (u32, &'static str)> {
        if message.protocol != PROTOCOL_MINING {
            return Err((0, "unsupported-protocol")); // whose flags mean something else
        }
        let unsupported = message.flags & !offer.flags();
        if !(message.min_version..=message.max_version).contains(&PROTOCOL_VERSION) {
            return Err((unsupported, "protocol-version-mismatch"));
        }
        if unsupported != 0 {
            return Err((unsupported, "unsupported-feature-flags"));
        }
        let standard_jobs = message.flags & REQUIRES_STANDARD_JOBS != 0;
        let work_selection = message.flags & REQUIRES_WORK_SELECTION != 0;
        if standard_jobs && work_selection {
            // Either is supported, but custom jobs are for extended channels, which such a client cannot have.
            return Err((0, "work-selection-needs-extended-channels"));
        }
        *self = Self {
            set_up: true,
            standard_jobs,
            work_selection,
            vendor: message.vendor.to_clean_string(),
            extensions: Vec::new(),
        };
        Ok(())
    }

    /// `SetupConnection.Success.flags`. The one about versions never meets a client that needs to roll them, which was
    /// refused.
    fn requirements(&self, offer: &Offer) -> u32 {
        let fixed_version = if offer.version_rolling { 0 } else { REQUIRES_FIXED_VERSION };
        let extended_channels = if self.work_selection { REQUIRES_EXTENDED_CHANNELS } else { 0 };
        fixed_version | extended_channels
    }

    /// Handles a message of extension 0x0001; an error is the reason to close the connection. A request is always
    /// answered; one that is refused leaves what was agreed before.
    pub fn request_extensions<F>(
        &mut self,
        peer: PeerId,
        (header, payload): (&Header, &[u8]),
        offer: &Offer,
        out: &mut Outbox<F>,
    ) -> Result<(), &'static str> {
        if (header.channel_msg, header.msg_type) != (false, RequestExtensions::TYPE) {
            return Err(reason::UNEXPECTED);
        }
        let (RequestExtensions { request_id, requested_extensions }, _) =
            RequestExtensions::decode(payload).map_err(|_| reason::MALFORMED)?;
        // The negotiation itself is in force already; who asks for it is not told that there is none.
        let known =
            |id: &u16| *id == EXTENSIONS_NEGOTIATION || offer.supported_extensions.contains(id);
        let (mut granted, mut unsupported) = (Vec::new(), Vec::new());
        let mut missing = offer.required_extensions.clone();
        for id in requested_extensions.iter() {
            missing.retain(|required| *required != id);
            if !known(&id) {
                unsupported.push(id);
            } else if !granted.contains(&id) {
                granted.push(id);
            }
        }
        let list = |ids| Seq064K::new(ids).unwrap_or_default();
        if missing.is_empty() && (unsupported.is_empty() || !granted.is_empty()) {
            let supported_extensions = list(&granted);
            out.send(peer, &RequestExtensionsSuccess { request_id, supported_extensions });
            self.extensions = granted;
        } else {
            let (unsupported_extensions, required_extensions) =
                (list(&unsupported), list(&missing));
            let refused =
                RequestExtensionsError { request_id, unsupported_extensions, required_extensions };
            out.send(peer, &refused);
        }
        Ok(())
    }
}

/// Reads a frame of a miner whose session is set up; an error is the reason to close the connection.
#[inline]
pub fn mining_message<'a>(
    peer: PeerId,
    header: &Header,
    payload: &'a [u8],
) -> Result<(Mining<'a>, Tlvs<'a>), &'static str> {
    Mining::decode(header, payload).map_err(|error| match error {
        DecodeError::Unknown { msg_type: SetupConnection::TYPE, .. } => reason::SECOND_SETUP,
        DecodeError::Unknown { .. } => {
            tracing::debug!(%peer, %error, "message of another protocol");
            reason::UNEXPECTED
        }
        error => {
            tracing::debug!(%peer, %error, "frame cannot be read");
            reason::MALFORMED
        }
    })
}
