//! `adit-template-provider watch ADDR`: a client of any template provider that prints what it is sent.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use adit_mining::BlockHash;
use adit_service::clap::{self, Arg, ArgMatches, Command};
use adit_sv2::codec::Str0255;
use adit_sv2::frame::Header;
use adit_sv2::keys::{AuthorityPublicKey, Sv2Url};
use adit_sv2::messages::AnyMessage;
use adit_sv2::messages::common::{
    Common, PROTOCOL_TEMPLATE_DISTRIBUTION, PROTOCOL_VERSION, SetupConnection,
};
use adit_sv2::messages::template_distribution::{CoinbaseOutputConstraints, TemplateDistribution};
use adit_transport::{
    ConnectionLimits, DialOptions, DialTarget, Engine, Event, Hub, HubOptions, Now, Outbox, PeerId,
};
use tokio::sync::mpsc;

/// Lines that wait to be printed: more than a server says in hours. What comes when stdout is so far behind is left out.
const LINES: usize = 4096;

/// The command line.
pub fn command() -> Command {
    let number = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("N").help(help)
    };
    Command::new("watch")
        .about("Connect to any template provider and print what it sends, a line for each message, until Ctrl-C")
        .arg(Arg::new("address").value_name("ADDR").required(true).help("host:port or stratum2+tcp://host:port/KEY"))
        .arg(
            Arg::new("authority-key")
                .long("authority-key")
                .value_name("KEY")
                .value_parser(|text: &str| text.parse::<AuthorityPublicKey>().map_err(|error| error.to_string()))
                .help("The key that the server must prove; without it any server is believed"),
        )
        .arg(
            number("outputs-size", "Bytes of outputs to reserve in the coinbase")
                .default_value("100")
                .value_parser(clap::value_parser!(u32)),
        )
        .arg(
            number("outputs-sigops", "Sigops to reserve for these outputs")
                .default_value("400")
                .value_parser(clap::value_parser!(u16)),
        )
        .arg(number("count", "End after so many messages").value_parser(clap::value_parser!(u64).range(1..)))
}

/// Runs the command.
///
/// # Errors
/// The address is none, the server cannot be reached or refuses, or the connection ends.
pub async fn run(args: &ArgMatches) -> anyhow::Result<ExitCode> {
    let address = args.get_one::<String>("address").map_or("", String::as_str);
    let mut target = target(address)?;
    if let Some(key) = args.get_one::<AuthorityPublicKey>("authority-key") {
        target.authority_key = Some(*key);
    }
    let constraints = CoinbaseOutputConstraints {
        coinbase_output_max_additional_size: args
            .get_one("outputs-size")
            .copied()
            .unwrap_or_default(),
        coinbase_output_max_additional_sigops: args
            .get_one("outputs-sigops")
            .copied()
            .unwrap_or_default(),
    };
    let (effects, mut printed) = mpsc::channel(LINES);
    let watcher = Watcher::new(constraints, args.get_one("count").copied());
    let on_effect = move |effect| drop(effects.try_send(effect));
    let hub = Hub::new(watcher, on_effect, Arc::default(), HubOptions::default());
    let options = DialOptions { connection: ConnectionLimits::bulk(), ..DialOptions::default() };
    hub.dial_noise(Server, target, options).await?;
    loop {
        let effect = tokio::select! {
            effect = printed.recv() => effect,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                None
            }
        };
        match effect {
            Some(Effect::Print(line)) => {
                let mut out = std::io::stdout().lock();
                // Whoever reads this may have seen enough.
                if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Some(Effect::Refused(reason)) => anyhow::bail!(reason),
            Some(Effect::Done) | None => return Ok(ExitCode::SUCCESS),
        }
    }
}

fn target(address: &str) -> anyhow::Result<DialTarget> {
    let url = if address.contains("://") {
        address.to_owned()
    } else {
        format!("stratum2+tcp://{address}")
    };
    let url: Sv2Url = url.parse().map_err(|error| anyhow::anyhow!("{address}: {error}"))?;
    Ok(DialTarget::from(&url))
}

/// The connection to the server that is watched.
#[derive(Clone, Copy, Debug)]
pub struct Server;

/// What the watcher asks of its driver.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// A line for people.
    Print(String),
    /// Something went wrong; the connection is of no use.
    Refused(String),
    /// As many messages as were asked for are printed.
    Done,
}

/// The client.
#[derive(Debug)]
pub struct Watcher {
    constraints: CoinbaseOutputConstraints,
    /// Messages still to be printed; without end if none.
    left: Option<u64>,
    opened: Option<Instant>,
}

impl Watcher {
    /// A client that adds so much to the coinbase and ends after `count` messages.
    pub fn new(constraints: CoinbaseOutputConstraints, count: Option<u64>) -> Self {
        Self { constraints, left: count, opened: None }
    }

    fn on_frame(
        &mut self,
        peer: PeerId,
        header: Header,
        payload: &[u8],
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let message = match AnyMessage::decode(&header, payload) {
            Ok((message, _)) => message,
            Err(error) => return self.print(now, &format!("undecodable: {error}"), out),
        };
        match message {
            AnyMessage::Common(Common::SetupConnectionSuccess(success)) => {
                self.print(now, &success.to_string(), out);
                out.send(peer, &self.constraints);
            }
            AnyMessage::Common(Common::SetupConnectionError(error)) => {
                let code = error.error_code.to_clean_string();
                out.effect(Effect::Refused(format!("the server refuses the connection: {code}")));
            }
            AnyMessage::TemplateDistribution(message) => self.print(now, &line(&message), out),
            other => self.print(now, &other.to_string(), out),
        }
    }

    fn print(&mut self, now: Now, what: &str, out: &mut Outbox<Effect>) {
        if self.left == Some(0) {
            return;
        }
        let since = self
            .opened
            .map(|opened| now.instant.saturating_duration_since(opened))
            .unwrap_or_default();
        out.effect(Effect::Print(format!("{:9.3}  {what}", since.as_secs_f64())));
        if let Some(left) = &mut self.left {
            *left -= 1;
            if *left == 0 {
                out.effect(Effect::Done);
            }
        }
    }
}

impl Engine for Watcher {
    type Link = Server;
    type Effect = Effect;

    fn handle(
        &mut self,
        peer: PeerId,
        _: Server,
        event: Event<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        match event {
            Event::Opened { remote } => {
                self.opened = Some(now.instant);
                let host = remote.ip().to_string();
                out.send(
                    peer,
                    &SetupConnection {
                        protocol: PROTOCOL_TEMPLATE_DISTRIBUTION,
                        min_version: PROTOCOL_VERSION,
                        max_version: PROTOCOL_VERSION,
                        flags: 0,
                        endpoint_host: Str0255::cut(&host),
                        endpoint_port: remote.port(),
                        vendor: Str0255::cut("adit"),
                        hardware_version: Str0255::cut("template-provider watch"),
                        firmware: Str0255::cut(env!("CARGO_PKG_VERSION")),
                        device_id: Str0255::default(),
                    },
                );
            }
            Event::Frame(header, payload) => self.on_frame(peer, header, payload, now, out),
            Event::Line(_) => {}
            Event::Closed(reason) => {
                out.effect(Effect::Refused(format!("connection closed: {reason}")))
            }
        }
    }

    fn tick(&mut self, _: Now, _: &mut Outbox<Effect>) {}
}

/// A message as a person wants to see it: hashes as block explorers show them, amounts in coins, the rest by the names of
/// the specification.
fn line(message: &TemplateDistribution<'_>) -> String {
    match message {
        TemplateDistribution::NewTemplate(m) => {
            let kind = if m.future_template { "future" } else { "active" };
            let height = height(m.coinbase_prefix.as_bytes())
                .map_or("unknown".to_owned(), |height| height.to_string());
            // A path of n steps means 2^(n-1) to 2^n - 1 transactions besides the coinbase.
            let transactions = match m.merkle_path.len() {
                0 => "0".to_owned(),
                1 => "1".to_owned(),
                steps @ 2..64 => format!("{} to {}", 1u64 << (steps - 1), (1u64 << steps) - 1),
                _ => "absurdly many".to_owned(),
            };
            format!(
                "NewTemplate     template_id {}, {kind}, height {height}, value {}.{:08}, transactions {transactions}, \
                 version {:#010x}, coinbase_tx_version {}, coinbase_prefix {}, coinbase_tx_input_sequence {:#010x}, \
                 coinbase_tx_outputs {} ({}), coinbase_tx_locktime {}",
                m.template_id,
                m.coinbase_tx_value_remaining / 100_000_000,
                m.coinbase_tx_value_remaining % 100_000_000,
                m.version,
                m.coinbase_tx_version,
                hex(m.coinbase_prefix.as_bytes()),
                m.coinbase_tx_input_sequence,
                m.coinbase_tx_outputs_count,
                hex(m.coinbase_tx_outputs.as_bytes()),
                m.coinbase_tx_locktime,
            )
        }
        TemplateDistribution::SetNewPrevHash(m) => format!(
            "SetNewPrevHash  template_id {}, prev_hash {}, header_timestamp {}, n_bits {:08x}, target {}",
            m.template_id,
            BlockHash(m.prev_hash),
            m.header_timestamp,
            m.n_bits,
            BlockHash(m.target),
        ),
        other => other.to_string(),
    }
}

/// The height that a coinbase begins with (BIP34).
fn height(prefix: &[u8]) -> Option<i64> {
    match bitcoin::Script::from_bytes(prefix).instructions().next()?.ok()? {
        bitcoin::script::Instruction::PushBytes(bytes) => {
            bitcoin::script::read_scriptint(bytes.as_bytes()).ok()
        }
        // OP_1 to OP_16.
        bitcoin::script::Instruction::Op(op) => {
            Some(i64::from(op.to_u8()) - 0x50).filter(|n| (1..=16).contains(n))
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use adit_sv2::messages::Message;
    use adit_sv2::messages::common::{SetupConnectionError, SetupConnectionSuccess};
    use adit_transport::Delivery;

    use super::*;
    use crate::template::tests::{snapshot, tip};
    use crate::template::{Constraints, Template};

    struct Net {
        watcher: Watcher,
        out: Outbox<Effect>,
        now: Now,
    }

    impl Net {
        fn event(&mut self, event: Event<'_>) -> Vec<Effect> {
            self.watcher.handle(PeerId(1), Server, event, self.now, &mut self.out);
            self.out.take_effects().collect()
        }

        fn message<'m, M: Message<'m>>(&mut self, message: &M) -> Vec<Effect> {
            let mut frame = Vec::new();
            adit_sv2::frame::encode_frame(message, &mut frame);
            let (header, payload) = frame.split_first_chunk().unwrap();
            self.event(Event::Frame(Header::parse(header), payload))
        }

        fn sent(&mut self) -> Vec<String> {
            let mut sent = Vec::new();
            self.out.deliver(|delivery| {
                let Delivery::Bytes(_, bytes) = delivery else { panic!("closed") };
                let (header, payload) = bytes.split_first_chunk().unwrap();
                sent.push(
                    AnyMessage::decode(&Header::parse(header), payload).unwrap().0.to_string(),
                );
            });
            sent
        }
    }

    fn net(count: Option<u64>) -> Net {
        let constraints = CoinbaseOutputConstraints {
            coinbase_output_max_additional_size: 100,
            coinbase_output_max_additional_sigops: 4,
        };
        let now = Now { instant: Instant::now(), unix_ms: 0 };
        let mut net =
            Net { watcher: Watcher::new(constraints, count), out: Outbox::default(), now };
        net.event(Event::Opened { remote: ([127, 0, 0, 1], 8442).into() });
        assert!(net.sent()[0].starts_with(
            "SetupConnection { protocol: 2, min_version: 2, max_version: 2, flags: 0"
        ));
        net
    }

    #[test]
    fn a_stream_is_printed_line_by_line() {
        let mut net = net(Some(3));
        net.now = net.now.later(Duration::from_millis(1500));
        let success = SetupConnectionSuccess { used_version: 2, flags: 0 };
        let printed = net.message(&success);
        assert_eq!(
            printed,
            [Effect::Print(
                "    1.500  SetupConnection.Success { used_version: 2, flags: 0 }".to_owned()
            )]
        );
        assert!(
            net.sent()[0].starts_with(
                "CoinbaseOutputConstraints { coinbase_output_max_additional_size: 100"
            )
        );

        let template =
            Template::build(&snapshot(tip(840_000, 9), 3, 100), Constraints::default(), 5).unwrap();
        let printed = template.new_template(true, |message| net.message(message)).unwrap();
        let [Effect::Print(line)] = &printed[..] else { panic!("{printed:?}") };
        let expected = "template_id 5, future, height 840000, value 0.00000300, transactions 2 to 3, version 0x20000000";
        assert!(line.contains(expected), "{line}");
        let printed = net.message(&template.set_new_prev_hash(1_800_000_000));
        let [Effect::Print(line), Effect::Done] = &printed[..] else { panic!("{printed:?}") };
        let expected = format!(
            "template_id 5, prev_hash {}, header_timestamp 1800000000, n_bits 207fffff",
            "09".repeat(32)
        );
        assert!(line.contains(&expected), "{line}");
        assert_eq!(net.message(&success), []);
    }

    #[test]
    fn a_refusal_ends_it() {
        let mut net = net(None);
        let error = SetupConnectionError {
            flags: 0,
            error_code: Str0255::cut("unsupported-\u{1b}protocol"),
        };
        assert_eq!(
            net.message(&error),
            [Effect::Refused("the server refuses the connection: unsupported-protocol".to_owned())]
        );
        assert_eq!(
            net.event(Event::Closed("gone")),
            [Effect::Refused("connection closed: gone".to_owned())]
        );
    }

    #[test]
    fn heights() {
        for (prefix, expected) in [
            (&[0x51][..], Some(1)),
            (&[0x60], Some(16)),
            (&[1, 17], Some(17)),
            (&[2, 128, 0], Some(128)),
            (&[], None),
            (&[9], None),
        ] {
            assert_eq!(height(prefix), expected, "{prefix:?}");
        }
    }
}
