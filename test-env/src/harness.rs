//! The harness: any set of roles as processes or in this process, on a real node, with what a test needs to look at them.
//!
//! A [`Setup`] says how a role is to run; [`Setup::start`] gives a [`Role`], which is asked over its pages, killed and
//! brought back at the same address with the same data. Ports are free ones, keys are generated, and everything a role
//! writes goes into a folder of its own. When a test fails, the ends of the logs are shown.
//!
//! ```no_run
//! use std::time::Duration;
//! use adit_test_env::harness::{self, Setup};
//!
//! let node = harness::regtest()?;
//! let provider = Setup::template_provider(&node).start()?;
//! let pool = Setup::pool(&provider.endpoint()).set("shares", "per_minute", 60).start()?;
//! let miner = Setup::device("sv2-extended", &pool.endpoint()).arg("--hashrate", "20k").start()?;
//! miner.wait_ready(Duration::from_secs(60))?;
//! # anyhow::Ok(())
//! ```

mod chain;
mod config;
mod declarer;
mod peer;
mod role;
mod stack;

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use adit_sv2::keys::AuthorityPublicKey;
use anyhow::{Context, Result};

use crate::bitcoind::{Bitcoind, Chain, Options};
use crate::sniffer::Sniffer;

pub use crate::ports::free_port;
pub use chain::{Blocks, FoundBlock};
pub use config::Setup;
pub use declarer::{Allocated, Answer, Declarer, Job};
pub use peer::{LinePeer, Sv2Peer, read_to_end};
pub use role::{Metrics, Role};
pub use stack::Stack;

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);

/// Blocks that [`regtest`] starts with: the first ones' coins can be spent.
pub const START_BLOCKS: usize = 110;

/// Where a role is reached, and who it proves to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// Address and port.
    pub addr: SocketAddr,
    /// The authority key; none where no Stratum V2 is spoken.
    pub key: Option<AuthorityPublicKey>,
}

impl From<&Sniffer> for Endpoint {
    fn from(sniffer: &Sniffer) -> Self {
        Self { addr: sniffer.addr(), key: sniffer.authority_key() }
    }
}

/// A regtest node with coins to spend, on a port that is its own for as long as this process lives.
///
/// # Errors
/// There is no node, or it does not start.
pub fn regtest() -> Result<Bitcoind> {
    let node = node(Options::default())?;
    node.generate(START_BLOCKS)?;
    // A power failure takes nothing of this.
    node.flush()?;
    Ok(node)
}

/// A node of any kind, on such a port.
///
/// # Errors
/// There is no node, or it does not start.
pub fn node(options: Options) -> Result<Bitcoind> {
    Bitcoind::start(Options { rpc_port: Some(free_port()?), ..options })
}

/// An address of `chain` to be paid, that the node knows nothing about.
pub fn payout_address(chain: Chain) -> String {
    let hash = bitcoin::WPubkeyHash::from_raw_hash(bitcoin::hashes::Hash::from_byte_array([7; 20]));
    let script = bitcoin::ScriptBuf::new_p2wpkh(&hash);
    let address = bitcoin::Address::from_script(&script, chain.network());
    address.expect("a p2wpkh script has an address").to_string()
}

/// The program `adit-NAME` that cargo built beside the running test.
///
/// # Errors
/// It was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let file = format!("adit-{name}");
    let running = env::current_exe().context("where this program is")?;
    // Tests are in `target/PROFILE/deps`, programs in `target/PROFILE`.
    let found = running.ancestors().skip(1).take(3).map(|dir| dir.join(&file));
    found.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("{file} is not there: build the programs first with `cargo build --bins`")
    })
}

/// Waits until `holds`; panics with `what` if it does not within `deadline`.
#[track_caller]
pub fn eventually(deadline: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    eventually_some(deadline, what, || holds().then_some(()));
}

/// Waits for a value; panics with `what` if there is none within `deadline`.
#[track_caller]
pub fn eventually_some<T>(deadline: Duration, what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = get() {
            return value;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        thread::sleep(POLL);
    }
}
