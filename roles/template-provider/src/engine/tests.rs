use adit_sv2::messages::extensions::RequestExtensions;
use adit_sv2::messages::template_distribution::{NewTemplate, SetNewPrevHash};
use adit_sv2::messages::{AnyMessage, Message};
use adit_transport::Delivery;
use proptest::prelude::*;

use super::*;
use crate::solution::tests::solve;
use crate::template::tests::{coinbase, snapshot, tip};

/// The engine, its time, and what a driver would do for it.
struct Net {
    engine: TemplateProvider,
    out: Outbox<Effect>,
    now: Now,
    next_id: u64,
}

/// What came out, decoded, in order.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Said {
    New { id: u64, future: bool, value: u64 },
    Prev { id: u64, prev: u8, time: u32 },
    Text(String),
    Close(&'static str),
}

impl Net {
    fn new() -> Self {
        Self {
            engine: TemplateProvider::new(100, Metrics::default()),
            out: Outbox::default(),
            now: Now { instant: Instant::now(), unix_ms: 1_800_000_000_000 },
            next_id: 1,
        }
    }

    fn open(&mut self, peer: u64) {
        let remote = ([127, 0, 0, 1], 9).into();
        self.engine.handle(PeerId(peer), Client, Event::Opened { remote }, self.now, &mut self.out);
    }

    fn say<'m, M: Message<'m>>(&mut self, peer: u64, message: &M) {
        let mut frame = Vec::new();
        adit_sv2::frame::encode_frame(message, &mut frame);
        self.frame(peer, &frame);
    }

    fn frame(&mut self, peer: u64, frame: &[u8]) {
        let (header, payload) = frame.split_first_chunk().unwrap();
        let event = Event::Frame(Header::parse(header), payload);
        self.engine.handle(PeerId(peer), Client, event, self.now, &mut self.out);
    }

    /// A client that is through with its setup; the answers are forgotten.
    fn client(&mut self, peer: u64, size: u32) {
        self.open(peer);
        self.say(peer, &setup());
        self.say(peer, &constraints(size));
    }

    fn build(
        &mut self,
        snapshot: &Snapshot,
        demand: Vec<Constraints>,
    ) -> Vec<(Constraints, Arc<Template>)> {
        let mut build = |constraints| {
            self.next_id += 1;
            (
                constraints,
                Arc::new(Template::build(snapshot, constraints, self.next_id - 1).unwrap()),
            )
        };
        demand.into_iter().map(&mut build).collect()
    }

    fn publish(&mut self, snapshot: &Arc<Snapshot>) {
        let demand = self.engine.demand(snapshot);
        let templates = self.build(snapshot, demand);
        self.engine.publish(snapshot.clone(), templates, self.now, &mut self.out);
    }

    /// What the driver does when it is woken.
    fn supply(&mut self) {
        if let Some((snapshot, wanted)) = self.engine.wanted() {
            let templates = self.build(&snapshot, wanted);
            self.engine.supply(&snapshot, templates, self.now, &mut self.out);
        }
    }

    fn effects(&mut self) -> Vec<Effect> {
        self.out.take_effects().collect()
    }

    /// What was said to `peer` since the last call; what was said to others is forgotten.
    fn said(&mut self, to: u64) -> Vec<Said> {
        self.said_to_all()
            .into_iter()
            .filter(|(peer, _)| *peer == to)
            .map(|(_, said)| said)
            .collect()
    }

    fn said_to_all(&mut self) -> Vec<(u64, Said)> {
        let mut all = Vec::new();
        self.out.deliver(|delivery| match delivery {
            Delivery::Close(peer, reason) => all.push((peer.0, Said::Close(reason))),
            Delivery::Bytes(peer, mut bytes) => {
                while let Some((header, rest)) = bytes.split_first_chunk() {
                    let header = Header::parse(header);
                    let (payload, rest) = rest.split_at(header.msg_length as usize);
                    all.push((peer.0, said(&header, payload)));
                    bytes = rest;
                }
            }
        });
        all
    }
}

fn said(header: &Header, payload: &[u8]) -> Said {
    match header.msg_type {
        NewTemplate::TYPE => {
            let (m, _) = NewTemplate::decode(payload).unwrap();
            Said::New {
                id: m.template_id,
                future: m.future_template,
                value: m.coinbase_tx_value_remaining,
            }
        }
        SetNewPrevHash::TYPE => {
            let (m, _) = SetNewPrevHash::decode(payload).unwrap();
            Said::Prev { id: m.template_id, prev: m.prev_hash[0], time: m.header_timestamp }
        }
        _ => Said::Text(AnyMessage::decode(header, payload).unwrap().0.to_string()),
    }
}

fn text(text: &str) -> Said {
    Said::Text(text.to_owned())
}

fn new(id: u64, future: bool, value: u64) -> Said {
    Said::New { id, future, value }
}

fn prev(id: u64, prev: u8) -> Said {
    Said::Prev { id, prev, time: 1_800_000_000 }
}

fn setup() -> SetupConnection<'static> {
    SetupConnection {
        protocol: 2,
        min_version: 2,
        max_version: 2,
        flags: 0,
        endpoint_host: Str0255::default(),
        endpoint_port: 0,
        vendor: Str0255::cut("test\u{7}"),
        hardware_version: Str0255::default(),
        firmware: Str0255::default(),
        device_id: Str0255::default(),
    }
}

fn constraints(size: u32) -> CoinbaseOutputConstraints {
    CoinbaseOutputConstraints {
        coinbase_output_max_additional_size: size,
        coinbase_output_max_additional_sigops: 4,
    }
}

fn offer(prev: u8, height: u32, count: u64) -> Arc<Snapshot> {
    Arc::new(snapshot(tip(height, prev), count, 100))
}

const SUBSIDY: u64 = 5_000_000_000;

#[test]
fn setup_is_checked() {
    let refused = |change: fn(&mut SetupConnection<'_>), answer: &str, reason: &'static str| {
        let mut net = Net::new();
        net.open(1);
        let mut message = setup();
        change(&mut message);
        net.say(1, &message);
        assert_eq!(net.said(1), [text(answer), Said::Close(reason)]);
        // Nothing that comes later is looked at.
        net.say(1, &setup());
        assert_eq!(net.said(1), []);
    };
    refused(
        |m| m.protocol = 0,
        "SetupConnection.Error { flags: 0, error_code: \"unsupported-protocol\" }",
        "unsupported-protocol",
    );
    let mismatch = "SetupConnection.Error { flags: 0, error_code: \"protocol-version-mismatch\" }";
    refused(|m| (m.min_version, m.max_version) = (3, 4), mismatch, "protocol-version-mismatch");
    refused(|m| (m.min_version, m.max_version) = (1, 1), mismatch, "protocol-version-mismatch");
    refused(
        |m| m.flags = u32::MAX,
        "SetupConnection.Error { flags: 4294967295, error_code: \"unsupported-feature-flags\" }",
        "unsupported-feature-flags",
    );
    let mut net = Net::new();
    net.open(1);
    net.say(1, &setup());
    assert_eq!(net.said(1), [text("SetupConnection.Success { used_version: 2, flags: 0 }")]);
    assert_eq!(net.engine.clients()[0].vendor, "test");
}

#[test]
fn a_client_gets_the_newest_template_of_the_tip_and_its_prev_hash() {
    let mut net = Net::new();
    net.publish(&offer(1, 5, 0));
    net.publish(&offer(1, 5, 3));
    net.client(1, 100);
    assert_eq!(net.effects(), [Effect::Wanted]);
    net.supply();
    let said = net.said(1);
    assert_eq!(said[1..], [new(1, true, SUBSIDY + 300), prev(1, 1)]);
    // The second client with the same constraints is served at once, from the same template.
    net.client(2, 100);
    assert_eq!(net.effects(), []);
    assert_eq!(net.said(2)[1..], [new(1, true, SUBSIDY + 300), prev(1, 1)]);
}

/// The public testnets let an easy block follow where none was found for twenty minutes.
#[test]
fn a_target_that_falls_on_one_tip_is_told() {
    let mut net = Net::new();
    let offer = |n_bits| Arc::new(snapshot(Tip { n_bits, ..tip(5, 1) }, 3, 100));
    net.publish(&offer(0x1d00_ffff));
    net.client(1, 100);
    net.supply();
    assert_eq!(net.said(1)[1..], [new(1, true, SUBSIDY + 300), prev(1, 1)]);
    assert!(!net.engine.is_news(&offer(0x1d00_ffff)));
    let easy = offer(0x207f_ffff);
    assert!(net.engine.is_news(&easy));
    net.publish(&easy);
    assert_eq!(net.said(1), [new(2, true, SUBSIDY + 300), prev(2, 1)]);
}

#[test]
fn a_client_that_comes_before_the_node_is_served_with_the_first_work() {
    let mut net = Net::new();
    net.client(1, 100);
    assert_eq!((net.effects(), net.engine.wanted()), (vec![], None));
    net.said(1);
    net.publish(&offer(1, 5, 2));
    assert_eq!(net.said(1), [new(1, true, SUBSIDY + 200), prev(1, 1)]);
}

#[test]
fn a_new_tip_reaches_everybody_in_one_write() {
    let mut net = Net::new();
    net.publish(&offer(1, 5, 2));
    net.client(1, 100);
    net.client(2, 200);
    net.open(3);
    net.supply();
    net.said_to_all();
    net.publish(&offer(2, 6, 0));
    let id = net.next_id - 1;
    let mut writes = 0;
    net.out.deliver(|_| writes += 1);
    assert_eq!(writes, 2);
    net.publish(&offer(2, 6, 4));
    assert_eq!(
        net.said_to_all(),
        [(1, new(id + 1, false, SUBSIDY + 400)), (2, new(id + 2, false, SUBSIDY + 400))]
    );
    // A lower tip is as good as any other.
    net.publish(&offer(3, 2, 0));
    let id = net.next_id - 1;
    assert_eq!(net.said(2), [new(id, true, SUBSIDY), prev(id, 3)]);
}

#[test]
fn the_median_goes_before_the_clock() {
    let mut net = Net::new();
    net.client(1, 100);
    net.said(1);
    let mut ahead = snapshot(tip(5, 1), 0, 0);
    ahead.tip.min_time = 1_800_000_777;
    net.publish(&Arc::new(ahead));
    assert_eq!(
        net.said(1),
        [new(1, true, SUBSIDY), Said::Prev { id: 1, prev: 1, time: 1_800_000_777 }]
    );
}

#[test]
fn fees_below_the_threshold_are_no_news() {
    let mut net = Net::new();
    let news = |net: &Net, offer: &Snapshot| net.engine.is_news(offer);
    assert!(news(&net, &offer(1, 5, 0)));
    net.publish(&offer(1, 5, 0));
    assert!(!news(&net, &offer(1, 5, 0)));
    let mut free = snapshot(tip(5, 1), 1, 0);
    assert!(news(&net, &free), "the first transactions of a tip");
    net.publish(&offer(1, 5, 3));
    free.coinbase_value = SUBSIDY + 399;
    assert!(!news(&net, &free));
    free.coinbase_value = SUBSIDY + 400;
    assert!(news(&net, &free));
    free.coinbase_value = SUBSIDY;
    assert!(!news(&net, &free), "what is offered already stays valid");
    free.version ^= 4;
    assert!(news(&net, &free));
    assert!(news(&net, &offer(2, 6, 0)) && news(&net, &offer(2, 4, 0)));
}

#[test]
fn new_constraints_bring_a_new_template_with_a_higher_id() {
    let mut net = Net::new();
    net.publish(&offer(1, 5, 3));
    net.client(1, 100);
    net.supply();
    net.client(2, 200);
    net.supply();
    net.said_to_all();
    // To the constraints of the other client, whose template is newer than the own: at once.
    net.say(1, &constraints(200));
    assert_eq!(net.said(1), [new(2, false, SUBSIDY + 300)]);
    // And back: the template at hand has a lower id now, so another is built.
    net.effects();
    net.say(1, &constraints(100));
    assert_eq!((net.said(1), net.effects()), (vec![], vec![Effect::Wanted]));
    net.supply();
    assert_eq!(net.said(1), [new(3, false, SUBSIDY + 300)]);
}

#[test]
fn who_asks_again_and_again_is_sent_away() {
    let mut net = Net::new();
    net.publish(&offer(1, 5, 3));
    net.client(1, 100);
    for size in 1..ASKED_PER_WORK {
        net.say(1, &constraints(size));
    }
    // New work, and it may again.
    net.publish(&offer(2, 6, 3));
    for size in 0..ASKED_PER_WORK {
        net.say(1, &constraints(size));
    }
    assert!(!net.said_to_all().iter().any(|(_, said)| matches!(said, Said::Close(_))));
    net.say(1, &constraints(7));
    assert_eq!(net.said(1), [Said::Close(ASKS_TOO_OFTEN)]);
}

#[test]
fn templates_are_cut_to_each_clients_constraints() {
    let mut net = Net::new();
    let mut full = snapshot(tip(5, 1), 3, 100);
    full.transactions[2].weight += 4_000_000 - 8_000 - full.weight();
    net.publish(&Arc::new(full));
    net.client(1, 1_000);
    net.client(2, 2_000);
    net.supply();
    let all = net.said_to_all();
    assert!(all.contains(&(1, new(1, true, SUBSIDY + 300))));
    assert!(all.contains(&(2, new(2, true, SUBSIDY + 200))));
    net.client(3, 1_000_000);
    assert_eq!(net.said(3)[1..], [Said::Close(DOES_NOT_FIT)]);
    net.engine.refuse(Constraints { size: 2_000, sigops: 4 }, &mut net.out);
    assert_eq!(net.said_to_all(), [(2, Said::Close(DOES_NOT_FIT))]);
}

#[test]
fn a_template_that_was_overtaken_is_not_sent() {
    let mut net = Net::new();
    let old = offer(1, 5, 3);
    net.publish(&old);
    net.client(1, 100);
    let late = net.build(&old, vec![Constraints { size: 100, sigops: 4 }]);
    net.publish(&offer(2, 6, 0));
    net.said(1);
    net.engine.supply(&old, late, net.now, &mut net.out);
    assert_eq!(net.said(1), []);
}

#[test]
fn transaction_data() {
    let mut net = Net::new();
    net.publish(&offer(1, 5, 2));
    net.client(1, 100);
    net.supply();
    net.said(1);
    net.say(1, &RequestTransactionData { template_id: 1 });
    let mut lists = Vec::new();
    net.out.deliver(|delivery| {
        let Delivery::Bytes(_, bytes) = delivery else { panic!("closed") };
        let (message, _) = RequestTransactionDataSuccess::decode(&bytes[Header::LEN..]).unwrap();
        lists.push(
            message.transaction_list.iter().map(|raw| raw.as_bytes().to_vec()).collect::<Vec<_>>(),
        );
    });
    let expected: Vec<_> =
        offer(1, 5, 2).transactions.iter().map(|t| t.raw.bytes.to_vec()).collect();
    assert_eq!(lists, [expected]);

    let error = |net: &mut Net, id, code: &str| {
        net.say(1, &RequestTransactionData { template_id: id });
        let expected =
            format!("RequestTransactionData.Error {{ template_id: {id}, error_code: \"{code}\" }}");
        assert_eq!(net.said(1), [Said::Text(expected)]);
    };
    error(&mut net, 77, "template-id-not-found");
    for prev in 2..5 {
        let expected = if prev == 4 { "template-id-not-found" } else { "stale-template-id" };
        net.publish(&offer(prev, 6, 0));
        net.said(1);
        error(&mut net, 1, expected);
    }
}

#[test]
fn solutions_are_found_for_every_template_that_is_kept() {
    let mut net = Net::new();
    let old = Arc::new(Template::build(&offer(9, 4, 2), Constraints::default(), 1).unwrap());
    net.engine.restore(vec![old.clone()]);
    net.next_id = 2;
    net.publish(&offer(1, 5, 2));
    net.client(1, 100);
    net.supply();
    net.effects();
    let template = net.engine.templates[&2].clone();
    for template in [&old, &template] {
        solve(template, &coinbase(template, &[1]), |solution| net.say(1, solution));
    }
    assert_eq!(net.effects(), [Effect::Found; 2]);
    let found = net.engine.take_found();
    assert_eq!(found.iter().map(|found| found.template.id).collect::<Vec<_>>(), [1, 2]);
    assert!(net.engine.take_found().is_empty());

    // Neither work that is not done nor a template that nobody knows is a reason to part.
    net.said(1);
    solve(&template, &coinbase(&template, &[1]), |solution| {
        net.say(1, &SubmitSolution { template_id: 55, ..*solution });
        net.say(1, &SubmitSolution { coinbase_tx: B064K::default(), ..*solution });
    });
    assert_eq!((net.said(1), net.effects()), (vec![], vec![]));
    assert_eq!(net.engine.clients().len(), 1);
}

#[test]
fn misbehaviour_closes_that_connection_and_no_other() {
    let mut frames: Vec<(Vec<u8>, bool, &'static str)> = Vec::new();
    let mut add = |message: TemplateDistribution<'_>, after_setup, reason| {
        let mut frame = Vec::new();
        message.encode_frame(&mut frame);
        frames.push((frame, after_setup, reason));
    };
    let request =
        TemplateDistribution::RequestTransactionData(RequestTransactionData { template_id: 1 });
    add(TemplateDistribution::CoinbaseOutputConstraints(constraints(1)), false, NOT_SETUP);
    add(request, true, OUT_OF_ORDER);
    let prev_hash = SetNewPrevHash {
        template_id: 1,
        prev_hash: [0; 32],
        header_timestamp: 0,
        n_bits: 0,
        target: [0; 32],
    };
    add(TemplateDistribution::SetNewPrevHash(prev_hash), true, SERVERS_MESSAGE);
    frames.push((vec![0, 0, 0x70, 0, 0, 0], true, UNDECODABLE));
    frames.push((vec![0, 0x80, 0x70, 6, 0, 0, 1, 0, 0, 0, 1, 0], true, UNDECODABLE));
    frames.push((vec![0, 0, 0x13, 0, 0, 0], true, UNDECODABLE));
    frames.push((vec![0, 0, 0x00, 0, 0, 0], false, NOT_SETUP));
    frames.push((vec![0, 0, 0x00, 0, 0, 0], true, UNDECODABLE));
    let mut net = Net::new();
    net.client(1, 100);
    for (peer, (frame, after_setup, reason)) in (2..).zip(frames) {
        net.open(peer);
        if after_setup {
            net.say(peer, &setup());
        }
        net.said_to_all();
        net.frame(peer, &frame);
        assert_eq!(net.said_to_all(), [(peer, Said::Close(reason))], "{frame:?}");
    }
    assert_eq!(net.engine.clients().len(), 1);
    net.publish(&offer(1, 5, 0));
    assert_eq!(net.said(1).len(), 2);
}

#[test]
fn extensions_are_answered_and_foreign_messages_ignored() {
    let mut net = Net::new();
    net.open(1);
    net.say(1, &setup());
    net.said(1);
    let wanted = [2u16, 9];
    net.say(
        1,
        &RequestExtensions { request_id: 3, requested_extensions: Seq064K::new(&wanted).unwrap() },
    );
    assert_eq!(
        net.said(1),
        [text(
            "RequestExtensions.Error { request_id: 3, unsupported_extensions: [2, 9], required_extensions: [] }"
        )]
    );
    net.frame(1, &[0x99, 0x19, 0x05, 1, 0, 0, 0]);
    assert_eq!(net.said(1), []);
}

#[test]
fn who_never_finishes_the_setup_is_closed() {
    let mut net = Net::new();
    net.client(1, 100);
    net.open(2);
    net.open(3);
    net.say(3, &setup());
    net.said_to_all();
    net.now = net.now.later(SETUP_DEADLINE - Duration::from_millis(1));
    net.engine.tick(net.now, &mut net.out);
    assert_eq!(net.said_to_all(), []);
    net.now = net.now.later(Duration::from_millis(1));
    net.engine.tick(net.now, &mut net.out);
    let reason = "no CoinbaseOutputConstraints in time";
    assert_eq!(net.said_to_all(), [(2, Said::Close(reason)), (3, Said::Close(reason))]);
    net.engine.handle(PeerId(1), Client, Event::Closed("gone"), net.now, &mut net.out);
    assert!(net.engine.clients().is_empty());
}

proptest! {
    #[test]
    fn no_bytes_disturb_anybody_else(
        after_setup: bool,
        frames in prop::collection::vec((0u16..4, any::<bool>(), 0u8..0x80, prop::collection::vec(any::<u8>(), 0..60)), 1..8),
    ) {
        let mut net = Net::new();
        net.publish(&offer(1, 5, 2));
        net.client(1, 100);
        net.supply();
        net.open(2);
        if after_setup {
            net.say(2, &setup());
        }
        net.said_to_all();
        for (extension_type, channel_msg, msg_type, payload) in frames {
            // Half of all types are those of the protocol.
            let msg_type = if msg_type & 1 == 0 { 0x70 + (msg_type >> 1) % 7 } else { msg_type };
            let header = Header { extension_type, channel_msg, msg_type, msg_length: payload.len() as u32 };
            let event = Event::Frame(header, &payload);
            net.engine.handle(PeerId(2), Client, event, net.now, &mut net.out);
        }
        net.supply();
        prop_assert!(net.said_to_all().iter().all(|(peer, _)| *peer == 2));
        net.publish(&offer(2, 6, 0));
        prop_assert_eq!(net.said(1).len(), 2);
    }
}
