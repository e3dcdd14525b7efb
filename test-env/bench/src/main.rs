//! Adit beside SRI's crates: same run, same inputs, one thread, both sides' results checked.
//!
//! `scripts/bench` builds and runs it; `docs/benchmarks.md` says what each item means.

use std::io::Write;

use adit_bench::{Item, run_all};
use clap::Parser;

/// Measures Adit beside SRI's crates.
#[derive(Parser)]
struct Args {
    /// One line of JSON on stdout instead of a table.
    #[arg(long)]
    json: bool,
    /// Only items whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Measurements of each side per item; they take turns, the median counts.
    #[arg(long, value_name = "N", default_value_t = 15)]
    rounds: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    anyhow::ensure!(args.rounds > 0, "--rounds must be at least 1");
    let items = run_all(&args.only, args.rounds)?;
    let text = if args.json { json(&items) } else { table(&items) };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

fn json(items: &[Item]) -> String {
    let rounded = |value: f64, digits: i32| {
        let scale = 10f64.powi(digits);
        (value * scale).round() / scale
    };
    let items: Vec<_> = items
        .iter()
        .map(|item| {
            serde_json::json!({
                "name": item.name,
                "ours": rounded(item.ours, 0),
                "peer": item.peer.map(|peer| rounded(peer, 0)),
                "unit": "per_second",
                "ratio": item.ratio.map(|ratio| rounded(ratio, 2)),
            })
        })
        .collect();
    serde_json::json!({ "items": items }).to_string()
}

fn table(items: &[Item]) -> String {
    let mut lines = vec![format!(
        "{:<28} {:>14} {:>14} {:>8}   {:>11} {:>11}",
        "per second", "Adit", "SRI", "times", "Adit, us", "SRI, us"
    )];
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    for item in items {
        lines.push(format!(
            "{:<28} {:>14.0} {:>14} {:>8}   {:>11.3} {:>11}",
            item.name,
            item.ours,
            number(item.peer, 0),
            number(item.ratio, 2),
            1e6 / item.ours,
            number(item.peer.map(|peer| 1e6 / peer), 3),
        ));
    }
    lines.join("\n")
}
