//! What a miner asks: one JSON object appended per call, without the line feed.

use crate::server::write::{HIGHEST_DIFFICULTY, number, quoted_hex, quoted_word, string};
use crate::{Id, server};

/// Whose habits a [`Requester`] has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// Every request has an id of its own, counted from 1; shares carry version bits where they were rolled.
    #[default]
    Counting,
    /// As pooler's cpuminer: `mining.subscribe` has the id 1, `mining.authorize` 2 and every share 4, which has five
    /// parameters. That program never sends `mining.configure` or `mining.extranonce.subscribe`.
    Minerd,
}

/// A share to submit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share<'a> {
    /// The worker's name.
    pub user: &'a str,
    /// The job worked on.
    pub job_id: &'a str,
    /// The miner's own part of the coinbase.
    pub extranonce2: &'a [u8],
    /// The header's time in seconds since 1970.
    pub ntime: u32,
    /// The header's nonce.
    pub nonce: u32,
    /// The version bits rolled, if version rolling was granted.
    pub version_bits: Option<u32>,
}

/// Writes requests and gives them ids. Every function returns the id it used, which the reply will carry; in
/// [`Manner::Minerd`] replies to shares can only be told apart by their order.
#[derive(Debug, Clone, Default)]
pub struct Requester {
    manner: Manner,
    last_id: u64,
}

impl Requester {
    /// A requester for a new connection.
    pub const fn new(manner: Manner) -> Self {
        Self { manner, last_id: 0 }
    }

    /// `mining.configure` for version rolling (BIP310).
    pub fn configure(&mut self, out: &mut Vec<u8>, mask: u32, min_bit_count: u8) -> u64 {
        let id = self.id(3);
        request(out, id, "mining.configure", |out| {
            out.extend_from_slice(b"[\"version-rolling\"], {\"version-rolling.mask\": ");
            quoted_word(out, mask);
            out.extend_from_slice(b", \"version-rolling.min-bit-count\": ");
            number(out, min_bit_count);
            out.push(b'}');
        })
    }

    /// `mining.subscribe`, with the session of an earlier connection if there was one.
    pub fn subscribe(&mut self, out: &mut Vec<u8>, user_agent: &str, session: Option<&str>) -> u64 {
        let id = self.id(1);
        request(out, id, "mining.subscribe", |out| {
            string(out, user_agent);
            if let Some(session) = session {
                out.extend_from_slice(b", ");
                string(out, session);
            }
        })
    }

    /// `mining.authorize`.
    pub fn authorize(&mut self, out: &mut Vec<u8>, user: &str, password: &str) -> u64 {
        let id = self.id(2);
        request(out, id, "mining.authorize", |out| {
            string(out, user);
            out.extend_from_slice(b", ");
            string(out, password);
        })
    }

    /// `mining.extranonce.subscribe`.
    pub fn extranonce_subscribe(&mut self, out: &mut Vec<u8>) -> u64 {
        let id = self.id(3);
        request(out, id, "mining.extranonce.subscribe", |_| {})
    }

    /// `mining.suggest_difficulty`; what is no positive finite number is left out.
    pub fn suggest_difficulty(&mut self, out: &mut Vec<u8>, difficulty: f64) -> u64 {
        let id = self.id(3);
        request(out, id, "mining.suggest_difficulty", |out| {
            if difficulty.is_finite() && difficulty > 0.0 {
                number(out, difficulty.min(HIGHEST_DIFFICULTY));
            }
        })
    }

    /// `mining.submit`.
    pub fn submit(&mut self, out: &mut Vec<u8>, share: &Share<'_>) -> u64 {
        let id = self.id(4);
        let params = |out: &mut Vec<u8>| {
            string(out, share.user);
            out.extend_from_slice(b", ");
            string(out, share.job_id);
            out.extend_from_slice(b", ");
            quoted_hex(out, &[share.extranonce2]);
            let bits = share.version_bits.filter(|_| self.manner == Manner::Counting);
            for word in [Some(share.ntime), Some(share.nonce), bits].into_iter().flatten() {
                out.extend_from_slice(b", ");
                quoted_word(out, word);
            }
        };
        match self.manner {
            Manner::Counting => request(out, id, "mining.submit", params),
            Manner::Minerd => {
                out.extend_from_slice(b"{\"method\": \"mining.submit\", \"params\": [");
                params(out);
                out.extend_from_slice(b"], \"id\":4}");
                id
            }
        }
    }

    fn id(&mut self, minerd: u64) -> u64 {
        self.last_id = match self.manner {
            Manner::Counting => self.last_id + 1,
            Manner::Minerd => minerd,
        };
        self.last_id
    }
}

/// Answers `client.get_version`.
pub fn version(out: &mut Vec<u8>, id: Id<'_>, user_agent: &str) {
    server::write::result_text(out, id, user_agent);
}

/// Answers `mining.ping`.
pub fn pong(out: &mut Vec<u8>, id: Id<'_>) {
    server::write::result_text(out, id, "pong");
}

fn request(out: &mut Vec<u8>, id: u64, method: &str, params: impl FnOnce(&mut Vec<u8>)) -> u64 {
    out.extend_from_slice(b"{\"id\": ");
    number(out, id);
    out.extend_from_slice(b", \"method\": \"");
    out.extend_from_slice(method.as_bytes());
    out.extend_from_slice(b"\", \"params\": [");
    params(out);
    out.extend_from_slice(b"]}");
    id
}
