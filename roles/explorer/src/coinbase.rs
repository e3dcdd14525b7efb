//! What a coinbase tells.

/// Read from the scriptSig of a coinbase.
#[derive(Debug, Clone, Default, Eq, PartialEq)]
pub struct Coinbase {
    /// The whole scriptSig.
    pub script: Vec<u8>,
    /// What follows the height, in order.
    pub pushes: Vec<Vec<u8>>,
}

impl Coinbase {
    /// Reads a scriptSig in hex; what is no hex is empty.
    pub fn parse(hex: &str) -> Self {
        let script = unhex(hex).unwrap_or_default();
        let pushes = pushes(&script).into_iter().skip(1).collect();
        Self { script, pushes }
    }

    /// The extranonce: the last push, unless it is all there is behind the height.
    pub fn extranonce(&self) -> &[u8] {
        self.pushes.last().map_or(&[], Vec::as_slice)
    }

    /// The words in it: every printable run of at least three characters.
    pub fn tag(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        // The extranonce is noise.
        for push in self.pushes.iter().take(self.pushes.len().saturating_sub(1)) {
            let text = String::from_utf8_lossy(push);
            let printable = |c: &char| !c.is_control() && *c != char::REPLACEMENT_CHARACTER;
            let word: String = text.chars().filter(printable).collect();
            if word.chars().count() >= 3 {
                words.push(word);
            }
        }
        words.join(" ")
    }
}

/// Bytes from hex.
pub fn unhex(hex: &str) -> Option<Vec<u8>> {
    if !hex.is_ascii() || !hex.len().is_multiple_of(2) {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}

/// Hex of bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pushes(script: &[u8]) -> Vec<Vec<u8>> {
    let script = bitcoin::Script::from_bytes(script);
    let instructions = script.instructions().map_while(Result::ok);
    instructions.filter_map(|i| i.push_bytes().map(|push| push.as_bytes().to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coinbase_is_read() {
        let coinbase = Coinbase::parse("01710a2f616469742d6c61622f0401000000");
        assert_eq!(coinbase.tag(), "/adit-lab/");
        assert_eq!(coinbase.extranonce(), [1, 0, 0, 0]);
    }

    #[test]
    fn any_bytes_are_taken() {
        for hex in ["", "0", "zz", "4c", "016f00", "ff", "05aa", "é"] {
            let coinbase = Coinbase::parse(hex);
            assert_eq!(coinbase.tag(), "", "{hex}");
        }
        // <script> stays text: it is escaped where it is shown.
        let coinbase = Coinbase::parse("0171083c7363726970743e0401000000");
        assert_eq!(coinbase.tag(), "<script>");
        // Control characters and broken UTF-8 are left out.
        let coinbase = Coinbase::parse("01710761620a63ff64650100");
        assert_eq!(coinbase.tag(), "abcde");
    }
}
