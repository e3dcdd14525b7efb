use adit_mining::merkle::merkle_root;
use adit_mining::{merkle, sha256d};
use proptest::prelude::*;

use super::*;

/// The two parts of a declared coinbase.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) prefix: Vec<u8>,
    pub(crate) suffix: Vec<u8>,
}

/// An output to the pool.
pub(crate) fn pool_output(value: u64) -> (u64, Vec<u8>) {
    (value, vec![0x51])
}

/// An output that commits to something.
pub(crate) fn witness_commitment() -> (u64, Vec<u8>) {
    let mut script = vec![0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed];
    script.extend([4; 32]);
    (0, script)
}

/// An output that commits to these transactions (BIP141).
pub(crate) fn witness_commitment_of(wtxids: &[[u8; 32]]) -> (u64, Vec<u8>) {
    let root = merkle_root([0; 32], &merkle::merkle_path(wtxids));
    let mut script = vec![0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed];
    script.extend(sha256d(&[root, [0; 32]].concat()));
    (0, script)
}

impl Parts {
    /// At height 500, with room for 12 bytes of extranonce.
    pub(crate) fn new(outputs: &[(u64, Vec<u8>)]) -> Self {
        let script = [2, 0xf4, 1, 3, b't', b'a', b'g', 12];
        let mut prefix = 2u32.to_le_bytes().to_vec();
        prefix.extend([0, 1, 1]);
        prefix.extend(NULL_OUTPOINT);
        prefix.push(script.len() as u8 + 12);
        prefix.extend(script);
        let mut suffix = 0xffff_fffeu32.to_le_bytes().to_vec();
        suffix.push(outputs.len() as u8);
        for (value, script) in outputs {
            suffix.extend(value.to_le_bytes());
            suffix.push(script.len() as u8);
            suffix.extend(script);
        }
        suffix.extend([1, 32]);
        suffix.extend([0; 32]);
        suffix.extend(499u32.to_le_bytes());
        Self { prefix, suffix }
    }

    pub(crate) fn without_witness(mut self) -> Self {
        self.prefix.drain(4..6);
        let end = self.suffix.len() - 4;
        self.suffix.drain(end - WITNESS_LEN..end);
        self
    }

    pub(crate) fn parse(&self) -> Result<DeclaredCoinbase<'_>, CoinbaseRefused> {
        DeclaredCoinbase::parse(&self.prefix, &self.suffix)
    }
}

fn parts() -> Parts {
    Parts::new(&[pool_output(50), witness_commitment()])
}

fn refused(change: impl FnOnce(&mut Parts)) -> CoinbaseRefused {
    let mut parts = parts();
    change(&mut parts);
    parts.parse().unwrap_err()
}

#[test]
fn every_field_is_read() {
    for (parts, segwit) in [(parts(), true), (parts().without_witness(), false)] {
        let coinbase = parts.parse().unwrap();
        assert_eq!((coinbase.version, coinbase.segwit), (2, segwit));
        assert_eq!(coinbase.script_sig_prefix, [2, 0xf4, 1, 3, b't', b'a', b'g', 12]);
        assert_eq!((coinbase.full_extranonce_size, coinbase.height()), (12, Some(500)));
        assert_eq!((coinbase.sequence, coinbase.locktime), (0xffff_fffe, 499));
        assert_eq!((coinbase.outputs.count(), coinbase.outputs.total()), (2, 50));
        assert_eq!(CoinbaseOutputs::parse(coinbase.outputs_bytes), Ok(coinbase.outputs));
        // The hash of the stripped coinbase is the txid.
        let raw = [&parts.prefix[..], &[6; 12], &parts.suffix].concat();
        let whole: bitcoin::Transaction = bitcoin::consensus::deserialize(&raw).unwrap();
        let txid: [u8; 32] = *AsRef::<[u8; 32]>::as_ref(&whole.compute_txid());
        assert_eq!(coinbase.stripped().txid(&[], &[6; 12]), Some(txid));
    }
}

#[test]
fn inputs() {
    use CoinbaseRefused as R;
    assert_eq!(refused(|p| p.prefix[6] = 0), R::Inputs(0));
    assert_eq!(refused(|p| p.prefix[6] = 2), R::Inputs(2));
    assert_eq!(refused(|p| p.prefix[5] = 0), R::Inputs(0));
    assert_eq!(refused(|p| p.prefix[5] = 2), R::Flag(2));
    assert_eq!(refused(|p| p.prefix[10] = 1), R::NotNull);
    assert_eq!(refused(|p| p.prefix[39] = 0), R::NotNull);
    assert_eq!(refused(|p| p.prefix[6] = 2).error_code(), "invalid-coinbase-tx-input");
    assert_eq!(refused(|p| p.suffix.push(0)).error_code(), "invalid-coinbase-tx");
}

#[test]
fn lengths() {
    use CoinbaseRefused as R;
    const LEN: usize = 43;
    for (len, expected) in [
        (0, R::ScriptSigSize(0)),
        (1, R::ScriptSigSize(1)),
        (101, R::ScriptSigSize(101)),
        (7, R::PrefixTooLong { len: 7, found: 8 }),
        (8, R::ExtranonceSize(0)),
        (8 + 33, R::ExtranonceSize(33)),
    ] {
        assert_eq!(refused(|p| p.prefix[LEN] = len), expected);
    }
    // A scriptSig of 2^64 - 1 bytes.
    let absurd = refused(|p| drop(p.prefix.splice(LEN..=LEN, [0xff; 9])));
    assert_eq!(absurd, R::ScriptSigSize(u64::MAX));
    // An input count of 2^64 - 1.
    assert_eq!(refused(|p| drop(p.prefix.splice(6..=6, [0xff; 9]))), R::Inputs(u64::MAX));
    // An output count of 2^64 - 1, and none at all.
    let absurd = refused(|p| drop(p.suffix.splice(4..=4, [0xff; 9])));
    assert_eq!(absurd, R::Outputs(OutputsError::TooMuch));
    let none = Parts::new(&[]);
    assert_eq!(none.parse().unwrap_err(), R::NoOutputs);
    let too_much = Parts::new(&[pool_output(u64::MAX)]);
    assert_eq!(too_much.parse().unwrap_err(), R::Outputs(OutputsError::TooMuch));
}

#[test]
fn cut_off_and_trailing() {
    let whole = parts();
    for (whole, from) in [(whole.clone(), 44), (whole.without_witness(), 42)] {
        for end in 0..from {
            let cut = Parts { prefix: whole.prefix[..end].to_vec(), ..whole.clone() };
            assert!(cut.parse().is_err(), "{end}");
        }
        for end in 0..whole.suffix.len() {
            let cut = Parts { suffix: whole.suffix[..end].to_vec(), ..whole.clone() };
            assert!(cut.parse().is_err(), "{end}");
        }
    }
    assert_eq!(refused(|p| p.suffix.push(7)), CoinbaseRefused::Trailing(1));
    assert_eq!(
        refused(|p| p.prefix.extend([1; 13])),
        CoinbaseRefused::PrefixTooLong { len: 20, found: 21 }
    );
    let witness = refused(|p| {
        let at = p.suffix.len() - 4 - WITNESS_LEN;
        p.suffix[at] = 2;
    });
    assert_eq!(witness, CoinbaseRefused::Witness);
    // Parts that were stripped as for the Mining Protocol, under a prefix that was not.
    let mixed = Parts { prefix: parts().prefix, suffix: parts().without_witness().suffix };
    assert!(mixed.parse().is_err());
}

#[test]
fn heights() {
    let height = |script: &[u8]| {
        let mut parts = parts();
        parts.prefix.truncate(43);
        parts.prefix.push(script.len() as u8 + 4);
        parts.prefix.extend(script);
        parts.parse().map(|coinbase| coinbase.height())
    };
    assert_eq!(height(&[0x51, 0]), Ok(Some(1)));
    assert_eq!(height(&[0x60, 0]), Ok(Some(16)));
    assert_eq!(height(&[1, 17]), Ok(Some(17)));
    assert_eq!(height(&[2, 0x80, 0]), Ok(Some(128)));
    assert_eq!(height(&[3, 0x40, 0x42, 0x0f]), Ok(Some(1_000_000)));
    assert_eq!(height(&[1, 0x80]), Ok(None));
    assert_eq!(height(&[3, 1, 2]), Ok(None));
    assert_eq!(height(&[5, 1, 2, 3, 4, 5]), Ok(None));
    assert_eq!(height(&[]), Ok(None));
}

proptest! {
    #[test]
    fn any_bytes(prefix in prop::collection::vec(any::<u8>(), 0..120), suffix in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = DeclaredCoinbase::parse(&prefix, &suffix);
        let parts = parts();
        let _ = DeclaredCoinbase::parse(&parts.prefix, &suffix);
        let _ = DeclaredCoinbase::parse(&prefix, &parts.suffix);
    }

    /// Whatever is accepted is one transaction with one input, and nothing else.
    #[test]
    fn accepted_is_a_coinbase(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), tail in any::<bool>()) {
        let mut parts = parts();
        for (index, byte) in changes {
            let part = if tail { &mut parts.suffix } else { &mut parts.prefix };
            let at = index.index(part.len());
            part[at] = byte;
        }
        if let Ok(coinbase) = parts.parse() {
            let raw = [&parts.prefix[..], &vec![0; coinbase.full_extranonce_size], &parts.suffix].concat();
            let read: bitcoin::Transaction = bitcoin::consensus::deserialize(&raw).unwrap();
            prop_assert!(read.is_coinbase());
            prop_assert_eq!(bitcoin::consensus::serialize(&read), raw);
        }
    }
}
