//! Connections to servers that a mining server is itself a client of.

use std::time::{Duration, Instant};

use adit_sv2::codec::Str0255;
use adit_sv2::keys::Sv2Url;
use adit_sv2::messages::common::{PROTOCOL_VERSION, SetupConnection};
use adit_transport::{Now, PeerId};

/// For an answer to `SetupConnection`.
pub const SETUP_DEADLINE: Duration = Duration::from_secs(10);
/// Why the connection to a server that refuses us is closed.
pub const REFUSED: &str = "setup-connection-refused";

/// How far the connection is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LinkState {
    /// There is none, for this reason.
    Down(String),
    /// `SetupConnection` is sent.
    SettingUp(PeerId, Instant),
    /// It may be asked for things.
    Ready(PeerId),
}

impl Default for LinkState {
    fn default() -> Self {
        Self::Down("not connected yet".to_owned())
    }
}

impl LinkState {
    /// The connection, where there is one.
    pub fn peer(&self) -> Option<PeerId> {
        match self {
            Self::Ready(peer) | Self::SettingUp(peer, _) => Some(*peer),
            Self::Down(_) => None,
        }
    }

    /// The connection, where it takes messages.
    pub fn ready(&self) -> Option<PeerId> {
        match self {
            Self::Ready(peer) => Some(*peer),
            Self::Down(_) | Self::SettingUp(..) => None,
        }
    }

    /// The connection, where there is no answer to `SetupConnection` for too long.
    pub fn overdue(&self, now: Now) -> Option<PeerId> {
        match self {
            Self::SettingUp(peer, since) => {
                (now.instant.duration_since(*since) >= SETUP_DEADLINE).then_some(*peer)
            }
            Self::Down(_) | Self::Ready(_) => None,
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Self::Down(reason) => format!("down: {reason}"),
            Self::SettingUp(..) => "setting up".to_owned(),
            Self::Ready(_) => "ready".to_owned(),
        }
    }

    /// What the dialler says of a connection that is not there, and whether that is news: of a server that refuses us
    /// more is known than that.
    pub fn unreachable(&mut self, reason: &str) -> bool {
        match self {
            Self::Down(known) if reason != REFUSED => {
                reason.clone_into(known);
                true
            }
            _ => false,
        }
    }
}

/// Our `SetupConnection` to a server. `program` is our name, `firmware` name and version.
pub fn setup_connection<'a>(
    (program, firmware): (&'a str, &'a str),
    protocol: u8,
    flags: u32,
    url: &'a Sv2Url,
) -> SetupConnection<'a> {
    SetupConnection {
        protocol,
        min_version: PROTOCOL_VERSION,
        max_version: PROTOCOL_VERSION,
        flags,
        endpoint_host: Str0255::cut(&url.host),
        endpoint_port: url.port,
        vendor: Str0255::cut("adit"),
        hardware_version: Str0255::cut(program),
        firmware: Str0255::cut(firmware),
        device_id: Str0255::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_says_what_may_be_done() {
        let (now, peer) = (Now::read(), PeerId(7));
        let mut state = LinkState::default();
        assert_eq!((state.peer(), state.describe().as_str()), (None, "down: not connected yet"));
        assert!(state.unreachable("no route") && !state.unreachable(REFUSED));
        assert_eq!(state.describe(), "down: no route");
        state = LinkState::SettingUp(peer, now.instant);
        assert_eq!((state.peer(), state.ready()), (Some(peer), None));
        assert_eq!(state.overdue(now), None);
        assert_eq!(state.overdue(now.later(SETUP_DEADLINE)), Some(peer));
        assert!(!state.unreachable("no route"));
        state = LinkState::Ready(peer);
        assert_eq!((state.ready(), state.overdue(now.later(SETUP_DEADLINE))), (Some(peer), None));
    }
}
