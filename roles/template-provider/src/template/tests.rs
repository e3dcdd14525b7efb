use bitcoin::absolute::LockTime;
use bitcoin::{Amount, Block, OutPoint, ScriptBuf, Sequence, TxIn, TxOut, Witness};
use proptest::prelude::*;

use super::*;

/// A tip with a regtest target.
pub(crate) fn tip(height: u32, byte: u8) -> Tip {
    Tip { prev_hash: BlockHash([byte; 32]), height, n_bits: 0x207f_ffff, min_time: 1_700_000_000 }
}

/// A real transaction that spends `inputs` and differs by `salt`.
pub(crate) fn spend(inputs: &[OutPoint], salt: u64) -> bitcoin::Transaction {
    bitcoin::Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: LockTime::ZERO,
        input: inputs
            .iter()
            .map(|previous_output| TxIn {
                previous_output: *previous_output,
                script_sig: ScriptBuf::new(),
                sequence: Sequence::MAX,
                witness: Witness::from_slice(&[salt.to_le_bytes()]),
            })
            .collect(),
        output: vec![TxOut {
            value: Amount::from_sat(salt),
            script_pubkey: ScriptBuf::from_bytes(vec![0x51]),
        }],
    }
}

/// `transaction` as a node offers it.
pub(crate) fn offered(
    transaction: &bitcoin::Transaction,
    fee: u64,
    sigops: u64,
    depends: Vec<u32>,
) -> Transaction {
    Transaction {
        raw: RawTransaction {
            wtxid: transaction.compute_wtxid().to_byte_array(),
            bytes: bitcoin::consensus::serialize(transaction).into(),
        },
        txid: transaction.compute_txid().to_byte_array(),
        weight: transaction.weight().to_wu(),
        sigops,
        fee,
        depends,
    }
}

/// An offer of `count` unrelated transactions, each paying `fee`.
pub(crate) fn snapshot(tip: Tip, count: u64, fee: u64) -> Snapshot {
    let transactions: Vec<_> =
        (0..count).map(|salt| offered(&spend(&[OutPoint::null()], salt), fee, 1, vec![])).collect();
    let mut snapshot = Snapshot::empty(Network::Regtest, tip, 0x2000_0000);
    snapshot.coinbase_value += count * fee;
    snapshot.transactions = transactions;
    snapshot
}

/// The coinbase that an obedient client builds, paying all of the value to `OP_TRUE`.
pub(crate) fn coinbase(template: &Template, extranonce: &[u8]) -> bitcoin::Transaction {
    let mut script_sig = template.coinbase_prefix();
    script_sig.extend_from_slice(&[extranonce.len() as u8]);
    script_sig.extend_from_slice(extranonce);
    bitcoin::Transaction {
        version: bitcoin::transaction::Version(COINBASE_VERSION as i32),
        lock_time: LockTime::from_consensus(template.coinbase_locktime()),
        input: vec![TxIn {
            previous_output: OutPoint::null(),
            script_sig: ScriptBuf::from_bytes(script_sig),
            sequence: Sequence(COINBASE_SEQUENCE),
            witness: Witness::from_slice(&[[0; 32]]),
        }],
        output: vec![
            TxOut {
                value: Amount::from_sat(template.coinbase_value),
                script_pubkey: ScriptBuf::from_bytes(vec![0x51]),
            },
            bitcoin::consensus::deserialize(&template.coinbase_outputs()).unwrap(),
        ],
    }
}

fn block(template: &Template) -> Block {
    let coinbase = coinbase(template, &[7; 8]);
    let root = merkle_root(coinbase.compute_txid().to_byte_array(), &template.merkle_path);
    let mut txdata = vec![coinbase];
    txdata.extend(
        template.transactions.iter().map(|t| bitcoin::consensus::deserialize(&t.bytes).unwrap()),
    );
    let header = bitcoin::block::Header {
        version: bitcoin::block::Version::from_consensus(template.version as i32),
        prev_blockhash: bitcoin::BlockHash::from_byte_array(template.tip.prev_hash.0),
        merkle_root: bitcoin::TxMerkleNode::from_byte_array(root),
        time: template.tip.min_time,
        bits: bitcoin::CompactTarget::from_consensus(template.tip.n_bits),
        nonce: 0,
    };
    Block { header, txdata }
}

#[test]
fn an_empty_block_carries_its_commitment() {
    let template = Template::build(&snapshot(tip(5, 1), 0, 0), Constraints::default(), 1).unwrap();
    let block = block(&template);
    assert!(block.check_witness_commitment() && block.check_merkle_root());
    assert_eq!(template.merkle_path, [[0; 32]; 0]);
    assert_eq!(template.coinbase_value, 5_000_000_000);
}

#[test]
fn blocks_of_any_size_are_whole() {
    for count in 1..20 {
        let template =
            Template::build(&snapshot(tip(150, 1), count, 100), Constraints::default(), 1).unwrap();
        let block = block(&template);
        assert!(block.check_witness_commitment() && block.check_merkle_root(), "{count}");
        assert_eq!(block.bip34_block_height(), Ok(150));
        assert_eq!(template.coinbase_value, 2_500_000_000 + count * 100);
    }
}

#[test]
fn fees_may_be_whatever_a_node_says() {
    let mut offer = snapshot(tip(150, 1), 3, 100);
    offer.transactions.iter_mut().for_each(|t| t.fee = u64::MAX);
    let all = Template::build(&offer, Constraints::default(), 1).unwrap();
    assert_eq!(all.coinbase_value, offer.coinbase_value);
    offer.weight_limit = Constraints::default().reserved_weight();
    let none = Template::build(&offer, Constraints::default(), 1).unwrap();
    assert_eq!((none.coinbase_value, none.transactions.len()), (0, 0));
}

#[test]
fn heights_are_pushed_as_consensus_reads_them() {
    for (height, prefix) in [
        (1, vec![0x51]),
        (16, vec![0x60]),
        (17, vec![1, 17]),
        (127, vec![1, 127]),
        (128, vec![2, 128, 0]),
        (32_768, vec![3, 0, 128, 0]),
        (840_000, vec![3, 0x40, 0xd1, 0x0c]),
    ] {
        let template =
            Template::build(&snapshot(tip(height, 1), 0, 0), Constraints::default(), 1).unwrap();
        assert_eq!(template.coinbase_prefix(), prefix, "{height}");
    }
}

#[test]
fn the_timestamp_is_never_below_the_median() {
    let template = Template::build(&snapshot(tip(5, 1), 0, 0), Constraints::default(), 1).unwrap();
    assert_eq!(template.set_new_prev_hash(1_600_000_000).header_timestamp, 1_700_000_000);
    assert_eq!(template.set_new_prev_hash(1_800_000_000).header_timestamp, 1_800_000_000);
}

#[test]
fn what_no_block_can_hold_is_refused() {
    let snapshot = snapshot(tip(5, 1), 3, 10);
    let fits = Constraints { size: (4_000_000 - 1168) / 4, sigops: 0 };
    assert!(Template::build(&snapshot, fits, 1).unwrap().transactions.is_empty());
    let over = Constraints { size: fits.size + 1, sigops: 0 };
    assert_eq!(Template::build(&snapshot, over, 1), Err(DoesNotFit(over)));
    let huge = Constraints { size: u32::MAX, sigops: u16::MAX };
    assert_eq!(Template::build(&snapshot, huge, 1), Err(DoesNotFit(huge)));
}

#[test]
fn the_nodes_own_reserve_is_used_first() {
    // A node keeps 8,000 weight units free: enough for outputs of 1,708 bytes.
    let mut snapshot = snapshot(tip(5, 1), 10, 10);
    let filler = 4_000_000 - 8_000 - snapshot.weight();
    snapshot.transactions[0].weight += filler;
    let kept = |size| {
        Template::build(&snapshot, Constraints { size, sigops: 0 }, 1).unwrap().transactions.len()
    };
    assert_eq!(kept(0), 10);
    assert_eq!(kept(1_708), 10);
    assert_eq!(kept(1_709), 9);
}

#[test]
fn sigops_are_cut_where_they_are() {
    let parent = spend(&[OutPoint::null()], 1);
    let child = spend(&[OutPoint::new(parent.compute_txid(), 0)], 2);
    let mut snapshot = snapshot(tip(5, 1), 0, 0);
    snapshot.transactions = vec![
        offered(&spend(&[OutPoint::null()], 9), 1, 79_000, vec![]),
        offered(&parent, 2, 900, vec![]),
        offered(&child, 4, 0, vec![1]),
        offered(&spend(&[OutPoint::null()], 3), 8, 0, vec![]),
    ];
    snapshot.coinbase_value = 15;
    let build = |sigops| Template::build(&snapshot, Constraints { size: 0, sigops }, 1).unwrap();
    assert_eq!(build(100).coinbase_value, 15);
    // Without room for the parent its child goes too; what has no sigops and stands alone stays.
    assert_eq!(build(101).coinbase_value, 9);
    assert_eq!(build(1_001).coinbase_value, 8);
}

/// Weight, sigops, fee, and the indices of parents modulo the position.
fn any_offer() -> impl Strategy<Value = Snapshot> {
    let transaction =
        (400u64..60_000, 0u64..2_000, 0u64..10_000, prop::collection::vec(any::<u32>(), 0..3));
    prop::collection::vec(transaction, 0..120).prop_map(|rows| {
        let mut offer = snapshot(tip(5, 1), rows.len() as u64, 0);
        for (index, (weight, sigops, fee, parents)) in rows.into_iter().enumerate() {
            let transaction = &mut offer.transactions[index];
            (transaction.weight, transaction.sigops, transaction.fee) = (weight, sigops, fee);
            if index > 0 {
                transaction.depends = parents.iter().map(|parent| parent % index as u32).collect();
            }
            offer.coinbase_value += fee;
        }
        offer
    })
}

proptest! {
    #[test]
    fn trimming(offer in any_offer(), size in 0u32..1_000_000, sigops: u16) {
        let constraints = Constraints { size, sigops };
        let Ok(kept) = trim(&offer, constraints) else {
            prop_assert!(constraints.reserved_weight() > offer.weight_limit);
            return Ok(());
        };
        let weight: u64 = kept.iter().map(|t| t.weight).sum();
        let sigop_sum: u64 = kept.iter().map(|t| t.sigops).sum();
        prop_assert!(weight + 1168 + 4 * u64::from(size) <= offer.weight_limit);
        prop_assert!(sigop_sum + u64::from(sigops) <= offer.sigop_limit);

        // In order, and no child without its parents.
        let position = |wanted: &Transaction| offer.transactions.iter().position(|t| t.raw.wtxid == wanted.raw.wtxid).unwrap();
        let positions: Vec<usize> = kept.iter().map(|t| position(t)).collect();
        prop_assert!(positions.is_sorted());
        for t in &kept {
            prop_assert!(t.depends.iter().all(|parent| positions.contains(&(*parent as usize))));
        }

        // Nothing is taken that need not be: the longest head of the offer that fits is kept whole.
        let fits = |count: usize| {
            let head = &offer.transactions[..count];
            head.iter().map(|t| t.weight).sum::<u64>() + constraints.reserved_weight() <= offer.weight_limit
                && head.iter().map(|t| t.sigops).sum::<u64>() + u64::from(sigops) <= offer.sigop_limit
        };
        let longest = (0..=offer.transactions.len()).rev().find(|count| fits(*count)).unwrap();
        prop_assert_eq!(&positions[..longest], (0..longest).collect::<Vec<_>>());

        let template = Template::build(&offer, constraints, 1).unwrap();
        prop_assert_eq!(template.coinbase_value, 5_000_000_000 + kept.iter().map(|t| t.fee).sum::<u64>());
        let block = block(&template);
        prop_assert!(block.check_witness_commitment() && block.check_merkle_root());
    }
}
