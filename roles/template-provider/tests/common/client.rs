//! A pool, as the template provider sees one.

use std::net::SocketAddr;
use std::sync::Arc;

use adit_mining::merkle::merkle_root;
use adit_mining::{Header as BlockHeader, Target};
use adit_sv2::codec::{B064K, Str0255};
use adit_sv2::frame::Header;
use adit_sv2::keys::AuthorityPublicKey;
use adit_sv2::messages::AnyMessage;
use adit_sv2::messages::common::{Common, SetupConnection};
use adit_sv2::messages::template_distribution::{
    CoinbaseOutputConstraints, NewTemplate, RequestTransactionData, SetNewPrevHash, SubmitSolution,
    TemplateDistribution as Td,
};
use adit_transport::{
    DialOptions, DialTarget, Dialed, Engine, Event, Hub, HubOptions, Now, Outbox, PeerId,
};
use bitcoin::consensus::encode;
use bitcoin::hashes::Hash;
use bitcoin::{Amount, ScriptBuf, Sequence, TxIn, TxOut, Witness};
use tokio::sync::mpsc;

use super::DEADLINE;

/// What the server said.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Template(Template),
    Prev(SetNewPrevHash),
    Other(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    pub id: u64,
    pub future: bool,
    pub version: u32,
    pub prefix: Vec<u8>,
    pub sequence: u32,
    pub value: u64,
    pub outputs: Vec<u8>,
    pub locktime: u32,
    pub path: Vec<[u8; 32]>,
}

impl From<NewTemplate<'_>> for Template {
    fn from(m: NewTemplate<'_>) -> Self {
        Self {
            id: m.template_id,
            future: m.future_template,
            version: m.version,
            prefix: m.coinbase_prefix.as_bytes().to_vec(),
            sequence: m.coinbase_tx_input_sequence,
            value: m.coinbase_tx_value_remaining,
            outputs: m.coinbase_tx_outputs.as_bytes().to_vec(),
            locktime: m.coinbase_tx_locktime,
            path: m.merkle_path.iter().collect(),
        }
    }
}

pub struct Client {
    hub: Hub<Probe>,
    dialed: Dialed,
    said: mpsc::UnboundedReceiver<Said>,
}

impl Client {
    pub async fn connect(addr: SocketAddr, key: AuthorityPublicKey, size: u32) -> Self {
        let (sender, said) = mpsc::unbounded_channel();
        let on_effect = move |effect| drop(sender.send(effect));
        let hub = Hub::new(Probe { size }, on_effect, Arc::default(), HubOptions::default());
        let target = DialTarget { authority_key: Some(key), ..DialTarget::from(addr) };
        let dialed = hub.dial_noise((), target, DialOptions::default()).await.unwrap();
        let mut client = Self { hub, dialed, said };
        assert_eq!(
            client.next().await,
            Said::Other("SetupConnection.Success { used_version: 2, flags: 0 }".to_owned())
        );
        client
    }

    pub async fn next(&mut self) -> Said {
        tokio::time::timeout(DEADLINE, self.said.recv())
            .await
            .expect("a message in time")
            .expect("connected")
    }

    pub async fn template(&mut self) -> Template {
        match self.next().await {
            Said::Template(template) => template,
            other => panic!("expected a template: {other:?}"),
        }
    }

    /// A future template and the message that makes it the one to work on.
    pub async fn future(&mut self) -> (Template, SetNewPrevHash) {
        let template = self.template().await;
        let prev = match self.next().await {
            Said::Prev(prev) => prev,
            other => panic!("expected a prev hash: {other:?}"),
        };
        assert!(template.future);
        assert_eq!(prev.template_id, template.id);
        (template, prev)
    }

    /// Future templates until the one upon `prev_hash`; nothing may be skipped but older tips.
    pub async fn future_upon(
        &mut self,
        prev_hash: bitcoin::BlockHash,
    ) -> (Template, SetNewPrevHash) {
        loop {
            let template = self.template().await;
            if !template.future {
                continue;
            }
            let Said::Prev(prev) = self.next().await else {
                panic!("a future template without its prev hash")
            };
            if prev.prev_hash == prev_hash.to_byte_array() {
                return (template, prev);
            }
        }
    }

    pub fn request_transactions(&self, template_id: u64) {
        let request = RequestTransactionData { template_id };
        self.hub.with(|_, _, out| out.send(self.dialed.peer, &request));
    }

    pub fn constraints(&self, size: u32) {
        self.hub.with(|_, _, out| out.send(self.dialed.peer, &constraints(size)));
    }

    /// Mines a block and submits it; `extranonce` tells blocks of one template apart.
    pub fn solve(
        &self,
        template: &Template,
        prev: &SetNewPrevHash,
        extranonce: u8,
    ) -> bitcoin::BlockHash {
        let coinbase = coinbase(template, extranonce);
        let txid = coinbase.compute_txid().to_byte_array();
        let mut header = BlockHeader {
            version: template.version,
            prev_hash: prev.prev_hash,
            merkle_root: merkle_root(txid, &template.path),
            ntime: prev.header_timestamp,
            nbits: prev.n_bits,
            nonce: 0,
        };
        while !Target::from_le_bytes(prev.target).is_met_by(&header.hash()) {
            header.nonce += 1;
        }
        let raw = encode::serialize(&coinbase);
        let solution = SubmitSolution {
            template_id: template.id,
            version: header.version,
            header_timestamp: header.ntime,
            header_nonce: header.nonce,
            coinbase_tx: B064K::new(&raw).unwrap(),
        };
        self.hub.with(|_, _, out| out.send(self.dialed.peer, &solution));
        bitcoin::BlockHash::from_byte_array(header.hash().0)
    }

    /// Waits until the server closes the connection.
    pub async fn closed(self) {
        tokio::time::timeout(DEADLINE, self.dialed.closed()).await.expect("closed in time");
    }
}

fn constraints(size: u32) -> CoinbaseOutputConstraints {
    CoinbaseOutputConstraints {
        coinbase_output_max_additional_size: size,
        coinbase_output_max_additional_sigops: 0,
    }
}

fn coinbase(template: &Template, extranonce: u8) -> bitcoin::Transaction {
    let mut script_sig = template.prefix.clone();
    script_sig.extend([4, extranonce, 0, 0, 0]);
    bitcoin::Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::from_consensus(template.locktime),
        input: vec![TxIn {
            script_sig: ScriptBuf::from_bytes(script_sig),
            sequence: Sequence(template.sequence),
            witness: Witness::from_slice(&[[0; 32]]),
            ..TxIn::default()
        }],
        output: vec![
            TxOut {
                value: Amount::from_sat(template.value),
                script_pubkey: ScriptBuf::from_bytes(vec![0x51]),
            },
            encode::deserialize(&template.outputs).unwrap(),
        ],
    }
}

struct Probe {
    size: u32,
}

impl Engine for Probe {
    type Link = ();
    type Effect = Said;

    fn handle(&mut self, peer: PeerId, (): (), event: Event<'_>, _: Now, out: &mut Outbox<Said>) {
        match event {
            Event::Opened { .. } => out.send(
                peer,
                &SetupConnection {
                    protocol: 2,
                    min_version: 2,
                    max_version: 2,
                    flags: 0,
                    endpoint_host: Str0255::default(),
                    endpoint_port: 0,
                    vendor: Str0255::cut("probe"),
                    hardware_version: Str0255::default(),
                    firmware: Str0255::default(),
                    device_id: Str0255::default(),
                },
            ),
            Event::Frame(header, payload) => self.on_frame(peer, header, payload, out),
            Event::Line(_) | Event::Closed(_) => {}
        }
    }

    fn tick(&mut self, _: Now, _: &mut Outbox<Said>) {}
}

impl Probe {
    fn on_frame(&mut self, peer: PeerId, header: Header, payload: &[u8], out: &mut Outbox<Said>) {
        let (message, _) = AnyMessage::decode(&header, payload).unwrap();
        let said = match message {
            AnyMessage::Common(Common::SetupConnectionSuccess(success)) => {
                out.send(peer, &constraints(self.size));
                Said::Other(success.to_string())
            }
            AnyMessage::TemplateDistribution(Td::NewTemplate(template)) => {
                Said::Template(template.into())
            }
            AnyMessage::TemplateDistribution(Td::SetNewPrevHash(prev)) => Said::Prev(prev),
            other => Said::Other(other.to_string()),
        };
        out.effect(said);
    }
}
