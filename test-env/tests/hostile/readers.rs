//! Who never reads.

use std::net::Ipv4Addr;
use std::process::{Child, Stdio};

use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::messages::common::{PROTOCOL_MINING, PROTOCOL_TEMPLATE_DISTRIBUTION};
use adit_sv2::messages::template_distribution::{
    CoinbaseOutputConstraints, NewTemplate, RequestTransactionData,
};
use adit_test_env::bitcoind::{coins_of, spawn_tied, split, tied};
use adit_test_env::harness::{Sv2Peer, eventually, program};

use super::*;

/// Clients that ask and ask and read no answer.
#[test]
fn peers_that_never_read() {
    let mut works = Works::start();
    let mut kept = Vec::new();

    // A V1 miner whose questions have long answers.
    let translator = works.translator();
    let hello = "{\"id\":1,\"method\":\"mining.authorize\",\"params\":[\"hostile\",\"x\"]}\n";
    let question = "{\"id\":2,\"method\":\"mining.subscribe\",\"params\":[]}\n".repeat(1_000);
    kept.push(floods(translator.endpoint().addr, [hello, &question].concat().into_bytes()));
    works.closes(translator, "Miner", "slow-reader", 1);

    // A miner that opens channels, each of which is told of every block: it requires standard jobs, so that none is for a
    // group.
    let pool = works.pool();
    let (mut stream, mut sealer) = shaken(&pool.endpoint());
    let mut sealed = Vec::new();
    sealer.seal(&frame_of(&Sv2Peer::setup_connection(PROTOCOL_MINING, 1)), &mut sealed).unwrap();
    for request_id in 0..15_000 {
        sealer.seal(&frame_of(&open_standard(request_id, 1.0)), &mut sealed).unwrap();
    }
    stream.set_write_timeout(Some(SOON)).unwrap();
    // Closed before or after all is said.
    let _ = stream.write_all(&sealed);
    works.closes(pool, "Miner", "slow-reader", 1);
    kept.push(stream);

    works.are_unharmed();
}

/// Says the same until the other end takes no more.
fn floods(addr: SocketAddr, bytes: Vec<u8>) -> TcpStream {
    let stream = tcp(addr);
    let mut writer = stream.try_clone().unwrap();
    // Bounded in any case: the socket's buffers are full long before that.
    writer.set_write_timeout(Some(LATER)).unwrap();
    thread::spawn(move || (0..1_000).all(|_| writer.write_all(&bytes).is_ok()));
    stream
}

/// A client of a template provider that asks for whole blocks and reads none costs it neither memory nor time.
#[test]
fn a_client_that_never_reads_blocks() {
    let node = harness::regtest().unwrap();
    // 600 KB of transactions.
    let fee = bitcoin::Amount::from_sat(1_000_000);
    let coins = node.coins().unwrap();
    let sent: Vec<_> = coins[..8].iter().map(|coin| split(coin, 1_700, fee).unwrap()).collect();
    node.send(&sent).unwrap();
    assert_eq!(coins_of(&sent[0]).len(), 1_700);
    let provider = Setup::template_provider(&node).start().unwrap();
    provider.wait_ready(SOON).unwrap();
    let server = provider.endpoint();
    let constraints = CoinbaseOutputConstraints {
        coinbase_output_max_additional_size: 100,
        coinbase_output_max_additional_sigops: 0,
    };
    let mut reads = Sv2Peer::set_up(&server, PROTOCOL_TEMPLATE_DISTRIBUTION, 0).unwrap();
    reads.send(&constraints).unwrap();
    let template_id = loop {
        let template = reads.wait_for("NewTemplate", SOON).unwrap();
        let (template, _) = NewTemplate::decode(template.frame().1).unwrap();
        if !template.merkle_path.is_empty() {
            break template.template_id;
        }
    };
    reads.send(&RequestTransactionData { template_id }).unwrap();
    let data = reads.wait_for("RequestTransactionData.Success", SOON).unwrap();
    assert!(data.bytes.len() > 500_000, "{}", data.bytes.len());

    let before = provider.metrics().unwrap().sum("adit_process_resident_memory_bytes", &[]);
    let (mut stream, mut sealer) = shaken(&server);
    let mut sealed = Vec::new();
    let setup = Sv2Peer::setup_connection(PROTOCOL_TEMPLATE_DISTRIBUTION, 0);
    sealer.seal(&frame_of(&setup), &mut sealed).unwrap();
    sealer.seal(&frame_of(&constraints), &mut sealed).unwrap();
    let request = frame_of(&RequestTransactionData { template_id });
    (0..1_000).for_each(|_| sealer.seal(&request, &mut sealed).unwrap());
    stream.write_all(&sealed).unwrap();
    closes(&provider, "Client", "slow-reader", 0.0, 1);
    let peak = peak_memory(provider.pid().unwrap());
    assert!(peak < before + 150e6, "{before} bytes became {peak}");

    node.generate(1).unwrap();
    reads.wait_for("SetNewPrevHash", SOON).unwrap();
}

/// The most bytes that a process has ever used.
fn peak_memory(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024.0 * line.trim().trim_end_matches(" kB").parse::<f64>().unwrap()
}

/// The log goes to a pipe that nobody empties, of 64 KiB, which a few hundred connections fill.
#[test]
fn a_log_that_nobody_reads() {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, harness::free_port().unwrap()));
    let nobody =
        Endpoint { addr, key: Some(AuthoritySecretKey::from_entropy([7; 32]).unwrap().public()) };
    let mut role = Setup::translator(&nobody).set("log", "level", "trace").start().unwrap();
    role.kill9().unwrap();
    let mut command = tied(program("translator").unwrap());
    command.args(["run", "-c"]).arg(role.dir().join("config.toml")).stderr(Stdio::piped());
    let mut translator = Ended(spawn_tied(command).unwrap());
    let _unread = translator.0.stderr.take().unwrap();
    let addr = role.endpoint().addr;
    eventually(SOON, "it listens", || TcpStream::connect(addr).is_ok());
    let dropped = || role.metrics().unwrap().sum("adit_log_lines_dropped_total", &[]) > 0.0;
    let mut miners = 0;
    while !dropped() {
        assert!(miners < 20_000, "nothing of the log was dropped");
        for _ in 0..500 {
            let mut miner = TcpStream::connect(addr).unwrap();
            miner.set_read_timeout(Some(SOON)).unwrap();
            miner
                .write_all(b"{\"id\":1,\"method\":\"mining.configure\",\"params\":[[],{}]}\n")
                .unwrap();
            // From under the lock that every connection needs.
            assert!(miner.read(&mut [0; 512]).unwrap() > 0);
            miners += 1;
        }
    }
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
