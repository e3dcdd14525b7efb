//! Frames behind a handshake.

use std::sync::LazyLock;

use adit_sv2::frame::Header;
use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::noise::{
    ACT1_LEN, ACT2_LEN, Initiator, Opener, Responder, ResponderIdentity, Sealer, Validity,
};
use arbitrary::Arbitrary;

/// Unix seconds of all handshakes.
pub const NOW: u32 = 1_700_000_000;
/// The longest payload, about three blocks.
const MAX_PAYLOAD: usize = 200_000;

/// Who answers them.
pub static IDENTITY: LazyLock<ResponderIdentity> = LazyLock::new(|| {
    let authority = AuthoritySecretKey::from_entropy([1; 32]).expect("a secret key");
    ResponderIdentity::new(authority, Validity::default(), NOW, [[2; 32], [3; 32], [4; 32]])
});

/// The answer to a first message, whatever its bytes are, and what the answering end goes on with.
pub fn answer(act1: &[u8; ACT1_LEN], entropy: [[u8; 32]; 2]) -> ([u8; ACT2_LEN], Sealer, Opener) {
    Responder::respond(&IDENTITY, act1, entropy).expect("any 64 bytes are a key")
}

/// What one end seals with and the other opens with: of one and the same connection, each time.
pub fn connection() -> (Sealer, Opener) {
    let (initiator, act1) = Initiator::new(None, [[3; 32]; 2]);
    let (act2, sealer, _) = answer(&act1, [[4; 32]; 2]);
    let (_, opener, _) = initiator.finish(&act2, NOW, 0).expect("a good answer");
    (sealer, opener)
}

/// A frame, short in a fuzzer's input.
#[derive(Arbitrary, Debug)]
pub struct Frame {
    extension_type: u16,
    msg_type: u8,
    payload: Vec<u8>,
    /// The payload so many times, up to the longest.
    repeat: u8,
}

impl Frame {
    /// As it is before it is sealed.
    pub fn bytes(&self) -> Vec<u8> {
        let most = MAX_PAYLOAD / self.payload.len().max(1);
        let payload = self.payload.repeat(most.min(usize::from(self.repeat) * 16 + 1));
        let msg_length = payload.len() as u32;
        let (extension_type, msg_type) = (self.extension_type & 0x7fff, self.msg_type);
        let header = Header { extension_type, channel_msg: false, msg_type, msg_length };
        [&header.to_bytes()[..], &payload].concat()
    }
}

/// Frames on the wire, damaged in places.
#[derive(Debug)]
pub struct Damaged {
    /// Before they were sealed.
    pub frames: Vec<Vec<u8>>,
    /// As they were sealed.
    pub sealed: Vec<u8>,
    /// As they arrive.
    pub wire: Vec<u8>,
    /// Bytes before the first that differs.
    pub intact: usize,
}

impl Damaged {
    /// Seals the first few of `frames`, then flips bits where `damage` says.
    pub fn new(sealer: &mut Sealer, frames: &[Frame], damage: &[(u16, u8)]) -> Self {
        let frames: Vec<_> = frames.iter().take(8).map(Frame::bytes).collect();
        let mut sealed = Vec::new();
        sealer.seal_all(&frames.concat(), &mut sealed).expect("whole frames");
        let mut wire = sealed.clone();
        for (at, flip) in damage.iter().take(8) {
            let at = usize::from(*at) % wire.len().max(1);
            if let Some(byte) = wire.get_mut(at) {
                *byte ^= flip;
            }
        }
        let intact = wire.iter().zip(&sealed).take_while(|(a, b)| a == b).count();
        Self { frames, sealed, wire, intact }
    }
}
