//! What `adit-bench` measures.
//!
//! Every item is one operation, done by Adit's crates and by SRI's on the same inputs. Inputs are
//! made and results are checked outside of the timed part.

mod handshake;
mod jobs;
mod measure;
mod shares;
mod wire;
mod world;

pub use measure::Item;

/// Measures all items whose name contains `only`, in the order of the report.
///
/// # Errors
/// Where the two sides do not agree on a result: then no figure means anything.
pub fn run_all(only: &str, rounds: usize) -> anyhow::Result<Vec<Item>> {
    type Bench = fn(usize) -> anyhow::Result<Item>;
    let benches: [(&str, Bench); 7] = [
        ("encrypt_encode_share", wire::encrypt_encode_share),
        ("decrypt_decode_share", wire::decrypt_decode_share),
        ("responder_handshake", handshake::responder_handshake),
        ("check_share_merkle12", shares::check_share_merkle12),
        ("check_share_standard", shares::check_share_standard),
        ("plain_decode_share", wire::plain_decode_share),
        ("job_from_template_merkle12", jobs::job_from_template_merkle12),
    ];
    benches.iter().filter(|(name, _)| name.contains(only)).map(|(_, bench)| bench(rounds)).collect()
}

#[cfg(test)]
mod tests {
    /// One round of everything: the two sides agree.
    #[test]
    fn both_sides_agree() {
        let items = super::run_all("", 1).unwrap();
        assert_eq!(items.len(), 7);
        for item in items {
            assert!(item.ours > 0.0, "{}", item.name);
            assert!(item.ratio.is_some_and(|ratio| ratio > 0.0), "{}", item.name);
        }
    }
}
