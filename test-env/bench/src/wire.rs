//! Shares on the wire: encoding, sealing, opening, decoding.

use std::hint::black_box;
use std::time::Duration;

use adit_sv2::codec::B032;
use adit_sv2::frame::{self, Header, encode_frame};
use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::messages::Message;
use adit_sv2::messages::mining::{Mining, SubmitSharesExtended};
use adit_sv2::noise::{
    ACT1_LEN, ACT2_LEN, Initiator, Opened, Opener, Responder, ResponderIdentity, SealError, Sealer,
    Validity,
};
use anyhow::{Context, bail, ensure};
use codec_sv2::{
    Decrypted, Handshake, MessageFrame, NoiseDecoder, NoiseEncoder, TransportDecryptState,
    TransportEncryptState,
};

use crate::measure::{Item, Side, Timed, compare, timed};

/// Shares per round.
const SHARES: usize = 10_240;
/// Frames that Adit's driver finds in one read or puts into one write on a busy connection. SRI's reads and writes each
/// frame on its own.
const BATCH: usize = 64;

/// A message becomes sealed bytes, ready to be written.
///
/// Adit: as its driver does, a batch of messages is encoded into one buffer, sealed from there into
/// another and written at once; both are reused. SRI: `MessageFrame` of the parsers'
/// `AnyMessageOwned`, then `NoiseEncoder::encode_transport`, then a write of its own, as its
/// `NoiseTcpWriteHalf::write_frame` does. A write is a copy to the "socket" on both sides. Check: the
/// other side's end of the connection opens every frame and reads what went in.
pub(crate) fn encrypt_encode_share(rounds: usize) -> anyhow::Result<Item> {
    struct Ours(Connection<Sealer, PeerOpener>);
    impl Side for Ours {
        fn round(&mut self, round: usize) -> anyhow::Result<(Timed, Vec<u8>)> {
            let shares = shares(round);
            let messages: Vec<_> = shares.iter().map(ShareFields::ours).collect();
            let mut socket = Vec::with_capacity(SHARES * 128);
            let (mut plain, mut sealed) = (Vec::with_capacity(65_536), Vec::with_capacity(65_536));
            let sealer = &mut self.0.sends;
            let (time, result) = timed(SHARES, || {
                for batch in messages.chunks(BATCH) {
                    plain.clear();
                    sealed.clear();
                    batch.iter().for_each(|message| encode_frame(black_box(message), &mut plain));
                    sealer.seal_all(&plain, &mut sealed)?;
                    socket.extend_from_slice(&sealed);
                }
                Ok::<(), SealError>(())
            });
            result?;
            self.0.receives.check_all(&socket, &shares)?;
            Ok((time, Vec::new()))
        }
    }

    struct Peer(Connection<PeerSealer, Opener>);
    impl Side for Peer {
        fn round(&mut self, round: usize) -> anyhow::Result<(Timed, Vec<u8>)> {
            let shares = shares(round);
            let messages: Vec<_> = shares.iter().map(ShareFields::peer).collect();
            let mut socket = Vec::with_capacity(SHARES * 128);
            let sealer = &mut self.0.sends;
            let (time, result) = timed(SHARES, || {
                messages
                    .into_iter()
                    .try_for_each(|message| sealer.seal(black_box(message), &mut socket))
            });
            result?;
            let mut rest = &mut socket[..];
            for share in &shares {
                let consumed = open_ours(&mut self.0.receives, rest, share)?;
                rest = &mut rest[consumed..];
            }
            ensure!(rest.is_empty(), "bytes behind the last frame");
            Ok((time, Vec::new()))
        }
    }

    let (mut ours, mut peer) = (Ours(ours_to_peer()?), Peer(peer_to_ours()?));
    compare("encrypt_encode_share", rounds, &mut ours, &mut peer)
}

/// Sealed bytes become a typed message.
///
/// A read is a copy from the "socket" on both sides. Adit: as its driver does, reads a batch, opens
/// its frames in place and decodes borrowed. SRI: `NoiseDecoder` in its two reads per frame (header,
/// payload), then the parsers' `Mining`, as its `NoiseTcpReadHalf::read_frame` and handlers do (its
/// additional copy through `current_frame_buf` is left out). Frames were sealed by the other side.
/// Check: all fields of every message.
pub(crate) fn decrypt_decode_share(rounds: usize) -> anyhow::Result<Item> {
    struct Ours(Connection<PeerSealer, Opener>);
    impl Side for Ours {
        fn round(&mut self, round: usize) -> anyhow::Result<(Timed, Vec<u8>)> {
            let shares = shares(round);
            let mut reads = Vec::with_capacity(SHARES / BATCH);
            for batch in shares.chunks(BATCH) {
                let mut read = Vec::new();
                for share in batch {
                    self.0.sends.seal(share.peer(), &mut read)?;
                }
                reads.push(read);
            }
            let mut scratch = vec![0; 65_536];
            let opener = &mut self.0.receives;
            let (time, result) = timed(SHARES, || {
                for (read, batch) in reads.iter().zip(shares.chunks(BATCH)) {
                    let mut rest = &mut scratch[..read.len()];
                    rest.copy_from_slice(read);
                    for share in batch {
                        let consumed = open_ours(opener, rest, share)?;
                        rest = &mut rest[consumed..];
                    }
                }
                anyhow::Ok(())
            });
            result?;
            Ok((time, Vec::new()))
        }
    }

    struct Peer(Connection<Sealer, PeerOpener>);
    impl Side for Peer {
        fn round(&mut self, round: usize) -> anyhow::Result<(Timed, Vec<u8>)> {
            let shares = shares(round);
            let mut frames = Vec::with_capacity(SHARES);
            for share in &shares {
                let (mut plain, mut frame) = (Vec::new(), Vec::new());
                encode_frame(&share.ours(), &mut plain);
                self.0.sends.seal(&plain, &mut frame)?;
                frames.push(frame);
            }
            let opener = &mut self.0.receives;
            let (time, result) = timed(SHARES, || {
                frames
                    .iter()
                    .zip(&shares)
                    .try_for_each(|(frame, share)| opener.open(frame, share).map(|_| ()))
            });
            result?;
            Ok((time, Vec::new()))
        }
    }

    let (mut ours, mut peer) = (Ours(peer_to_ours()?), Peer(ours_to_peer()?));
    compare("decrypt_decode_share", rounds, &mut ours, &mut peer)
}

/// A plaintext payload becomes a message.
///
/// Adit: `SubmitSharesExtended::decode`. SRI: `binary_sv2::from_bytes`. Check: all fields of every
/// message.
pub(crate) fn plain_decode_share(rounds: usize) -> anyhow::Result<Item> {
    struct Ours;
    impl Side for Ours {
        fn round(&mut self, round: usize) -> anyhow::Result<(Timed, Vec<u8>)> {
            let shares = shares(round);
            let payloads = payloads(&shares);
            for (payload, share) in payloads.iter().zip(&shares) {
                ensure!(SubmitSharesExtended::decode(payload)?.0 == share.ours());
            }
            let (time, sum) = timed(SHARES, || {
                let mut sum = 0u64;
                for payload in &payloads {
                    let Ok((message, _)) = SubmitSharesExtended::decode(black_box(payload)) else {
                        return None;
                    };
                    sum += u64::from(black_box(&message).nonce);
                }
                Some(sum)
            });
            ensure!(sum == Some(sum_of_nonces(&shares)));
            Ok((time, Vec::new()))
        }
    }

    struct Peer;
    impl Side for Peer {
        fn round(&mut self, round: usize) -> anyhow::Result<(Timed, Vec<u8>)> {
            let shares = shares(round);
            let mut payloads = payloads(&shares);
            for (payload, share) in payloads.iter_mut().zip(&shares) {
                let message = binary_sv2::from_bytes(payload).map_err(peer_error)?;
                share.check_peer(&message)?;
            }
            let (time, sum) = timed(SHARES, || {
                let mut sum = 0u64;
                for payload in &mut payloads {
                    let decoded = binary_sv2::from_bytes(black_box(payload));
                    let message: mining_sv2::SubmitSharesExtended<'_> = decoded.ok()?;
                    sum += u64::from(black_box(&message).nonce);
                }
                Some(sum)
            });
            ensure!(sum == Some(sum_of_nonces(&shares)));
            Ok((time, Vec::new()))
        }
    }

    compare("plain_decode_share", rounds, &mut Ours, &mut Peer)
}

/// A share's fields, for both sides.
struct ShareFields {
    channel_id: u32,
    sequence_number: u32,
    job_id: u32,
    nonce: u32,
    ntime: u32,
    version: u32,
    extranonce: [u8; 8],
}

/// Distinct shares.
fn shares(round: usize) -> Vec<ShareFields> {
    let base = (round * SHARES) as u32;
    (base..base + SHARES as u32)
        .map(|i| ShareFields {
            channel_id: 7,
            sequence_number: i,
            job_id: i / 1000,
            nonce: i.wrapping_mul(0x9e37_79b9),
            ntime: 1_800_000_000 + i % 600,
            version: 0x2000_0000 | (i << 13 & 0x1fff_e000),
            extranonce: u64::from(i).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes(),
        })
        .collect()
}

impl ShareFields {
    fn ours(&self) -> SubmitSharesExtended<'_> {
        SubmitSharesExtended {
            channel_id: self.channel_id,
            sequence_number: self.sequence_number,
            job_id: self.job_id,
            nonce: self.nonce,
            ntime: self.ntime,
            version: self.version,
            extranonce: B032::new(&self.extranonce).expect("eight bytes"),
        }
    }

    fn peer(&self) -> mining_sv2::SubmitSharesExtendedOwned {
        mining_sv2::SubmitSharesExtendedOwned {
            channel_id: self.channel_id,
            sequence_number: self.sequence_number,
            job_id: self.job_id,
            nonce: self.nonce,
            ntime: self.ntime,
            version: self.version,
            extranonce: self.extranonce.try_into().expect("eight bytes"),
        }
    }

    #[inline]
    fn check_peer(&self, found: &mining_sv2::SubmitSharesExtended<'_>) -> anyhow::Result<()> {
        let same = self.channel_id == found.channel_id
            && self.sequence_number == found.sequence_number
            && self.job_id == found.job_id
            && self.nonce == found.nonce
            && self.ntime == found.ntime
            && self.version == found.version
            && self.extranonce == found.extranonce.as_bytes();
        ensure!(same, "the peer read another share");
        Ok(())
    }
}

fn payloads(shares: &[ShareFields]) -> Vec<Vec<u8>> {
    let encode = |share: &ShareFields| {
        let mut payload = Vec::new();
        share.ours().encode(&mut payload);
        payload
    };
    shares.iter().map(encode).collect()
}

fn sum_of_nonces(shares: &[ShareFields]) -> u64 {
    shares.iter().map(|share| u64::from(share.nonce)).sum()
}

/// Two ends of one direction, each of the other make.
struct Connection<S, R> {
    sends: S,
    receives: R,
}

/// Opens one of our frames at the start of `wire`; returns the bytes it took.
#[inline]
fn open_ours(opener: &mut Opener, wire: &mut [u8], share: &ShareFields) -> anyhow::Result<usize> {
    match opener.next(wire, frame::payload_limit)? {
        Opened::Frame { header, payload, consumed } => match Mining::decode(&header, payload)? {
            (Mining::SubmitSharesExtended(message), _) if message == share.ours() => Ok(consumed),
            (other, _) => bail!("read {other}"),
        },
        Opened::Incomplete { need } => bail!("{need} bytes are needed"),
    }
}

struct PeerSealer {
    encoder: NoiseEncoder,
    state: TransportEncryptState,
}

impl PeerSealer {
    #[inline]
    fn seal(
        &mut self,
        message: mining_sv2::SubmitSharesExtendedOwned,
        socket: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        use parsers_sv2::{AnyMessageOwned, MiningOwned};
        let message = AnyMessageOwned::Mining(MiningOwned::SubmitSharesExtended(message));
        let frame = MessageFrame::try_from(message).map_err(peer_error)?;
        let sealed = self.encoder.encode_transport(frame, &mut self.state).map_err(peer_error)?;
        socket.extend_from_slice(sealed.as_ref());
        Ok(())
    }
}

struct PeerOpener {
    decoder: NoiseDecoder,
    /// Taken and given back by every step.
    state: Option<TransportDecryptState>,
}

impl PeerOpener {
    /// Opens the frame at the start of `wire`, checks the message; returns the bytes it took.
    #[inline]
    fn open(&mut self, wire: &[u8], share: &ShareFields) -> anyhow::Result<usize> {
        let mut at = 0;
        let mut state = self.state.take().context("no state after an error")?;
        loop {
            let writable = self.decoder.writable();
            let end = at + writable.len();
            writable.copy_from_slice(wire.get(at..end).context("the frame is cut off")?);
            at = end;
            match self.decoder.next_transport_frame(state).map_err(peer_error)? {
                Decrypted::Incomplete(_, next) => state = next,
                Decrypted::Frame(mut frame, next) => {
                    self.state = Some(next);
                    let msg_type = frame.header().msg_type();
                    let message = (msg_type, frame.payload());
                    match parsers_sv2::Mining::try_from(message).map_err(peer_error)? {
                        parsers_sv2::Mining::SubmitSharesExtended(found) => {
                            share.check_peer(&found)?;
                        }
                        other => bail!("the peer read {other}"),
                    }
                    return Ok(at);
                }
            }
        }
    }

    fn check_all(&mut self, mut wire: &[u8], shares: &[ShareFields]) -> anyhow::Result<()> {
        for share in shares {
            let consumed = self.open(wire, share)?;
            wire = &wire[consumed..];
        }
        ensure!(wire.is_empty(), "bytes behind the last frame");
        Ok(())
    }
}

/// Adit dials SRI.
fn ours_to_peer() -> anyhow::Result<Connection<Sealer, PeerOpener>> {
    let authority = authority()?;
    let secret = secret_bytes();
    let validity = Duration::from_secs(3600);
    let responder =
        noise_sv2::Responder::from_authority_kp(authority.public().as_bytes(), &secret, validity)
            .map_err(peer_error)?;
    let (initiator, act1) = Initiator::new(Some(authority.public()), [entropy()?, entropy()?]);
    let (act2, transport) = Handshake::responder(responder).step_1(act1).map_err(peer_error)?;
    let act2: [u8; ACT2_LEN] = act2.payload().try_into()?;
    let (sends, _, _) = initiator.finish(&act2, now(), 10)?;
    let state = Some(transport.split().1);
    Ok(Connection { sends, receives: PeerOpener { decoder: NoiseDecoder::new(), state } })
}

/// SRI dials Adit.
fn peer_to_ours() -> anyhow::Result<Connection<PeerSealer, Opener>> {
    let authority = authority()?;
    let public = *authority.public().as_bytes();
    let identity = ResponderIdentity::new(
        authority,
        Validity::default(),
        now(),
        [entropy()?, entropy()?, entropy()?],
    );
    let initiator = noise_sv2::Initiator::from_raw_k(public).map_err(peer_error)?;
    let (act1, initiator) = Handshake::initiator(initiator).step_0().map_err(peer_error)?;
    let act1: [u8; ACT1_LEN] = act1.payload().try_into()?;
    let (act2, _, receives) = Responder::respond(&identity, &act1, [entropy()?, entropy()?])?;
    let (state, _) = initiator.step_2(act2).map_err(peer_error)?.split();
    Ok(Connection { sends: PeerSealer { encoder: NoiseEncoder::new(), state }, receives })
}

/// The authority that both sides' servers show.
pub(crate) fn authority() -> anyhow::Result<AuthoritySecretKey> {
    Ok(AuthoritySecretKey::from_entropy(secret_bytes())?)
}

/// Its secret. No key of anybody: it lives as long as the measurement.
pub(crate) fn secret_bytes() -> [u8; 32] {
    [0x5a; 32]
}

/// Fresh random bytes.
pub(crate) fn entropy() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(bytes)
}

/// Unix seconds.
pub(crate) fn now() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as u32)
}

/// SRI's errors do not all implement `std::error::Error`.
pub(crate) fn peer_error(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow::anyhow!("SRI: {error:?}")
}

const _: () = assert!(Header::LEN == framing_sv2::SV2_FRAME_HEADER_SIZE);
