use bitcoin::consensus::encode::{deserialize, serialize};
use bitcoin::hashes::Hash;
use bitcoin::{Amount, ScriptBuf, Transaction, TxOut};
use proptest::prelude::*;

use super::*;

fn outputs(list: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (value, script) in list {
        Output { value: *value, script_pubkey: script }.write(&mut bytes);
    }
    bytes
}

fn commitment() -> Vec<u8> {
    [&[0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed][..], &[7; 32]].concat()
}

fn fields<'a>(script: &'a [u8], size: usize, outputs: &'a [u8], count: u64) -> CoinbaseFields<'a> {
    CoinbaseFields {
        version: 2,
        script_sig_prefix: script,
        full_extranonce_size: size,
        sequence: 0xffff_fffe,
        outputs,
        outputs_count: count,
        locktime: 101,
    }
}

#[test]
fn mainnet_block_170() {
    // Its scriptSig ends with a push of one byte, which stands in for an extranonce.
    let parts = Coinbase::from_parts(
        hex("01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff0704ffff001d01"),
        hex(concat!(
            "ffffffff0100f2052a01000000434104d46c4968bde02899d2aa0963367c7a6ce34eec332b32e42e5f3407e0",
            "52d64ac625da6f0718e7b302140434bd725706957c092db53805b821a85b23a7ac61725bac00000000",
        )),
        1,
    )
    .unwrap();
    let txid: bitcoin::Txid =
        "b1fea52486ce0c62bb442b530a3f0132b826c74e473d1f2c220bfa78111c5082".parse().unwrap();
    assert_eq!(parts.txid(&[], &[2]), Some(txid.to_byte_array()));
}

fn hex(text: &str) -> Vec<u8> {
    use bitcoin::hex::FromHex;
    Vec::from_hex(text).unwrap()
}

#[test]
fn limits() {
    let out = outputs(&[(5, vec![0x51])]);
    let build =
        |script: usize, size| Coinbase::new(&fields(&vec![1; script], size, &out, 1)).map(|_| ());
    assert_eq!(build(80, 20), Ok(()));
    assert_eq!(build(81, 20), Err(CoinbaseError::ScriptSigTooLong { len: 101 }));
    assert_eq!(build(30, 0), Err(CoinbaseError::ExtranonceSize { size: 0 }));
    assert_eq!(build(30, 65), Err(CoinbaseError::ExtranonceSize { size: 65 }));
    let count = |count| Coinbase::new(&fields(&[1], 4, &out, count)).map(|_| ());
    assert_eq!(count(2), Err(CoinbaseError::OutputCount { said: 2, found: 1 }));
    for cut in 1..out.len() {
        let cut = Coinbase::new(&fields(&[1], 4, &out[..cut], 1)).map(|_| ());
        assert_eq!(cut, Err(CoinbaseError::BadOutputs));
    }
    let absurd = [&[0; 8][..], &[0xff; 9]].concat();
    let absurd = Coinbase::new(&fields(&[1], 4, &absurd, 1)).map(|_| ());
    assert_eq!(absurd, Err(CoinbaseError::BadOutputs));
    let huge = outputs(&[(5, vec![0x51; 65_520])]);
    let huge = Coinbase::new(&fields(&[1], 4, &huge, 1)).map(|_| ());
    assert!(matches!(huge, Err(CoinbaseError::TooLong { .. })));
}

#[test]
fn a_wrong_extranonce_length_has_no_txid() {
    let out = outputs(&[(5, vec![0x51])]);
    let coinbase = Coinbase::new(&fields(&[1], 8, &out, 1)).unwrap();
    assert!(coinbase.txid(&[1; 4], &[2; 4]).is_some());
    for (a, b) in [(4, 3), (4, 5), (0, 0), (9, 0), (32, 32)] {
        assert_eq!(coinbase.txid(&[1; 32][..a], &[2; 32][..b]), None);
        assert_eq!(coinbase.full(&[1; 32][..a], &[2; 32][..b]), None);
    }
}

#[test]
fn script_sig_layout() {
    let height = [3, 0x11, 0x22, 0x33];
    assert_eq!(script_sig_prefix(&height, b"/x/", 20), [&height[..], &[3], b"/x/", &[20]].concat());
    assert_eq!(script_sig_prefix(&height, b"", 4), [3, 0x11, 0x22, 0x33, 4]);
    assert_eq!(script_sig_prefix(&[], &[9; 80], 4)[..2], [0x4c, 80]);
    // Bitcoin's own parser finds height, tag and extranonce as three pushes.
    let mut script = script_sig_prefix(&height, b"/adit/", 20);
    script.extend([0xee; 20]);
    let script = ScriptBuf::from_bytes(script);
    let pushes: Vec<_> = script
        .instructions()
        .map(|i| i.unwrap().push_bytes().unwrap().as_bytes().to_vec())
        .collect();
    assert_eq!(pushes, [height[1..].to_vec(), b"/adit/".to_vec(), vec![0xee; 20]]);
}

#[test]
fn the_extranonce_is_the_last_push_alone_and_whole() {
    for size in 1..=MAX_FULL_EXTRANONCE_SIZE {
        for (height, tag) in [(&[3, 1, 2, 3][..], "tag"), (&[0x51, 0], ""), (&[], "/a/"), (&[], "")]
        {
            let prefix = script_sig_prefix(height, tag.as_bytes(), size);
            assert!(ends_with_push_of(&prefix, size), "{prefix:?}");
            assert!(!ends_with_push_of(&prefix, size + 1) && !ends_with_push_of(&prefix, size - 1));
            assert!(
                !ends_with_push_of(&[&prefix[..], &[size as u8]].concat(), size),
                "in the push"
            );
        }
    }
    let good = [&[1, 9, 20][..], &[0x4c, 20], &[0x4d, 20, 0], &[0x4e, 20, 0, 0, 0], &[0xac, 20]];
    good.iter().for_each(|prefix| assert!(ends_with_push_of(prefix, 20), "{prefix:?}"));
    // Nothing; no push; a length that is cut off; data or a length that only looks like an opcode; more than there is.
    let bad = [
        &[][..],
        &[0x51],
        &[0x4c],
        &[0x4d, 20],
        &[2, 9, 20],
        &[3, 9, 9, 20],
        &[0x4c, 1, 20],
        &[0x4e, 0xff, 0xff, 0xff, 0xff, 20],
        &[1, 9, 20, 0x4c],
    ];
    bad.iter().for_each(|prefix| assert!(!ends_with_push_of(prefix, 20), "{prefix:?}"));
}

#[test]
fn payouts_split_everything() {
    let payouts = Payouts::new([(vec![1], 1), (vec![2], 1), (vec![3; 22], 1)]).unwrap();
    let values: Vec<_> = payouts.split(100).map(|output| output.value).collect();
    assert_eq!(values, [34, 33, 33]);
    assert_eq!(payouts.serialized_len(), 10 + 10 + 31);
    assert_eq!(Payouts::single(vec![1]).split(u64::MAX).next().unwrap().value, u64::MAX);
    assert_eq!(Payouts::new([]), Err(CoinbaseError::NoPayout));
    assert_eq!(Payouts::new([(vec![1], 0)]), Err(CoinbaseError::NoPayout));
    assert_eq!(Payouts::new([(vec![1], u64::MAX), (vec![2], 1)]), Err(CoinbaseError::NoPayout));
}

proptest! {
    /// Wherever a script is cut, at most one cut has the extranonce where it may be.
    #[test]
    fn a_script_has_one_place_for_an_extranonce(
        pieces in prop::collection::vec(
            (prop_oneof![0u8..8, 0x4au8..0x53, any::<u8>()], prop::collection::vec(0u8..6, 0..6)),
            0..20,
        ),
    ) {
        let script: Vec<u8> = pieces.into_iter().flat_map(|(op, data)| [vec![op], data].concat()).collect();
        let places: Vec<usize> = (0..script.len())
            .filter(|at| ends_with_push_of(&script[..*at], script.len() - at))
            .collect();
        prop_assert!(places.len() <= 1, "{:?} in {:?}", places, script);
        // It is what Bitcoin's own parser finds last.
        let parsed = ScriptBuf::from_bytes(script.clone());
        let last = parsed.instructions().last().and_then(|last| last.ok());
        let pushed = last.as_ref().and_then(|last| last.push_bytes()).map_or(0, |push| push.len());
        prop_assert_eq!(places.first().map_or(0, |at| script.len() - at), pushed);
    }

    #[test]
    fn payouts_never_create_or_lose_value(value: u64, weights in prop::collection::vec(0u64..1 << 58, 1..20)) {
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        let payouts = Payouts::new(weights.into_iter().map(|weight| (vec![0x51], weight))).unwrap();
        prop_assert_eq!(payouts.split(value).map(|output| u128::from(output.value)).sum::<u128>(), u128::from(value));
    }

    /// Every shape against Bitcoin's own serializer and txid.
    #[test]
    fn agrees_with_the_oracle(
        script in prop::collection::vec(any::<u8>(), 1..36),
        prefix in prop::collection::vec(any::<u8>(), 0..33),
        rolled in prop::collection::vec(any::<u8>(), 0..33),
        mut list in prop::collection::vec((0u64..1 << 50, prop::collection::vec(any::<u8>(), 0..300)), 1..12),
        segwit: bool,
    ) {
        let size = prefix.len() + rolled.len();
        prop_assume!(size > 0);
        if segwit {
            list.push((0, commitment()));
        }
        let out = outputs(&list);
        let coinbase = Coinbase::new(&fields(&script, size, &out, list.len() as u64)).unwrap();
        let full = coinbase.full(&prefix, &rolled).unwrap();
        let tx: Transaction = deserialize(&full).unwrap();
        prop_assert!(tx.is_coinbase());
        prop_assert_eq!(&serialize(&tx), &full);
        prop_assert_eq!(coinbase.txid(&prefix, &rolled).unwrap(), tx.compute_txid().to_byte_array());
        let whole: Vec<u8> = [prefix, rolled].concat();
        prop_assert_eq!(coinbase.txid(&whole[..size.min(32)], &whole[size.min(32)..]), Some(tx.compute_txid().to_byte_array()));
        prop_assert_eq!(tx.version.0, 2);
        prop_assert_eq!(tx.lock_time.to_consensus_u32(), 101);
        prop_assert_eq!(tx.input[0].sequence.0, 0xffff_fffe);
        prop_assert_eq!(tx.input[0].script_sig.to_bytes(), [script, whole.clone()].concat());
        prop_assert_eq!(tx.input[0].witness.len(), usize::from(segwit));
        let oracle: Vec<_> = list.iter()
            .map(|(value, script)| TxOut { value: Amount::from_sat(*value), script_pubkey: ScriptBuf::from_bytes(script.clone()) })
            .collect();
        prop_assert_eq!(&tx.output, &oracle);
        let read: Vec<_> = coinbase.outputs().unwrap().map(|o| o.map(|o| (o.value, o.script_pubkey.to_vec())).unwrap()).collect();
        prop_assert_eq!(read, list);
        // The stripped parts are the same transaction without its witness.
        let mut stripped = tx.clone();
        stripped.input[0].witness.clear();
        prop_assert_eq!([coinbase.prefix(), &whole, coinbase.suffix()].concat(), serialize(&stripped));
    }

    #[test]
    fn parts_from_a_stranger_never_panic(
        prefix in prop::collection::vec(any::<u8>(), 0..200),
        suffix in prop::collection::vec(any::<u8>(), 0..200),
        size in 0usize..70,
    ) {
        if let Ok(coinbase) = Coinbase::from_parts(prefix, suffix, size) {
            let extranonce = vec![0; size];
            prop_assert!(coinbase.txid(&extranonce, &[]).is_some());
            let _ = coinbase.full(&[], &extranonce);
            let _ = coinbase.outputs().map(|outputs| outputs.count());
        }
    }
}

#[test]
fn sigops_agree_with_the_oracle() {
    let scripts: [&[u8]; 9] = [
        &[],
        &[0xac],
        // P2PKH, and a bare multisig of two keys.
        &[0x76, 0xa9, 2, 0xac, 0xae, 0x88, 0xac],
        &[0x51, 2, 0xac, 0xac, 0x51, 0xae, 0xaf, 0xad],
        &[0x4c, 3, 0xac, 0xac, 0xac, 0xac],
        &[0x4d, 1, 0, 0xac, 0xac],
        &[0x4e, 1, 0, 0, 0, 0xac, 0xac],
        &[0xac, 0x4e, 0xff, 0xff, 0xff, 0xff, 0xac],
        &[0xac, 75, 0xac],
    ];
    for script in scripts {
        let oracle = bitcoin::Script::from_bytes(script).count_sigops_legacy();
        assert_eq!(script_sigops(script) as usize, oracle, "{script:02x?}");
    }
}

proptest! {
    #[test]
    fn sigops_of_anything(script in prop::collection::vec(any::<u8>(), 0..120)) {
        let oracle = bitcoin::Script::from_bytes(&script).count_sigops_legacy();
        prop_assert_eq!(script_sigops(&script) as usize, oracle);
    }
}
