//! Messages common to all protocols (spec 3.6).

use crate::codec::Str0255;

/// `protocol` of [`SetupConnection`]: Mining Protocol.
pub const PROTOCOL_MINING: u8 = 0;
/// `protocol` of [`SetupConnection`]: Job Declaration Protocol.
pub const PROTOCOL_JOB_DECLARATION: u8 = 1;
/// `protocol` of [`SetupConnection`]: Template Distribution Protocol.
pub const PROTOCOL_TEMPLATE_DISTRIBUTION: u8 = 2;
/// The protocol version that this crate speaks.
pub const PROTOCOL_VERSION: u16 = 2;

messages! {
    /// A common message.
    enum Common, extension 0x0000;

    /// First message of a client on every connection (3.6.1).
    0x00 "SetupConnection" SetupConnection<'a> connection {
        /// Which protocol the connection is for: 0 mining, 1 job declaration, 2 template distribution.
        protocol: u8,
        /// Smallest version that the client speaks; 2.
        min_version: u16,
        /// Largest version that the client speaks; 2.
        max_version: u16,
        /// Protocol features the client requires; meaning depends on `protocol`.
        flags: u32,
        /// Host that the client dialled.
        endpoint_host: Str0255<'a>,
        /// Port that the client dialled.
        endpoint_port: u16,
        /// Manufacturer or developer.
        vendor: Str0255<'a>,
        /// Hardware or package.
        hardware_version: Str0255<'a>,
        /// Firmware.
        firmware: Str0255<'a>,
        /// Unique id of the device as the vendor defines it; empty without telemetry.
        device_id: Str0255<'a>,
    }
    /// The connection is accepted (3.6.2).
    0x01 "SetupConnection.Success" SetupConnectionSuccess connection {
        /// The version used from now on.
        used_version: u16,
        /// Protocol features the server requires; meaning depends on the protocol.
        flags: u32,
    }
    /// The connection is refused and will be closed (3.6.3).
    0x02 "SetupConnection.Error" SetupConnectionError<'a> connection {
        /// The flags that the server does not support; 0 if that is not the reason.
        flags: u32,
        /// Why.
        error_code: Str0255<'a>,
    }
    /// Extension state of a channel must be negotiated anew (3.6.4).
    0x03 "ChannelEndpointChanged" ChannelEndpointChanged channel {
        /// The channel whose other end changed.
        channel_id: u32,
    }
    /// The client should connect elsewhere, under the same authority key (3.6.5).
    0x04 "Reconnect" Reconnect<'a> connection {
        /// Host; empty means the present one.
        new_host: Str0255<'a>,
        /// Port; 0 means the present one.
        new_port: u16,
    }
}
