//! Sentences of the specification about what roles say to one another, seen between real roles (docs/conformance.md).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::{Duration, SystemTime};

use adit_job_declaration::{AccountTag, Commitment, Grant, Token, TokenId};
use adit_mining::{Change, ClientChannel, ClientChannels, CustomJob};
use adit_sv2::codec::{B0255, Str0255};
use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::messages::AnyMessage;
use adit_sv2::messages::common::{Common, PROTOCOL_MINING, SetupConnection};
use adit_sv2::messages::job_declaration::JobDeclaration;
use adit_sv2::messages::mining::{
    Mining, OpenExtendedMiningChannel, REQUIRES_VERSION_ROLLING, REQUIRES_WORK_SELECTION,
};
use adit_test_env::bitcoind::{self, Bitcoind, Chain};
use adit_test_env::harness::{self, Role, Setup, Sv2Peer};
use adit_test_env::sniffer::{Direction, Reading, Record, Sniffer};
use bitcoin::consensus::{deserialize, serialize};
use bitcoin::{Address, Amount, Transaction, TxOut};
use bitcoincore_rpc::RpcApi;

/// On a machine busy with other tests.
const SOON: Duration = Duration::from_secs(60);

fn sniffer(server: &Role) -> Sniffer {
    let endpoint = server.endpoint();
    Sniffer::noise(endpoint.addr, endpoint.key.unwrap()).unwrap()
}

/// A transaction that is worth a new template.
fn send_fees(node: &Bitcoind) {
    let coin = &node.coins().unwrap()[0];
    node.send(&[bitcoind::split(coin, 2, Amount::from_sat(50_000)).unwrap()]).unwrap();
}

/// The message of a record, in which a mining message is expected.
fn mining<T>(record: &Record, read: impl FnOnce(Mining<'_>) -> Option<T>) -> T {
    let Ok((AnyMessage::Mining(message), _)) = record.message() else { panic!("{record}") };
    read(message).unwrap_or_else(|| panic!("{record}"))
}

/// 5.3.1: a client that rolls versions has no job that forbids it.
#[test]
fn who_needs_to_roll_versions_may() {
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let pool = Setup::pool(&provider.endpoint()).start().unwrap();
    pool.wait_ready(SOON).unwrap();
    let endpoint = pool.endpoint();
    let mut peer = Sv2Peer::connect(&endpoint).unwrap();
    peer.send(&Sv2Peer::setup_connection(PROTOCOL_MINING, REQUIRES_VERSION_ROLLING)).unwrap();
    let answer = peer.wait_for("SetupConnection.Success", SOON).unwrap();
    let Ok((AnyMessage::Common(Common::SetupConnectionSuccess(answer)), _)) = answer.message()
    else {
        panic!("{answer}")
    };
    assert_eq!(answer.flags, 0, "no fixed version");
    peer.send(&OpenExtendedMiningChannel {
        request_id: 1,
        user_identity: Str0255::cut("a.b"),
        nominal_hash_rate: 1e3,
        max_target: [0xff; 32],
        min_extranonce_size: 8,
    })
    .unwrap();
    let allowed = |record: Record| {
        mining(&record, |message| match message {
            Mining::NewExtendedMiningJob(job) => {
                Some((job.min_ntime.is_some(), job.version_rolling_allowed))
            }
            _ => None,
        })
    };
    // The channel's first job, one for a new tip, and one for fees upon it.
    let first = peer.wait_for("NewExtendedMiningJob", SOON).unwrap();
    node.generate(1).unwrap();
    let tip = peer.wait_for("NewExtendedMiningJob", SOON).unwrap();
    send_fees(&node);
    let fees = peer.wait_for("NewExtendedMiningJob", SOON).unwrap();
    assert_eq!([first, tip, fees].map(allowed), [(false, true), (false, true), (true, true)]);
}

/// 5.3.15: the job says from when on, and no previous hash comes before the device's share of it.
#[test]
fn a_standard_job_with_its_time_is_mined_at_once() {
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    // Shares are easy and blocks are none: the tip stays.
    let pool = Setup::pool(&provider.endpoint())
        .set("shares", "vardiff", false)
        .set("shares", "start_hashrate", 100)
        .set("shares", "per_minute", 600)
        .start()
        .unwrap();
    pool.wait_ready(SOON).unwrap();
    let between = sniffer(&pool);
    let device = Setup::device("sv2-standard", &(&between).into()).arg("--hashrate", "100");
    let device = device.start().unwrap();
    device.wait_ready(SOON).unwrap();
    let mut said = between.from_start();
    said.wait_for(Direction::ToClient, "SetNewPrevHash", SOON).unwrap();
    send_fees(&node);
    // A block may have come between: then its job is for later, and the next one is looked for.
    let (job_id, min_ntime) = loop {
        let job = said.wait_for(Direction::ToClient, "NewMiningJob", SOON).unwrap();
        let job = mining(&job, |message| match message {
            Mining::NewMiningJob(job) => Some((job.job_id, job.min_ntime)),
            _ => None,
        });
        match job {
            (id, Some(min_ntime)) => break (id, min_ntime),
            (_, None) => send_fees(&node),
        }
    };
    let until_share = |said: &mut Reading| {
        said.wait_until(SOON, "share of the job", |record| {
            assert_ne!(record.name, "SetNewPrevHash", "mined before it is told another tip");
            record.name == "SubmitSharesStandard"
                && mining(record, |message| match message {
                    Mining::SubmitSharesStandard(share) => Some(share.job_id == job_id),
                    _ => None,
                })
        })
    };
    let share = until_share(&mut said).unwrap();
    let ntime = mining(&share, |message| match message {
        Mining::SubmitSharesStandard(share) => Some(share.ntime),
        _ => None,
    });
    assert!((min_ntime..=min_ntime + 60).contains(&ntime), "{ntime}, told {min_ntime}");
}

/// A client with several channels on one connection, which does what it is told.
struct Proxy {
    peer: Sv2Peer,
    channels: ClientChannels,
}

impl Proxy {
    /// The next mining message by its name, whom it is addressed to, and the channels that it changed.
    fn receive(&mut self) -> (String, u32, Vec<(u32, Change)>) {
        let record = self.peer.receive(SOON).unwrap().expect("a connection");
        let mut changed = Vec::new();
        mining(&record, |message| {
            if let Mining::OpenExtendedMiningChannelSuccess(opened) = &message {
                self.channels.insert(ClientChannel::extended(opened).unwrap());
            }
            let change = |channel: &ClientChannel, change| changed.push((channel.id(), change));
            self.channels.receive(&message, change).unwrap();
            Some(())
        });
        let to = u32::from_le_bytes(*record.frame().1.first_chunk().unwrap());
        (record.name, to, changed)
    }

    /// Reads up to a message of this name, and gives what [`receive`](Self::receive) does.
    fn wait_for(&mut self, name: &str) -> (u32, Vec<(u32, Change)>) {
        loop {
            let (said, to, changed) = self.receive();
            if said == name {
                return (to, changed);
            }
        }
    }

    fn group(&self, channel_id: u32) -> u32 {
        self.channels.get(channel_id).unwrap().group_channel_id()
    }
}

/// Bytes of extranonce for who makes jobs of its own.
const OWN_EXTRANONCE: u16 = 8;

/// A job of a client's own upon the node's tip, which pays what the harness's pools want to be paid.
fn own_job(node: &Bitcoind) -> CustomJob {
    let client = node.client().unwrap();
    let tip = client.get_block_header_info(&client.get_best_block_hash().unwrap()).unwrap();
    let address = harness::payout_address(Chain::Regtest).parse::<Address<_>>().unwrap();
    let script_pubkey = address.assume_checked().script_pubkey();
    let height = tip.height as i64 + 1;
    // The height, and the opcode that pushes all of the extranonce: 4 bytes of the pool's and what was asked for.
    let mut coinbase_prefix =
        bitcoin::script::Builder::new().push_int(height).into_script().into_bytes();
    coinbase_prefix.push(4 + OWN_EXTRANONCE as u8);
    CustomJob {
        version: 0x2000_0000,
        prev_hash: *AsRef::<[u8; 32]>::as_ref(&tip.hash),
        min_ntime: tip.median_time.unwrap() as u32 + 1,
        nbits: u32::from_str_radix(&tip.bits, 16).unwrap(),
        coinbase_tx_version: 2,
        coinbase_prefix,
        coinbase_tx_input_sequence: u32::MAX,
        coinbase_tx_outputs: serialize(&vec![TxOut {
            value: Amount::from_int_btc(50),
            script_pubkey,
        }]),
        coinbase_tx_locktime: 0,
        merkle_path: Vec::new(),
    }
}

/// 5.3.22: `SetGroupChannel` parts a channel that works on jobs of its own from the others, who go on as they did.
#[test]
fn what_is_for_a_group_is_not_for_a_channel_that_left_it() {
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let key = AuthoritySecretKey::from_entropy([9; 32]).unwrap();
    let pool = Setup::pool(&provider.endpoint())
        .set("job_declaration", "token_keys", vec![key.public().to_string()])
        .start()
        .unwrap();
    pool.wait_ready(SOON).unwrap();
    let peer = Sv2Peer::set_up(&pool.endpoint(), PROTOCOL_MINING, REQUIRES_WORK_SELECTION).unwrap();
    let mut proxy = Proxy { peer, channels: ClientChannels::default() };
    for request_id in 1..=3 {
        proxy
            .peer
            .send(&OpenExtendedMiningChannel {
                request_id,
                user_identity: Str0255::cut("alice.farm"),
                nominal_hash_rate: 1e3,
                max_target: [0xff; 32],
                min_extranonce_size: OWN_EXTRANONCE,
            })
            .unwrap();
        proxy.wait_for("OpenExtendedMiningChannel.Success");
        proxy.wait_for("SetNewPrevHash");
    }
    let ids: Vec<u32> = proxy.channels.iter().map(ClientChannel::id).collect();
    let [own, ref others @ ..] = ids[..] else { panic!("{ids:?}") };
    let group = proxy.group(own);
    assert!(others.iter().all(|other| proxy.group(*other) == group) && !ids.contains(&group));

    let mut requests = 0;
    let mut declare = |proxy: &mut Proxy| {
        requests += 1;
        let job = own_job(&node);
        let grant = Grant::Declared(Commitment::of(&job.message(0, 0, B0255::default()).unwrap()));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let (id, account) = (TokenId([requests; 8]), AccountTag::of(b"alice"));
        let token = Token { expiry: now as u32 + 7_200, id, account, grant }.sign(&key, &[0; 32]);
        let message = job.message(own, requests.into(), B0255::new(&token).unwrap()).unwrap();
        proxy.peer.send(&message).unwrap();
        let mut before = Vec::new();
        loop {
            let (said, _, changed) = proxy.receive();
            if said.starts_with("SetCustomMiningJob") {
                assert_eq!(said, "SetCustomMiningJob.Success");
                return before;
            }
            before.push((said, changed));
        }
    };
    declare(&mut proxy);
    let (apart, changed) = proxy.wait_for("SetGroupChannel");
    assert!(apart != group && !ids.contains(&apart), "{apart}");
    assert_eq!(changed, [(own, Change::Group)]);
    assert_eq!(proxy.group(own), apart);
    assert!(others.iter().all(|other| proxy.group(*other) == group));

    // The next tip is told to the group: work for the others, and not for the one that is apart.
    node.generate(1).unwrap();
    for name in ["NewExtendedMiningJob", "SetNewPrevHash"] {
        let (to, changed) = proxy.wait_for(name);
        let concerned: Vec<u32> = changed.iter().map(|(id, _)| *id).collect();
        assert_eq!((to, &concerned[..]), (group, others), "{name}");
    }
    // Its own job for that tip is taken as well, and it stays where it is.
    let between = declare(&mut proxy);
    assert!(between.iter().all(|(said, _)| said != "SetGroupChannel"), "{between:?}");
    assert_eq!(proxy.group(own), apart);
}

/// What a client says of itself at first.
fn introduction(sniffer: &Sniffer) -> [String; 4] {
    let record =
        sniffer.from_start().wait_for(Direction::ToServer, "SetupConnection", SOON).unwrap();
    let Ok((AnyMessage::Common(Common::SetupConnection(said)), _)) = record.message() else {
        panic!("{record}")
    };
    let SetupConnection { vendor, hardware_version, firmware, device_id, .. } = said;
    [vendor, hardware_version, firmware, device_id].map(|text| text.to_clean_string())
}

/// 3.6.1 for every client that there is; 6.4.3 for what a Job Declarator Client declares.
#[test]
fn clients_introduce_themselves_and_declared_jobs_pay_the_pool() {
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let to_provider = sniffer(&provider);
    let jds = Setup::jds(&node).start().unwrap();
    let pool = Setup::pool(&(&to_provider).into()).declared_by(&[&jds.endpoint()]).start().unwrap();
    for role in [&provider, &jds, &pool] {
        role.wait_ready(SOON).unwrap();
    }
    let [jdc_to_provider, jdc_to_pool, jdc_to_jds] = [&provider, &pool, &jds].map(sniffer);
    let jdc = Setup::jdc(&(&jdc_to_provider).into())
        .set("", "mode", "full-template")
        .upstream(&(&jdc_to_pool).into(), &(&jdc_to_jds).into())
        .start()
        .unwrap();
    let [to_pool, translator_to_pool] = [&jdc, &pool].map(sniffer);
    let device = Setup::device("sv2-extended", &(&to_pool).into()).start().unwrap();
    let translator = Setup::translator(&(&translator_to_pool).into()).start().unwrap();
    for role in [&jdc, &device, &translator] {
        role.wait_ready(SOON).unwrap();
    }

    for (client, sniffer) in [
        ("pool", &to_provider),
        ("jdc", &jdc_to_provider),
        ("jdc", &jdc_to_pool),
        ("jdc", &jdc_to_jds),
        ("mining-device", &to_pool),
        ("translator", &translator_to_pool),
    ] {
        let [vendor, hardware_version, firmware, device_id] = introduction(sniffer);
        assert_eq!(vendor, "adit", "{client}");
        assert!(!hardware_version.is_empty(), "{client}");
        // All of them have the workspace's version.
        assert!(firmware.ends_with(env!("CARGO_PKG_VERSION")), "{client}: {firmware}");
        assert_eq!(device_id, "", "{client}: nobody asked for telemetry");
    }

    let token = jdc_to_jds
        .from_start()
        .wait_for(Direction::ToClient, "AllocateMiningJobToken.Success", SOON)
        .unwrap();
    let Ok((AnyMessage::JobDeclaration(JobDeclaration::AllocateMiningJobTokenSuccess(token)), _)) =
        token.message()
    else {
        panic!("{token}")
    };
    let asked: Vec<TxOut> = deserialize(token.coinbase_tx_outputs.as_bytes()).unwrap();
    let declared =
        jdc_to_jds.from_start().wait_for(Direction::ToServer, "DeclareMiningJob", SOON).unwrap();
    let Ok((AnyMessage::JobDeclaration(JobDeclaration::DeclareMiningJob(declared)), _)) =
        declared.message()
    else {
        panic!("{declared}")
    };
    // The length of the input's script says how much is between the parts.
    let parts = [declared.coinbase_tx_prefix.as_bytes(), declared.coinbase_tx_suffix.as_bytes()];
    let coinbase: Transaction = (0..=32)
        .find_map(|size| deserialize(&[parts[0], &vec![0; size], parts[1]].concat()).ok())
        .expect("a coinbase");
    assert_eq!(coinbase.output[0].script_pubkey, asked[0].script_pubkey);
    let all: Amount = coinbase.output.iter().map(|output| output.value).sum();
    assert!(all > Amount::ZERO && coinbase.output[0].value == all, "{coinbase:?}");

    let custom =
        jdc_to_pool.from_start().wait_for(Direction::ToServer, "SetCustomMiningJob", SOON).unwrap();
    let outputs = mining(&custom, |message| match message {
        Mining::SetCustomMiningJob(job) => Some(job.coinbase_tx_outputs.as_bytes().to_vec()),
        _ => None,
    });
    assert_eq!(outputs, serialize(&coinbase.output), "the same in the same order");
}
