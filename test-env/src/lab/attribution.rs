//! Whose block is it? Read from the coinbase in the node's chain, not from what a role says.

use anyhow::{Context, Result};
use bitcoin::{Address, Block, Network, Transaction};

/// A way from the chain to a miner and back.
#[derive(Clone, Debug)]
pub struct Path {
    /// Such as `sv1` or `jd-full-template`.
    pub name: &'static str,
    /// What the coinbase says.
    pub tag: String,
    /// Every fixed start of a coinbase extranonce that the miner was given. Empty where the tag alone tells: a Job
    /// Declarator Client's own coinbase has what its miners roll behind what the pool gave it.
    pub prefixes: Vec<Vec<u8>>,
}

/// What a coinbase tells.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CoinbaseView {
    /// The pushes of the scriptSig in order: height, tag, extranonce.
    pub pushes: Vec<Vec<u8>>,
    /// The address of every output that has one, with its satoshis.
    pub paid: Vec<(String, u64)>,
}

impl CoinbaseView {
    /// Reads a block's coinbase.
    ///
    /// # Errors
    /// Where the block has none.
    pub fn of(block: &Block, network: Network) -> Result<Self> {
        let coinbase = block.coinbase().context("a block without a coinbase")?;
        Ok(Self { pushes: pushes(coinbase), paid: paid(coinbase, network) })
    }

    /// The extranonce: the last push.
    pub fn extranonce(&self) -> &[u8] {
        self.pushes.last().map_or(&[], Vec::as_slice)
    }

    /// Whether this is a block of the lab: it pays the address and carries the tag, or one that begins with it.
    pub fn is_of(&self, payout_address: &str, tag: &str) -> bool {
        let pays = self.paid.iter().any(|(to, value)| to == payout_address && *value > 0);
        pays && self.pushes.iter().any(|push| push.starts_with(tag.as_bytes()))
    }

    /// The path with this tag whose miner was given the start of this extranonce: the longest match, since the extranonce
    /// of a path that ends in a translator begins with a prefix of the pool's as well.
    pub fn path<'p>(&self, paths: &'p [Path]) -> Option<&'p Path> {
        let matched = |path: &Path| {
            if !self.pushes.iter().any(|push| push == path.tag.as_bytes()) {
                return None;
            }
            if path.prefixes.is_empty() {
                return Some(0);
            }
            let starts = path.prefixes.iter().filter(|p| self.extranonce().starts_with(p));
            starts.map(Vec::len).max().filter(|length| *length > 0)
        };
        let (_, path) = paths.iter().filter_map(|p| Some((matched(p)?, p))).max_by_key(|m| m.0)?;
        Some(path)
    }
}

fn pushes(coinbase: &Transaction) -> Vec<Vec<u8>> {
    let script = coinbase.input.first().map(|input| &input.script_sig);
    let instructions = script.into_iter().flat_map(|script| script.instructions());
    (instructions.flatten())
        .filter_map(|instruction| instruction.push_bytes().map(|push| push.as_bytes().to_vec()))
        .collect()
}

fn paid(coinbase: &Transaction, network: Network) -> Vec<(String, u64)> {
    let address = |script| Address::from_script(script, network).ok();
    (coinbase.output.iter())
        .filter_map(|out| Some((address(&out.script_pubkey)?.to_string(), out.value.to_sat())))
        .collect()
}

#[cfg(test)]
mod tests {
    use bitcoin::constants::genesis_block;

    use super::*;

    #[test]
    fn the_genesis_coinbase_is_read() {
        let view = CoinbaseView::of(&genesis_block(Network::Regtest), Network::Regtest).unwrap();
        assert!(view.extranonce().starts_with(b"The Times 03/Jan/2009"));
        assert!(!view.is_of("bcrt1", "tag"));
    }

    #[test]
    fn the_longest_prefix_names_the_path() {
        let view = |extranonce: &[u8]| CoinbaseView {
            pushes: vec![vec![1], b"tag".to_vec(), extranonce.to_vec()],
            paid: vec![("a".into(), 1), ("b".into(), 0)],
        };
        let path = |name, tag: &str, prefixes| Path { name, tag: tag.to_owned(), prefixes };
        let paths = [
            path("sv1", "tag", vec![vec![1, 0, 0, 1, 9]]),
            path("sv2-extended", "tag", vec![vec![], vec![1, 0, 0, 1]]),
            path("jd-full-template", "tagjdc", vec![]),
        ];
        assert_eq!(view(&[1, 0, 0, 1, 9, 7]).path(&paths).unwrap().name, "sv1");
        assert_eq!(view(&[1, 0, 0, 1, 8, 7]).path(&paths).unwrap().name, "sv2-extended");
        assert!(view(&[2]).path(&paths).is_none());
        let declared = CoinbaseView { pushes: vec![b"tagjdc".to_vec(), vec![2]], paid: vec![] };
        assert_eq!(declared.path(&paths).unwrap().name, "jd-full-template");
        assert!(view(&[2]).is_of("a", "tag"));
        assert!(!view(&[2]).is_of("b", "tag"), "an output without value pays nobody");
        assert!(!view(&[2]).is_of("a", "gat"));
    }
}
