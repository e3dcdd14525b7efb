//! One miner that speaks Stratum V1 in the manner of pooler's minerd: ids 1, 2 and 4 for ever, five submit parameters,
//! no version rolling, the old session as second subscribe parameter, a pushed `mining.set_extranonce` ignored.

use adit_mining::Target;
use adit_sv1::client::{self, Body, Manner, Message, Reconnect, Requester, Share};

use crate::engine::News;
use crate::hasher::{Found, Root, Work};

/// As minerd names itself.
const USER_AGENT: &str = "cpuminer/2.5.1";

/// The miner's side of a connection.
pub(crate) struct Sv1 {
    user: String,
    password: String,
    session: Option<String>,
    requester: Requester,
    stage: Stage,
    extranonce1: Vec<u8>,
    extranonce2_size: usize,
    /// For the next job; the current one keeps the target that it began with.
    target: Target,
    current: Option<Current>,
    generation: u64,
}

struct Current {
    job_id: String,
    generation: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Subscribing,
    Authorizing,
    Mining,
}

impl Sv1 {
    pub(crate) fn new(user: String, password: String) -> Self {
        Self {
            user,
            password,
            session: None,
            requester: Requester::new(Manner::Minerd),
            stage: Stage::Subscribing,
            extranonce1: Vec::new(),
            extranonce2_size: 0,
            target: Target::DIFFICULTY_1,
            current: None,
            generation: 0,
        }
    }

    /// The connection stands: appends the first line.
    pub(crate) fn opened(&mut self, line: &mut Vec<u8>) {
        self.stage = Stage::Subscribing;
        self.target = Target::DIFFICULTY_1;
        self.current = None;
        self.requester.subscribe(line, USER_AGENT, self.session.as_deref());
    }

    /// A line of the pool. Appends the answer to `line`, if there is one.
    pub(crate) fn received(&mut self, input: &[u8], line: &mut Vec<u8>, news: &mut Vec<News>) {
        let message = match client::parse_message(input) {
            Ok(message) => message,
            Err(error) => return news.push(News::Failed(format!("unreadable line: {error}"))),
        };
        let Message { id, body } = message;
        match body {
            Body::Reply(reply) => self.reply(&reply, line, news),
            Body::Notify(job) => self.notify(job, news),
            Body::SetDifficulty { difficulty } => self.target = Target::from_difficulty(difficulty),
            Body::SetTarget { target } => self.target = Target::from_be_bytes(target),
            Body::GetVersion => {
                if let Some(id) = id {
                    client::version(line, id, USER_AGENT);
                }
            }
            Body::Ping => {
                if let Some(id) = id {
                    client::pong(line, id);
                }
            }
            Body::Reconnect(Reconnect { .. }) => {
                news.push(News::Failed("the pool asked to reconnect".into()));
            }
            Body::ShowMessage { message } => {
                tracing::info!(user = self.user, "the pool says: {}", message.escape_debug());
            }
            Body::Invalid { method, error } => {
                news.push(News::Failed(format!("{method} of the pool: {error}")));
            }
            Body::SetVersionMask { .. }
            | Body::SetExtranonce { .. }
            | Body::Unknown { .. }
            | Body::Blank => {}
        }
    }

    /// Appends the share, if its job is still the current one.
    pub(crate) fn found(&mut self, found: &Found, line: &mut Vec<u8>) -> bool {
        let Some(current) = &self.current else { return false };
        if current.generation != found.generation {
            return false;
        }
        let share = Share {
            user: &self.user,
            job_id: &current.job_id,
            extranonce2: &found.extranonce,
            ntime: found.ntime,
            nonce: found.nonce,
            version_bits: None,
        };
        self.requester.submit(line, &share);
        true
    }

    fn reply(&mut self, reply: &client::Reply<'_>, line: &mut Vec<u8>, news: &mut Vec<News>) {
        match self.stage {
            Stage::Subscribing => match reply.subscribed() {
                Ok(subscribed) => {
                    self.session = subscribed.session;
                    self.extranonce1 = subscribed.extranonce1;
                    self.extranonce2_size = subscribed.extranonce2_size;
                    self.stage = Stage::Authorizing;
                    self.requester.authorize(line, &self.user, &self.password);
                }
                Err(error) => news.push(News::Failed(format!("mining.subscribe refused: {error}"))),
            },
            Stage::Authorizing => match reply.accepted() {
                Ok(()) => self.stage = Stage::Mining,
                Err(why) => news.push(News::Failed(format!("mining.authorize refused: {why}"))),
            },
            Stage::Mining => match reply.accepted() {
                Ok(()) => news.push(News::Accepted(1)),
                Err(why) => news.push(News::Rejected(why.to_string())),
            },
        }
    }

    fn notify(&mut self, job: client::Job, news: &mut Vec<News>) {
        if !(1..=16).contains(&self.extranonce2_size) {
            let size = self.extranonce2_size;
            return news.push(News::Failed(format!("extranonce2_size of {size} bytes")));
        }
        if let Some(prefix) = fixed_extranonce(&job.coinb1, &self.extranonce1) {
            news.push(News::ExtranoncePrefix(prefix));
        }
        self.generation += 1;
        self.current = Some(Current { job_id: job.job_id, generation: self.generation });
        news.push(News::Difficulty(self.target.difficulty()));
        news.push(News::Work(
            0,
            Some(Work {
                generation: self.generation,
                version: job.version,
                version_mask: 0,
                prev_hash: job.prev_hash,
                ntime: job.ntime,
                nbits: job.nbits,
                target: self.target,
                root: Root::Rolled {
                    coinbase_prefix: [job.coinb1, self.extranonce1.clone()].concat(),
                    extranonce_size: self.extranonce2_size,
                    coinbase_suffix: job.coinb2,
                    merkle_path: job.merkle_path,
                },
            }),
        ));
    }
}

/// What precedes the miner's own bytes in the last push of the scriptSig: whatever the upstream put at the end of
/// `coinb1`, then `extranonce1`. None where the scriptSig is not a row of pushes.
fn fixed_extranonce(coinb1: &[u8], extranonce1: &[u8]) -> Option<Vec<u8>> {
    /// Version, input count, previous output, script length (a coinbase script is at most 100 bytes).
    const SCRIPT_AT: usize = 4 + 1 + 36 + 1;
    /// Opcodes up to here push as many bytes as their number says.
    const LARGEST_PUSH: u8 = 75;
    let mut script = coinb1.get(SCRIPT_AT..)?;
    while let Some((&opcode, rest)) = script.split_first() {
        let length = if opcode > LARGEST_PUSH { 0 } else { usize::from(opcode) };
        match rest.get(length..) {
            Some(after) => script = after,
            None => return Some([rest, extranonce1].concat()),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(miner: &mut Sv1, line: &str) -> (String, Vec<News>) {
        let (mut answer, mut news) = (Vec::new(), Vec::new());
        miner.received(line.as_bytes(), &mut answer, &mut news);
        (String::from_utf8(answer).unwrap(), news)
    }

    fn mining() -> Sv1 {
        let mut miner = Sv1::new("".into(), "".into());
        let mut hello = Vec::new();
        miner.opened(&mut hello);
        assert_eq!(
            hello,
            br#"{"id": 1, "method": "mining.subscribe", "params": ["cpuminer/2.5.1"]}"#
        );
        let subscribed = r#"{"id":1,"result":[[["mining.set_difficulty","s"],["mining.notify","s"]],"c0ffee01",4],"error":null}"#;
        let (answer, news) = receive(&mut miner, subscribed);
        assert_eq!(answer, r#"{"id": 2, "method": "mining.authorize", "params": ["", ""]}"#);
        assert!(news.is_empty());
        receive(&mut miner, r#"{"id":2,"result":true,"error":null}"#);
        miner
    }

    fn notify(coinb1: &str) -> String {
        let prev = "00".repeat(32);
        format!(
            r#"{{"id":null,"method":"mining.notify","params":["j1","{prev}","{coinb1}","ffffffff",[],"20000000","207fffff","65000000",true]}}"#
        )
    }

    /// A coinbase up to the extranonce: height 300, tag "ab", an extranonce of 12 bytes of which 4 are the upstream's.
    fn coinb1() -> String {
        let input = format!("01000000{:02}{}ffffffff", 1, "00".repeat(32));
        format!("{input}{:02x}{}{}{}", 19, "022c01", "026162", "0caabbccdd")
    }

    #[test]
    fn difficulty_holds_from_the_next_job_on() {
        let mut miner = mining();
        receive(&mut miner, r#"{"id":null,"method":"mining.set_difficulty","params":[2]}"#);
        let (_, news) = receive(&mut miner, &notify(&coinb1()));
        let [
            News::ExtranoncePrefix(prefix),
            News::Difficulty(difficulty),
            News::Work(0, Some(work)),
        ] = &news[..]
        else {
            panic!("{news:?}")
        };
        assert_eq!(prefix[..], [0xaa, 0xbb, 0xcc, 0xdd, 0xc0, 0xff, 0xee, 0x01]);
        assert!((difficulty - 2.0).abs() < 1e-9);
        assert_eq!(work.version_mask, 0, "minerd rolls no version");

        let found = Found {
            miner: 0,
            generation: work.generation,
            nonce: 0x6b00_f646,
            ntime: 0x6500_0000,
            version: work.version,
            extranonce: vec![0, 0, 0, 9],
            hash: adit_mining::BlockHash([0; 32]),
        };
        let mut line = Vec::new();
        assert!(miner.found(&found, &mut line));
        assert_eq!(
            String::from_utf8(line).unwrap(),
            r#"{"method": "mining.submit", "params": ["", "j1", "00000009", "65000000", "6b00f646"], "id":4}"#
        );
        let (_, news) = receive(&mut miner, r#"{"id":4,"result":true,"error":null}"#);
        assert_eq!(news, [News::Accepted(1)]);
        let (_, news) =
            receive(&mut miner, r#"{"id":4,"result":null,"error":[23,"Low difficulty",null]}"#);
        assert_eq!(news, [News::Rejected("Low difficulty (23)".into())]);

        receive(&mut miner, &notify(&coinb1()));
        assert!(!miner.found(&found, &mut Vec::new()), "a find of an older job is not sent");
    }

    #[test]
    fn it_answers_and_gives_up_as_it_should() {
        let mut miner = mining();
        let (answer, _) =
            receive(&mut miner, r#"{"id":7,"method":"client.get_version","params":[]}"#);
        assert_eq!(answer, r#"{"id":7,"result":"cpuminer/2.5.1","error":null}"#);
        for line in ["{", r#"{"id":null,"method":"client.reconnect","params":[]}"#] {
            let (_, news) = receive(&mut miner, line);
            assert!(matches!(news[..], [News::Failed(_)]), "{line}");
        }
        let (answer, news) = receive(
            &mut miner,
            r#"{"id":null,"method":"mining.set_extranonce","params":["00",4]}"#,
        );
        assert!(answer.is_empty() && news.is_empty(), "ignored, as minerd does");
    }

    #[test]
    fn a_script_of_another_shape_has_no_known_prefix() {
        assert_eq!(fixed_extranonce(&[0; 10], &[1]), None);
        assert_eq!(fixed_extranonce(&[0; 42], &[1]), None);
    }
}
