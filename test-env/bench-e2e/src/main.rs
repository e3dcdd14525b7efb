//! A translator in front of a pool, under load of Stratum V1: memory, connections, jobs, shares.
//!
//! `scripts/bench --e2e` builds and runs it; `docs/benchmarks.md` says what each item means.

mod jobs;
mod miners;
mod relay;
mod shares;
mod sides;
mod soak;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::json;

use sides::Side;

/// Measures translator and pool end to end; SRI's beside Adit's where their programs are.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// One line of JSON on stdout instead of a table.
    #[arg(long)]
    json: bool,
    /// Only items whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Folder with SRI's `translator_sv2`; with `pool_sv2` in it too, that one's pool is measured as well.
    #[arg(long, value_name = "DIR", env = "SRI_BIN")]
    sri: Option<PathBuf>,
    /// Blocks that each figure about jobs is the median of.
    #[arg(long, value_name = "N", default_value_t = 20)]
    blocks: usize,
    /// Seconds of load for shares per second.
    #[arg(long, value_name = "N", default_value_t = 15)]
    seconds: u64,
    /// Leave out Adit's own programs.
    #[arg(long)]
    without_adit: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Holds thousands of connections at translator and pool for minutes, with a block every 5 seconds: fails where one is
    /// lost or is not told of a block.
    Soak(soak::Options),
    #[command(flatten)]
    Load(soak::Load),
}

/// One figure.
struct Item {
    name: &'static str,
    side: &'static str,
    value: f64,
    unit: &'static str,
    note: String,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With nobody to read it the code must do.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut args: Args) -> anyhow::Result<()> {
    match args.command.take() {
        None => measure(&args),
        Some(Command::Load(load)) => load.run(),
        Some(Command::Soak(options)) => {
            let outcome = soak::run(&options)?;
            print(&outcome.items, options.json)?;
            anyhow::ensure!(outcome.faults.is_empty(), "{}", outcome.faults.join("\n"));
            Ok(())
        }
    }
}

fn measure(args: &Args) -> anyhow::Result<()> {
    let mut sides = Vec::new();
    if !args.without_adit {
        sides.push(Side::Adit);
    }
    if let Some(dir) = &args.sri {
        let (translator, pool) = (dir.join("translator_sv2"), dir.join("pool_sv2"));
        anyhow::ensure!(translator.is_file(), "{} is not there", translator.display());
        sides.push(Side::Sri { translator: translator.clone() });
        if pool.is_file() {
            sides.push(Side::SriBoth { translator, pool });
        }
    }
    let mut items = Vec::new();
    for side in &sides {
        for (count, name) in [(1_000, "job_last_of_1000_ms"), (5_000, "job_last_of_5000_ms")] {
            let names = [name, "v1_rss_per_connection_kib", "v1_connect_rate"];
            let all = if count == 1_000 { &names[..1] } else { &names[..] };
            if all.iter().any(|name| name.contains(&args.only)) {
                items.extend(jobs::measure(side, count, name, args.blocks)?);
            }
        }
        for (connections, name) in
            [(2, "e2e_shares_per_second"), (200, "e2e_shares_per_second_of_200")]
        {
            if name.contains(&args.only) {
                items.extend(shares::measure(side, args.seconds, name, connections)?);
            }
        }
    }
    items.retain(|item| item.name.contains(&args.only));
    print(&items, args.json)
}

/// On stdout; a table for people always.
fn print(items: &[Item], as_json: bool) -> anyhow::Result<()> {
    let (table, mut stdout) = (table(items), std::io::stdout());
    if as_json {
        writeln!(std::io::stderr(), "{table}")?;
        writeln!(stdout, "{}", json(items))?;
    } else {
        writeln!(stdout, "{table}")?;
    }
    Ok(())
}

fn json(items: &[Item]) -> String {
    let mut names: Vec<&str> = items.iter().map(|item| item.name).collect();
    names.sort_unstable();
    names.dedup();
    let value = |name: &str, side: &str| {
        let item = items.iter().find(|item| item.name == name && item.side == side);
        item.map(|item| (item.value * 100.0).round() / 100.0)
    };
    let items: Vec<_> = names
        .into_iter()
        .filter_map(|name| {
            let unit = items.iter().find(|item| item.name == name)?.unit;
            // What comes of translator and pool together is held against both of SRI's, all else against its translator.
            let peers = match name {
                _ if name.starts_with("e2e_shares") => ["sri-both", "sri"],
                _ => ["sri", "sri-both"],
            };
            let peer = peers.iter().find_map(|side| value(name, side));
            let ours = value(name, "adit");
            let ratio = ours.zip(peer).map(|(ours, peer)| match unit {
                "per_second" => ours / peer,
                _ => peer / ours,
            });
            let ratio = ratio.map(|ratio| (ratio * 100.0).round() / 100.0);
            Some(json!({"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio}))
        })
        .collect();
    json!({ "items": items }).to_string()
}

fn table(items: &[Item]) -> String {
    let line = |item: &Item| {
        format!(
            "{:<30} {:<8} {:>12.2} {:<14} {}",
            item.name, item.side, item.value, item.unit, item.note
        )
    };
    items.iter().map(line).collect::<Vec<_>>().join("\n")
}
