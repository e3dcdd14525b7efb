//! A bitcoind's RPC over a chain that the test moves as it likes: no rules, no peers, no disk.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::hashes::Hash;
use bitcoin::{Block, BlockHash};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Kept over restarts of the node.
#[derive(Clone)]
pub struct FakeNode {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    tip: watch::Sender<BlockHash>,
}

struct State {
    chain_name: &'static str,
    /// From height 0.
    chain: Vec<BlockHash>,
    /// Of the blocks' headers.
    median_time: u32,
    /// Transactions in the mempool: raw and fee.
    mempool: Vec<(bitcoin::Transaction, u64)>,
    submitted: Vec<Block>,
    on_submit: Box<dyn Fn(&Block) + Send>,
    /// What every call is answered with, if anything: an RPC error, or an HTTP status.
    error: Option<(i64, &'static str)>,
    status: u16,
    task: Option<JoinHandle<()>>,
}

pub const USER: &str = "adit:secret";

impl FakeNode {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let genesis = hash(0, 0);
        let state = State {
            chain_name: "regtest",
            chain: vec![genesis],
            median_time: 1_700_000_000,
            mempool: Vec::new(),
            submitted: Vec::new(),
            on_submit: Box::new(|_| ()),
            error: None,
            status: 200,
            task: None,
        };
        let node = Self {
            addr: listener.local_addr().unwrap(),
            state: Arc::new(Mutex::new(state)),
            tip: watch::Sender::new(genesis),
        };
        node.serve(listener);
        node
    }

    /// Kills the node: connections break, nothing listens.
    pub async fn kill(&self) {
        let task = self.with(|state| state.task.take()).expect("the node runs");
        task.abort();
        let _ = task.await;
    }

    /// Starts it again on the same port.
    pub async fn restart(&self) {
        self.serve(TcpListener::bind(self.addr).await.unwrap());
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// A block from elsewhere; `branch` tells blocks at the same height apart.
    pub fn extend(&self, branch: u8) -> BlockHash {
        let hash = self.with(|state| {
            let hash = hash(state.chain.len() as u32, branch);
            state.chain.push(hash);
            hash
        });
        self.tip.send_replace(hash);
        hash
    }

    /// Forgets all blocks above `height`.
    pub fn rewind(&self, height: usize) {
        let tip = self.with(|state| {
            state.chain.truncate(height + 1);
            state.chain[height]
        });
        self.tip.send_replace(tip);
    }

    pub fn add_transaction(&self, salt: u64, fee: u64) {
        let transaction = bitcoin::Transaction {
            version: bitcoin::transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: vec![bitcoin::TxIn::default()],
            output: vec![bitcoin::TxOut {
                value: bitcoin::Amount::from_sat(salt),
                script_pubkey: bitcoin::ScriptBuf::new(),
            }],
        };
        self.with(|state| state.mempool.push((transaction, fee)));
    }

    pub fn tip(&self) -> BlockHash {
        *self.tip.borrow()
    }

    pub fn chain(&self) -> Vec<BlockHash> {
        self.with(|state| state.chain.clone())
    }

    pub fn submitted(&self) -> Vec<Block> {
        self.with(|state| state.submitted.clone())
    }

    pub fn on_submit(&self, on_submit: impl Fn(&Block) + Send + 'static) {
        self.with(|state| state.on_submit = Box::new(on_submit));
    }

    pub fn set_chain_name(&self, name: &'static str) {
        self.with(|state| state.chain_name = name);
    }

    pub fn set_error(&self, error: Option<(i64, &'static str)>) {
        self.with(|state| state.error = error);
    }

    pub fn set_status(&self, status: u16) {
        self.with(|state| state.status = status);
    }

    fn with<R>(&self, with: impl FnOnce(&mut State) -> R) -> R {
        with(&mut self.state.lock().unwrap())
    }

    fn serve(&self, listener: TcpListener) {
        let node = self.clone();
        let task = tokio::spawn(async move {
            // Dropped with the task, and with it all connections.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(node.clone().connection(stream));
            }
        });
        self.with(|state| state.task = Some(task));
    }

    async fn connection(self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        while let Some(body) = read_request(&mut stream, &mut buffer).await {
            let call: Value = serde_json::from_slice(&body).unwrap();
            let (status, reply) = self.answer(&call).await;
            let reply = reply.to_string();
            let head = format!(
                "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                reply.len()
            );
            if stream.write_all(format!("{head}{reply}").as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&self, call: &Value) -> (u16, Value) {
        let (status, error) = self.with(|state| (state.status, state.error));
        if status != 200 {
            return (status, Value::Null);
        }
        let result = match error {
            Some(error) => Err(error),
            None => self.call(call["method"].as_str().unwrap(), &call["params"]).await,
        };
        match result {
            Ok(result) => (200, json!({ "result": result, "error": null, "id": call["id"] })),
            Err((code, message)) => (
                500,
                json!({ "result": null, "error": { "code": code, "message": message }, "id": call["id"] }),
            ),
        }
    }

    async fn call(&self, method: &str, params: &Value) -> Result<Value, (i64, &'static str)> {
        if method == "waitfornewblock" {
            let wait = Duration::from_millis(params[0].as_u64().unwrap());
            let known: BlockHash = params[1].as_str().unwrap().parse().unwrap();
            let mut tip = self.tip.subscribe();
            let _ = tokio::time::timeout(wait, tip.wait_for(|tip| *tip != known)).await;
        }
        self.with(|state| {
            let height = state.chain.len() - 1;
            let tip = state.chain[height].to_string();
            Ok(match method {
                "waitfornewblock" => json!({ "hash": tip, "height": height }),
                "getbestblockhash" => json!(tip),
                "getblockchaininfo" => json!({
                    "chain": state.chain_name, "blocks": height, "headers": height,
                    "bestblockhash": tip, "initialblockdownload": true,
                }),
                "getnetworkinfo" => json!({ "version": 1, "subversion": "/fake/", "connections": 0 }),
                "getmempoolinfo" => json!({ "bytes": 0 }),
                "getblockheader" => {
                    let hash: BlockHash = params[0].as_str().unwrap().parse().unwrap();
                    let Some(at) = state.chain.iter().position(|other| *other == hash) else {
                        return Err((-5, "Block not found"));
                    };
                    json!({
                        "hash": hash.to_string(), "confirmations": state.chain.len() - at, "height": at, "time": state.median_time,
                        "mediantime": state.median_time, "bits": "207fffff",
                    })
                }
                "getblocktemplate" => state.template(),
                "submitblock" => return Ok(self.submit(state, params[0].as_str().unwrap())),
                other => panic!("{other} is not expected"),
            })
        })
    }

    fn submit(&self, state: &mut State, hex: &str) -> Value {
        let block: Block = bitcoin::consensus::encode::deserialize_hex(hex).unwrap();
        (state.on_submit)(&block);
        let hash = block.block_hash();
        let duplicate = state.chain.contains(&hash);
        let extends = state.chain.last() == Some(&block.header.prev_blockhash);
        let known = state.chain.contains(&block.header.prev_blockhash);
        assert!(block.check_merkle_root() && block.check_witness_commitment());
        state.submitted.push(block);
        if duplicate {
            return json!("duplicate");
        }
        if extends {
            state.chain.push(hash);
            self.tip.send_replace(hash);
            return Value::Null;
        }
        json!(if known { "inconclusive" } else { "prev-blk-not-found" })
    }
}

impl State {
    fn template(&self) -> Value {
        let height = self.chain.len() as u32;
        let fees: u64 = self.mempool.iter().map(|(_, fee)| fee).sum();
        let rows: Vec<Value> = self
            .mempool
            .iter()
            .map(|(transaction, fee)| {
                json!({
                    "data": bitcoin::consensus::encode::serialize_hex(transaction),
                    "txid": transaction.compute_txid().to_string(), "hash": transaction.compute_wtxid().to_string(),
                    "fee": fee, "sigops": 0, "weight": transaction.weight().to_wu(), "depends": [],
                })
            })
            .collect();
        json!({
            "version": 0x2000_0000, "rules": ["!segwit"], "previousblockhash": self.chain.last().map(BlockHash::to_string),
            "transactions": rows, "coinbasevalue": 5_000_000_000u64 + fees, "longpollid": "",
            "target": "7fffff0000000000000000000000000000000000000000000000000000000000",
            "mintime": self.median_time + 1, "curtime": self.median_time + 1, "bits": "207fffff",
            "height": height, "sigoplimit": 80_000, "sizelimit": 4_000_000, "weightlimit": 4_000_000,
        })
    }
}

fn hash(height: u32, branch: u8) -> BlockHash {
    let mut bytes = [branch; 32];
    bytes[..4].copy_from_slice(&height.to_le_bytes());
    BlockHash::from_byte_array(bytes)
}

/// The body of the next request, or nothing when the client hangs up.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
            let length: usize = length.trim().parse().unwrap();
            if buffer.len() >= end + 4 + length {
                let body = buffer[end + 4..end + 4 + length].to_vec();
                buffer.drain(..end + 4 + length);
                return Some(body);
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
