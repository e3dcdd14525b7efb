//! `scripts/lab`: a whole mining lab on a private chain, as plain processes.

use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use adit_test_env::bitcoind::{Chain, op_true_address};
use adit_test_env::lab::{DemoOptions, FEE, Hand, Lab, Miners, NewAddress, State, addresses_of};
use anyhow::{Context, Result};
use bitcoin::{Amount, Network};
use bitcoincore_rpc::{Auth, RpcApi};
use clap::{Parser, Subcommand, ValueEnum};

/// A whole mining lab on a private chain: a pool with its bitcoind, template provider, Job Declarator Server and
/// translator; a miner's side with a bitcoind, template provider and Job Declarator Clients of its own; five miners
/// (Stratum V1 through the translator, Stratum V2 standard and extended, and two whose blocks are their own node's); and
/// an explorer to look at it.
#[derive(Parser)]
#[command(name = "scripts/lab", version, after_help = EXAMPLES, subcommand_required = true)]
struct Args {
    #[command(subcommand)]
    command: Command,

    /// Folder of the lab's keys, configurations, logs and data [default: .lab in the repository]
    #[arg(long, global = true)]
    dir: Option<PathBuf>,

    /// A node of the lab: bitcoind, or miner-bitcoind for the one on the miner's side of job declaration
    #[arg(long, global = true, value_name = "NAME")]
    node: Option<String>,

    /// Work at this node instead of a lab's: cli, generate, send, new-address and address need no more
    #[arg(long, global = true, value_name = "URL", env = "ADIT_LAB_RPC", conflicts_with = "node")]
    rpc: Option<String>,

    /// That node's cookie file
    #[arg(long, global = true, value_name = "FILE", env = "ADIT_LAB_COOKIE", requires = "rpc")]
    cookie: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything and leave it running.
    Up {
        /// Which private chain.
        #[arg(long, value_enum, default_value_t = NetworkArg::Regtest)]
        network: NetworkArg,
    },
    /// Up, wait for shares and blocks on every path, then down. Exit code 0 if all came.
    Demo {
        /// Which private chain.
        #[arg(long, value_enum, default_value_t = NetworkArg::Regtest)]
        network: NetworkArg,
        /// Print one JSON line on stdout; everything else goes to stderr.
        #[arg(long)]
        json: bool,
        /// Leave the lab up at the end.
        #[arg(long)]
        keep: bool,
        /// Give up after so many seconds.
        #[arg(long, default_value_t = 180, value_name = "SECONDS")]
        timeout: u64,
    },
    /// What runs where, and whether it is ready.
    Status {
        /// As one JSON line.
        #[arg(long)]
        json: bool,
    },
    /// The logs of a role, or of all.
    Logs {
        /// A name that `status` shows, such as bitcoind, pool, jdc or sv1-miner.
        role: Option<String>,
        /// So many lines from the end of each.
        #[arg(long, short = 'n', default_value_t = 40)]
        lines: usize,
        /// Go on as lines are written (one role only).
        #[arg(long, short, requires = "role")]
        follow: bool,
    },
    /// Call the node's RPC: a method and its parameters, as with bitcoin-cli.
    #[command(trailing_var_arg = true)]
    Cli {
        /// Method and parameters; each parameter is JSON or else text.
        #[arg(required = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Have the node itself make blocks.
    Generate {
        /// How many.
        blocks: u64,
    },
    /// Send a transaction into the node's mempool: a coin from the lab's first blocks that anybody may spend.
    Send {
        /// Where to [default: the lab's payout address]
        address: Option<String>,
        /// How many transactions.
        #[arg(long, default_value_t = 1)]
        count: usize,
        /// What each pays to the miner, in satoshis. The pool's node takes none below about 1000.
        #[arg(long, default_value_t = FEE.to_sat(), value_name = "SATS")]
        fee: u64,
    },
    /// A new address and its private key.
    NewAddress,
    /// The addresses of a public key.
    Address {
        /// In hex: 33 bytes, beginning with 02 or 03.
        public_key: String,
    },
    /// Stop everything.
    Down,
}

#[derive(Clone, Copy, ValueEnum)]
enum NetworkArg {
    /// Every share is a block; the subsidy halves every 150 blocks.
    Regtest,
    /// A private signet: shares and blocks are different things.
    Signet,
}

impl From<NetworkArg> for Chain {
    fn from(network: NetworkArg) -> Self {
        match network {
            NetworkArg::Regtest => Self::Regtest,
            NetworkArg::Signet => Self::Signet,
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  scripts/lab demo                    see it work: shares and blocks on all paths, then everything is stopped
  scripts/lab up                      start and leave running
  scripts/lab status                  what runs where
  scripts/lab cli getblockchaininfo   ask the node
  scripts/lab generate 10             ten blocks, made by the node itself
  scripts/lab send --count 5          transactions for the next block
  scripts/lab send --node miner-bitcoind --fee 400
                                      one that only the declaring miner's node has
  scripts/lab new-address             an address and its key
  scripts/lab logs pool --follow      watch the pool
  scripts/lab down                    stop everything";

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode> {
    let root = match std::env::var_os("ADIT_LAB_ROOT") {
        Some(root) => PathBuf::from(root),
        None => std::env::current_dir()?,
    };
    let programs = std::env::current_exe()?;
    let programs = programs.parent().context("this program lies in no folder")?;
    let dir = args.dir.unwrap_or_else(|| root.join(".lab"));
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let dir = dir.canonicalize()?;
    let lab = Lab::new(&dir, programs);
    let hand = || match (&args.rpc, &args.cookie) {
        (Some(url), Some(cookie)) => Hand::with_cookie(url, cookie),
        (Some(url), None) => Hand::at(url, Auth::None),
        (None, _) => lab.hand(&lab.running()?, args.node.as_deref()),
    };
    match args.command {
        Command::Up { network } => up(&lab, network.into()),
        Command::Demo { network, json, keep, timeout } => {
            let within = Duration::from_secs(timeout);
            let options = DemoOptions { network: network.into(), shares: 3, blocks: 2, within };
            demo(&lab, &options, json, keep)
        }
        Command::Status { json } => status(&lab, json),
        Command::Logs { role, lines, follow } => logs(&lab, role.as_deref(), lines, follow),
        Command::Cli { args } => cli(&hand()?, &args),
        Command::Generate { blocks } => answer(&hand()?.generate(blocks)?.join("\n")),
        Command::Send { address, count, fee } => {
            let hand = hand()?;
            let address = match (address, &args.rpc) {
                (Some(address), _) => address,
                (None, None) => lab.running()?.payout_address,
                (None, Some(_)) => op_true_address(chain(hand.network())?).to_string(),
            };
            let sent = hand.send(&address, count, Amount::from_sat(fee))?;
            sent.iter().try_for_each(|txid| answer(&txid.to_string()).map(drop))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::NewAddress => {
            let new = NewAddress::new(hand()?.network())?;
            answer(&format!("address      {}\nprivate key  {}", new.address, new.key))
        }
        Command::Address { public_key } => {
            for (kind, address) in addresses_of(&public_key, hand()?.network())? {
                answer(&format!("{kind:12} {address}"))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Down => {
            lab.down()?;
            say("the lab is down");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn chain(network: Network) -> Result<Chain> {
    let chains = [Chain::Regtest, Chain::Signet];
    let chain = chains.into_iter().find(|chain| chain.network() == network);
    chain.with_context(|| format!("{network} is not a lab's chain"))
}

fn up(lab: &Lab, network: Chain) -> Result<ExitCode> {
    let state = lab.up(network, Miners::steady(network), &say)?;
    answer(&table(&state))?;
    if let Some(explorer) = state.role("explorer").and_then(|role| role.addr.as_ref()) {
        answer(&format!("\nLook at it: http://{explorer}/"))?;
    }
    answer(
        "\nTry next:\n  \
         scripts/lab status\n  \
         scripts/lab cli getblockcount\n  \
         scripts/lab send\n  \
         scripts/lab logs pool --follow\n  \
         scripts/lab down",
    )
}

fn demo(lab: &Lab, options: &DemoOptions, json: bool, keep: bool) -> Result<ExitCode> {
    let result = lab.demo(options, &say);
    let missing = match &result {
        Ok(report) => report.missing(options),
        Err(_) => Vec::new(),
    };
    // A lab that did not do what it should is only worth keeping where somebody asked for it.
    if !keep {
        lab.down()?;
    }
    let report = result?;
    if json {
        answer(&serde_json::to_string(&report)?)?;
    } else {
        answer(&format!(
            "{} {} at height {} after {} s; every block pays {} and says {}",
            report.network,
            report.node,
            report.height,
            report.seconds,
            report.payout_address,
            report.tag
        ))?;
        for path in &report.paths {
            answer(&format!(
                "  {:16} {} shares acknowledged, {} rejected, {} blocks: {}",
                path.name,
                path.shares_accepted,
                path.shares_rejected,
                path.blocks,
                path.block_hashes.first().map_or("none", String::as_str)
            ))?;
            if let Some(chosen) = &path.miner_transactions {
                answer(&format!(
                    "  {:16} {} transactions in them that only the miner's node had",
                    "",
                    chosen.len()
                ))?;
            }
        }
    }
    missing.iter().for_each(|what| say(&format!("missing: {what}")));
    if !missing.is_empty() {
        say(
            "the logs are in the lab's folder: scripts/lab logs, or demo --keep to look at it running",
        );
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn status(lab: &Lab, json: bool) -> Result<ExitCode> {
    let state = lab.running()?;
    if json {
        return answer(&state.to_status().to_string());
    }
    answer(&table(&state))
}

/// One line for each process: what it is, where it serves, and whether it does its job.
fn table(state: &State) -> String {
    let mut lines = vec![
        format!("network          {}", state.network.name()),
        format!("payout address   {}", state.payout_address),
        format!("coinbase tag     {}", state.tag),
        String::new(),
        format!("{:24} {:22} {:22} {:8} state", "name", "serves", "status page", "pid"),
    ];
    for node in &state.nodes {
        let height = Hand::with_cookie(&node.rpc.url, &node.rpc.cookie)
            .and_then(|hand| Ok(hand.rpc().get_block_count()?));
        let height = height.map_or_else(|_| "does not answer".into(), |at| format!("height {at}"));
        let rpc = node.rpc.url.trim_start_matches("http://");
        lines.push(format!(
            "{:24} {rpc:22} {:22} {:<8} {height}, {}",
            node.name, "-", node.process.pid, node.version
        ));
    }
    for role in &state.roles {
        let ready = role
            .ready()
            .map_or_else(|missing| format!("not ready: {missing}"), |()| "ready".into());
        let addr = role.addr.as_deref().unwrap_or("-");
        lines.push(format!(
            "{:24} {addr:22} {:22} {:<8} {ready}",
            role.name, role.http, role.process.pid
        ));
    }
    lines.push(String::new());
    for role in &state.roles {
        if let (Some(addr), Some(key)) = (&role.addr, &role.authority_key) {
            lines.push(format!("{:24} stratum2+tcp://{addr}/{key}", role.name));
        }
    }
    lines.join("\n")
}

fn logs(lab: &Lab, role: Option<&str>, lines: usize, follow: bool) -> Result<ExitCode> {
    for (name, path) in lab.log_files(role)? {
        if role.is_none() {
            answer(&format!("== {name}"))?;
        }
        tail(&path, lines)?;
        if follow {
            follow_file(&path)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tail(path: &Path, lines: usize) -> Result<()> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let text = String::from_utf8_lossy(&text);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().try_for_each(|line| answer(line).map(drop))
}

fn follow_file(path: &Path) -> Result<()> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::End(0))?;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        if reader.read_until(b'\n', &mut line)? == 0 {
            std::thread::sleep(Duration::from_millis(200));
        } else if line.ends_with(b"\n") {
            answer(String::from_utf8_lossy(&line).trim_end())?;
            line.clear();
        }
    }
}

fn cli(hand: &Hand, args: &[String]) -> Result<ExitCode> {
    let Some((method, params)) = args.split_first() else { anyhow::bail!("which method?") };
    let params: Vec<serde_json::Value> = (params.iter())
        .map(|text| serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into()))
        .collect();
    let value: serde_json::Value = hand.rpc().call(method, &params)?;
    answer(&match value {
        serde_json::Value::String(text) => text,
        other => serde_json::to_string_pretty(&other)?,
    })
}

/// What was asked for, on stdout.
fn answer(text: &str) -> Result<ExitCode> {
    writeln!(std::io::stdout(), "{text}").context("writing to stdout")?;
    Ok(ExitCode::SUCCESS)
}

/// Progress and advice, on stderr.
fn say(text: &str) {
    eprintln!("lab: {text}");
}
