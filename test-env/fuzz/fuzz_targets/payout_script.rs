//! Addresses and descriptors of rewards: what is taken is one output that somebody can spend, shown as it reads again, and
//! what it costs of a block is what rust-bitcoin counts. Then whether a job pays it.
#![no_main]

use adit_payout::{Payout, PayoutError};
use arbitrary::Arbitrary;
use bitcoin::consensus::{deserialize, serialize};
use bitcoin::{Address, Amount, Network, ScriptBuf, Transaction, TxOut};
use libfuzzer_sys::fuzz_target;

/// The module itself, which is nobody's business outside of its crate.
#[rustfmt::skip] // formatted where it lives
#[path = "../../../roles/translator/src/engine/payout.rs"]
mod guard;

/// What that module knows of its crate.
mod config {
    pub(crate) use adit_translator::config::Payout;
}

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Text(u8, &'a str),
    /// What a coinbase pays to whom, and how much of it must be ours.
    Job {
        outputs: Vec<(bool, u64)>,
        percent: u16,
        cut: u8,
    },
}

const NETWORKS: [Network; 4] =
    [Network::Bitcoin, Network::Testnet4, Network::Signet, Network::Regtest];

fuzz_target!(|input: Input<'_>| match input {
    Input::Text(network, text) => read(text, NETWORKS[usize::from(network) % 4]),
    Input::Job { outputs, percent, cut } => job(&outputs, percent, cut),
});

fn read(text: &str, network: Network) {
    let payout = match Payout::parse(text, network) {
        Ok(payout) => payout,
        Err(error) => {
            let said = error.to_string();
            assert!(!said.is_empty());
            // A key that was meant to be secret is not repeated.
            let secret = text.contains('(') && text.contains("prv");
            assert!(!secret || matches!(error, PayoutError::PrivateKey), "{said}");
            if let Ok(address) = text.trim().parse::<Address<_>>() {
                assert!(address.require_network(network).is_err(), "{said}");
            }
            return;
        }
    };
    let script = payout.script();
    assert!(!script.is_op_return() && !script.is_empty() && script.len() <= 10_000);
    let shown = payout.describe(network);
    assert_eq!(Payout::parse(&shown, network).as_ref(), Ok(&payout), "{shown}");
    let output = TxOut { value: Amount::from_sat(7), script_pubkey: script.clone() };
    assert_eq!(payout.output(7), serialize(&output));
    assert_eq!(payout.size() as usize, serialize(&output).len());
    // As a transaction without inputs costs.
    let transaction = Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: Vec::new(),
        output: vec![output],
    };
    let sigops = transaction.total_sigop_cost(|_| None);
    assert_eq!(usize::from(payout.sigops()), sigops.min(usize::from(u16::MAX)));
}

fn job(outputs: &[(bool, u64)], percent: u16, cut: u8) {
    let most = Amount::MAX_MONEY.to_sat();
    let script = |ours: bool| ScriptBuf::from_bytes(vec![0x51, u8::from(ours)]);
    let outputs: Vec<_> =
        (outputs.iter().take(100)).map(|(ours, value)| (*ours, value % (most / 100))).collect();
    let transaction = Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: vec![bitcoin::TxIn {
            script_sig: ScriptBuf::from_bytes(vec![3, 1, 1, 1, 4, 0, 0, 0, 0]),
            ..Default::default()
        }],
        output: (outputs.iter())
            .map(|(ours, value)| TxOut {
                value: Amount::from_sat(*value),
                script_pubkey: script(*ours),
            })
            .collect(),
    };
    let bytes = serialize(&transaction);
    // Version, count, outpoint, length, and five bytes of script before the extranonce.
    let (prefix, rest) = bytes.split_at(4 + 1 + 36 + 1 + 5);
    let suffix = &rest[4..rest.len() - usize::from(cut).min(rest.len() - 4)];
    let coinbase = adit_mining::coinbase::Coinbase::from_parts(prefix, suffix, 4);
    let parts = adit_mining::job::JobParts {
        id: 1,
        template_id: None,
        version: 0,
        version_rolling_allowed: true,
        merkle_path: Box::default(),
        coinbase: coinbase.expect("parts that are short"),
    };
    let job = adit_mining::Job::extended(parts).expect("a job");
    let payout = config::Payout { address: String::new(), script: script(true).into_bytes() };
    let percent = 1 + u64::from(percent) % 100;
    let pays = guard::Verify { payout: &payout, percent: percent as f64 }.pays(&job);
    if deserialize::<Transaction>(&[prefix, &[0; 4], suffix].concat()).is_err() {
        return assert!(!pays);
    }
    assert_eq!(cut, 0, "a part of a transaction is none");
    let paid: u64 = outputs.iter().filter(|(ours, _)| *ours).map(|(_, value)| value).sum();
    let all: u64 = outputs.iter().map(|(_, value)| value).sum();
    let named = outputs.iter().any(|(ours, _)| *ours);
    let (paid, all) = (u128::from(paid), u128::from(all));
    let share = 100 * paid;
    let least = all * u128::from(percent);
    // It counts in doubles: nothing hangs on the last satoshi of a reward.
    if share.abs_diff(least) > 200 || share == least && share < 1 << 40 {
        assert_eq!(pays, named && (all == 0 || paid > 0 && share >= least));
    }
}
