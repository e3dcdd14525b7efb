//! The binary: killed in the middle of mining, and given wrong configurations.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use adit_pool::store::Store;
use common::{Miner, News, TemplateProvider, authority, config};

/// A pool as a process; killed when dropped.
struct Process(Child);

impl Process {
    fn start(config: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_adit-pool"))
            .args(["run", "-c"])
            .arg(config)
            .env_remove("RUST_LOG")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: &str) {
        let order = format!("kill -{signal} {}", self.0.id());
        assert!(Command::new("sh").args(["-c", &order]).status().unwrap().success());
    }

    fn kill(&mut self) {
        self.0.kill().unwrap(); // SIGKILL
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An address of the loopback for a pool that is killed and comes back: each process of tests has a range of its own, and
/// nothing but these tests uses it, so that the port stays free meanwhile.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(34_254);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    (Ipv4Addr::new(127, 64 | high, middle, low), port).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9_and_blocks_are_submitted_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut provider = TemplateProvider::start().await;
    let address = own_address();
    let file = folder.path().join("pool.toml");
    std::fs::write(&file, config(folder.path(), address, &provider, "shares.ack_batch = 3"))
        .unwrap();
    let mut pool = Process::start(&file);
    let mut miner = Miner::start(address, authority(1).public());
    let mut acknowledged = 0;
    for _ in 0..3 {
        miner.work().await;
        let block = miner.submit_block();
        provider.solution_with(block).await;
        miner.accepted(1).await;
        miner.submit(200);
        // Killed while some are acknowledged and others on their way.
        acknowledged += 1;
        while let News::Accepted(more) = miner.next().await {
            acknowledged += u64::from(more);
            if more > 0 {
                break;
            }
        }
        pool.kill();
        loop {
            match miner.next().await {
                News::Accepted(more) => acknowledged += u64::from(more),
                News::Closed => break,
                News::Work | News::Refused(_) | News::SentTo(..) | News::Prefix => {}
            }
        }
        let store = Store::open(&folder.path().join("pool.redb")).unwrap();
        let stored = store.totals(1).unwrap().accepted;
        assert!(
            stored >= acknowledged,
            "{stored} of {acknowledged} acknowledged shares are stored"
        );
        assert!(!store.pending_blocks().unwrap().is_empty());
        drop(store);
        provider.forget_solutions();
        pool = Process::start(&file);
        // The block of the former run, again.
        provider.solution_with(block).await;
    }
    // Mining goes on, nobody else restarted.
    miner.work().await;
    miner.submit(3);
    miner.accepted(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn miners_are_sent_elsewhere_on_sigusr1_and_before_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut provider = TemplateProvider::start().await;
    let address = own_address();
    let file = folder.path().join("pool.toml");
    let more = "drain.host = \"next.example\"\ndrain.port = 4321\ndrain.seconds = 7";
    std::fs::write(&file, config(folder.path(), address, &provider, more)).unwrap();
    let mut pool = Process::start(&file);
    let mut miner = Miner::start(address, authority(1).public());
    miner.work().await;
    // Another server_id in the file.
    let changed = format!("{more}\ncoinbase.server_id = 9");
    std::fs::write(&file, config(folder.path(), address, &provider, &changed)).unwrap();
    pool.signal("HUP");
    assert!(matches!(miner.next().await, News::Prefix));
    let sent = |news: News| match news {
        News::SentTo(host, port) => assert_eq!((host.as_str(), port), ("next.example", 4321)),
        other => panic!("{other:?}"),
    };
    // Another prefix first: what is found then has it.
    pool.signal("USR2");
    assert!(matches!(miner.next().await, News::Prefix));
    miner.submit(1);
    miner.accepted(1).await;
    pool.signal("USR1");
    sent(miner.next().await);
    // It stays, and is served.
    miner.submit(1);
    miner.accepted(1).await;
    let mut late = Miner::start(address, authority(1).public());
    late.work().await;
    sent(late.next().await);
    // Both were told already. Until they are gone the pool works, and its blocks are submitted.
    pool.signal("TERM");
    let block = late.submit_block();
    provider.solution_with(block).await;
    late.accepted(1).await;
    drop((late, miner));
    assert!(tokio::task::spawn_blocking(move || pool.0.wait()).await.unwrap().unwrap().success());
}

#[test]
fn a_wrong_configuration_is_one_line_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pool.toml");
    let good = format!(
        "network = \"regtest\"\nauthority.secret_key = \"{}\"\n[[template_provider]]\naddress = \"127.0.0.1:8442\"\n[coinbase]\n",
        *authority(1).to_text()
    );
    let address = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4";
    for (line, wanted) in [
        ("adress = \"x\"", ":6: coinbase.adress: ".to_owned()),
        (
            &format!("output = \"{address}\""),
            format!(
                ":6: coinbase.output: address {address} belongs to another network than regtest"
            ),
        ),
        (
            "output = \"raw(51)\"\ntag = \"\\u0007\"",
            ":7: coinbase.tag: must be printable ASCII".to_owned(),
        ),
    ] {
        std::fs::write(&file, format!("{good}{line}\n")).unwrap();
        for command in ["check", "run"] {
            let output = Command::new(env!("CARGO_BIN_EXE_adit-pool"))
                .args([command, "-c"])
                .arg(&file)
                .output()
                .unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(stderr.contains(&format!("{}{wanted}", file.display())), "{stderr}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
    }
}
