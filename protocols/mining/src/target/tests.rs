use bitcoin::CompactTarget;
use bitcoin::pow::Target as Oracle;
use proptest::prelude::*;

use super::*;

fn oracle(target: Target) -> Oracle {
    Oracle::from_le_bytes(target.to_le_bytes())
}

#[test]
fn mainnet_numbers() {
    // Genesis, and the example of Bitcoin's wiki page on difficulty.
    let genesis = Target::from_nbits(0x1d00_ffff).unwrap();
    assert_eq!(genesis, Target::DIFFICULTY_1);
    assert_eq!(genesis.difficulty(), 1.0);
    assert_eq!(genesis.expected_hashes(), 4_295_032_833);
    let later = Target::from_nbits(0x1b04_04cb).unwrap();
    assert!((later.difficulty() - 16_307.420_938_523_983).abs() < 1e-9);
    let regtest = Target::from_nbits(0x207f_ffff).unwrap();
    assert_eq!(regtest.expected_hashes(), 2);
    assert_eq!(
        regtest.to_string(),
        "7fffff0000000000000000000000000000000000000000000000000000000000"
    );
}

#[test]
fn compact_form_refuses_what_is_no_target() {
    for bad in [0, 0x1d80_ffff, 0x0100_00ff, 0x2200_ffff, 0x2300_0001, 0xff00_00ff, 0x1d00_0000] {
        assert_eq!(Target::from_nbits(bad), None, "{bad:08x}");
    }
    assert_eq!(Target::from_nbits(0x2200_00ff).unwrap().to_be_bytes()[0], 0xff);
}

#[test]
fn extremes() {
    assert_eq!(Target::MAX.expected_hashes(), 1);
    assert_eq!(Target::MIN.expected_hashes(), u128::MAX);
    assert_eq!(Target([0, 0, u64::MAX, u64::MAX]).expected_hashes(), u128::MAX);
    assert_eq!(Target([0, 1, 0, 0]).expected_hashes(), u128::MAX);
    for odd in [0.0, -1.0, f64::NAN, 1e-300, f64::MIN_POSITIVE / 4.0] {
        assert_eq!(Target::from_difficulty(odd), Target::MAX, "{odd}");
        assert_eq!(Target::from_expected_hashes(odd), Target::MAX, "{odd}");
    }
    for odd in [f64::INFINITY, f64::MAX, 1e90] {
        assert_eq!(Target::from_difficulty(odd), Target::MIN, "{odd}");
        assert_eq!(Target::from_expected_hashes(odd), Target::MIN, "{odd}");
    }
    assert_eq!(Target::from_hash_rate(0.0, 6.0), Target::MAX);
}

#[test]
fn difficulty_is_exact_for_powers_of_two() {
    assert_eq!(Target::from_difficulty(1.0), Target::DIFFICULTY_1);
    assert_eq!(Target::from_difficulty(0.5), Target([0x0000_0001_fffe_0000, 0, 0, 0]));
    assert_eq!(Target::from_difficulty(65536.0), Target([0x0000_0000_0000_ffff, 0, 0, 0]));
    assert_eq!(
        Target::from_difficulty(3.0).to_string(),
        "0000000055550000000000000000000000000000000000000000000000000000"
    );
}

#[test]
fn hash_rate_gives_the_wanted_shares() {
    // 100 TH/s at 6 shares a minute: 1e15 hashes each.
    let target = Target::from_hash_rate(1e14, 6.0);
    assert!((target.expected_hashes() as f64 / 1e15 - 1.0).abs() < 1e-9);
    assert!((work_to_difficulty(target.expected_hashes()) - 232_830.6).abs() < 0.1);
}

#[test]
fn a_hash_equal_to_the_target_meets_it() {
    let target = Target([0, 0, 7, 1]);
    assert!(target.is_met_by(&BlockHash(target.to_le_bytes())));
    assert!(target.is_met_by(&BlockHash(Target([0, 0, 7, 0]).to_le_bytes())));
    assert!(!target.is_met_by(&BlockHash(Target([0, 0, 7, 2]).to_le_bytes())));
    assert!(!target.is_met_by(&BlockHash(Target([0, 1, 0, 0]).to_le_bytes())));
}

proptest! {
    #[test]
    fn bytes_round_trip(bytes: [u8; 32]) {
        let target = Target::from_le_bytes(bytes);
        prop_assert_eq!(target.to_le_bytes(), bytes);
        prop_assert_eq!(Target::from_be_bytes(target.to_be_bytes()), target);
        prop_assert_eq!(target.to_be_bytes(), oracle(target).to_be_bytes());
    }

    #[test]
    fn order_is_numeric(a: [u8; 32], b: [u8; 32]) {
        let (a, b) = (Target::from_le_bytes(a), Target::from_le_bytes(b));
        prop_assert_eq!(a.cmp(&b), oracle(a).cmp(&oracle(b)));
        prop_assert_eq!(a.is_met_by(&BlockHash(b.to_le_bytes())), b <= a);
    }

    #[test]
    fn compact_agrees_with_the_oracle(exponent in 0u32..36, mantissa in 0u32..0x80_0000) {
        let nbits = exponent << 24 | mantissa;
        if let Some(target) = Target::from_nbits(nbits) {
            prop_assert_eq!(oracle(target), Oracle::from_compact(CompactTarget::from_consensus(nbits)));
            prop_assert_eq!(target.to_nbits(), oracle(target).to_compact_lossy().to_consensus());
        }
    }

    #[test]
    fn work_agrees_with_the_oracle(bytes: [u8; 32], zeroes in 0usize..20) {
        let mut bytes = bytes;
        bytes[32 - zeroes..].fill(0);
        let target = Target::from_le_bytes(bytes);
        let be = oracle(target).to_work().to_be_bytes();
        let expected = if be[..16] == [0; 16] {
            u128::from_be_bytes(be[16..].try_into().unwrap())
        } else {
            u128::MAX
        };
        prop_assert_eq!(target.expected_hashes(), expected);
    }

    #[test]
    fn difficulty_round_trips(difficulty in 1e-9f64..1e15) {
        let back = Target::from_difficulty(difficulty).difficulty();
        prop_assert!((back / difficulty - 1.0).abs() < 1e-12);
    }

    #[test]
    fn harder_is_never_easier(a in 1e-9f64..1e18, b in 1e-9f64..1e18) {
        prop_assume!(a < b);
        prop_assert!(Target::from_difficulty(a) >= Target::from_difficulty(b));
    }
}
