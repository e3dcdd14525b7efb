//! What a server pays for a connection.

use std::time::Duration;

use adit_sv2::frame::Header;
use adit_sv2::noise::{
    ACT1_LEN, ACT2_LEN, Initiator, Opened, Responder, ResponderIdentity, Validity,
};
use anyhow::ensure;
use codec_sv2::{Handshake, MessageFrame, NoiseEncoder};

use crate::measure::{Item, Side, Timed, compare, timed};
use crate::wire::{authority, entropy, now, peer_error, secret_bytes};

/// Connections per round.
const HANDSHAKES: usize = 100;

/// The first handshake message comes in, the second goes out, and both directions are ready.
///
/// Adit: the static key, its encoding and a certificate signed within the last minute are there; per
/// connection the operating system's randomness, an ephemeral key, two key agreements. SRI: as its
/// `accept_noise_connection` does, a `Responder` from the authority's key pair per connection (which
/// makes both keys), `step_1` (which signs a certificate), `split`. Both sides get the same first
/// messages. Check: the initiator accepts the answer and its certificate, and opens a frame sealed
/// by the responder.
pub(crate) fn responder_handshake(rounds: usize) -> anyhow::Result<Item> {
    let (mut ours, mut peer) = (Ours { identity: identity()? }, Peer);
    compare("responder_handshake", rounds, &mut ours, &mut peer)
}

struct Ours {
    identity: ResponderIdentity,
}

impl Side for Ours {
    fn round(&mut self, round: usize) -> anyhow::Result<(Timed, Vec<u8>)> {
        let (initiators, act1s) = initiators(round)?;
        let (time, answers) = timed(HANDSHAKES, || {
            let mut answers = Vec::with_capacity(HANDSHAKES);
            for act1 in &act1s {
                answers.push(Responder::respond(&self.identity, act1, [entropy()?, entropy()?])?);
            }
            anyhow::Ok(answers)
        });
        for (initiator, (act2, mut sealer, _)) in initiators.into_iter().zip(answers?) {
            let mut wire = Vec::new();
            sealer.seal(&ping(), &mut wire)?;
            check(initiator, &act2, &mut wire)?;
        }
        Ok((time, Vec::new()))
    }
}

struct Peer;

impl Side for Peer {
    fn round(&mut self, round: usize) -> anyhow::Result<(Timed, Vec<u8>)> {
        let (initiators, act1s) = initiators(round)?;
        let public = *authority()?.public().as_bytes();
        let secret = secret_bytes();
        let (time, answers) = timed(HANDSHAKES, || {
            let mut answers = Vec::with_capacity(HANDSHAKES);
            for act1 in &act1s {
                let validity = Duration::from_secs(3600);
                let responder = noise_sv2::Responder::from_authority_kp(&public, &secret, validity)
                    .map_err(peer_error)?;
                let (act2, transport) =
                    Handshake::responder(responder).step_1(*act1).map_err(peer_error)?;
                answers.push((act2, transport.split()));
            }
            anyhow::Ok(answers)
        });
        for (initiator, (act2, (mut state, _))) in initiators.into_iter().zip(answers?) {
            let frame = MessageFrame::from_message(PING, 0xee, 0, false).map_err(peer_error)?;
            let mut encoder = NoiseEncoder::new();
            let sealed = encoder.encode_transport(frame, &mut state).map_err(peer_error)?;
            let mut wire = AsRef::<[u8]>::as_ref(&sealed).to_vec();
            drop(sealed);
            check(initiator, &act2.payload().try_into()?, &mut wire)?;
        }
        Ok((time, Vec::new()))
    }
}

const PING: u32 = 0x1234_5678;

/// A frame of four bytes.
fn ping() -> Vec<u8> {
    let header = Header { extension_type: 0, channel_msg: false, msg_type: 0xee, msg_length: 4 };
    [&header.to_bytes()[..], &PING.to_le_bytes()].concat()
}

fn check(initiator: Initiator, act2: &[u8; ACT2_LEN], wire: &mut [u8]) -> anyhow::Result<()> {
    let (_, mut opener, server) = initiator.finish(act2, now(), 10)?;
    ensure!(server.authority == Some(authority()?.public()));
    let opened = opener.next(wire, |_| 16)?;
    ensure!(matches!(opened, Opened::Frame { payload, .. } if payload == PING.to_le_bytes()));
    Ok(())
}

type FirstMessages = (Vec<Initiator>, Vec<[u8; ACT1_LEN]>);

/// The same ones for both sides of a round.
fn initiators(round: usize) -> anyhow::Result<FirstMessages> {
    let expected = authority()?.public();
    let seed = |i: usize, salt: u8| {
        let mut bytes = [salt; 32];
        bytes[..8].copy_from_slice(&((round * HANDSHAKES + i) as u64 + 1).to_le_bytes());
        bytes
    };
    let make = |i| Initiator::new(Some(expected), [seed(i, 1), seed(i, 2)]);
    Ok((0..HANDSHAKES).map(make).unzip())
}

fn identity() -> anyhow::Result<ResponderIdentity> {
    let entropy = [entropy()?, entropy()?, entropy()?];
    Ok(ResponderIdentity::new(authority()?, Validity::default(), now(), entropy))
}
