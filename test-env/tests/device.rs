//! The mining device as a Stratum V2 client of real pools: several channels on one connection, on its way from pool to
//! pool, workers by name, and channels that it has to ask for again.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use adit_sv2::codec::Str0255;
use adit_sv2::frame::encode_frame;
use adit_sv2::keys::AuthoritySecretKey;
use adit_sv2::messages::AnyMessage;
use adit_sv2::messages::mining::{CloseChannel, Mining};
use adit_test_env::bitcoind::Bitcoind;
use adit_test_env::harness::{self, Role, Setup, eventually, eventually_some};
use adit_test_env::sniffer::{Action, Direction, Record, Sniffer};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// On a machine busy with other tests.
const SOON: Duration = Duration::from_secs(60);
/// Miners on one connection.
const CHANNELS: u64 = 4;

/// What a role says of itself; null while it does not answer.
fn state(role: &Role) -> Value {
    role.status().map(|mut status| status["state"].take()).unwrap_or_default()
}

/// A device's only connection.
fn connection(device: &Role) -> Value {
    state(device)["connections"][0].take()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Accepted shares that a pool has stored, by worker of the account.
fn stored(pool: &Role, account: &str) -> BTreeMap<String, u64> {
    let state = state(pool);
    let workers = state["work"]["latest"].as_array().cloned().unwrap_or_default();
    let own = workers.iter().filter(|worker| worker["account"] == account);
    own.map(|worker| (worker["worker"].as_str().unwrap().to_owned(), number(&worker["accepted"])))
        .collect()
}

/// The names of a device's miners.
fn workers(name: &str, count: u64) -> Vec<String> {
    (1..=count).map(|miner| format!("{name}-{miner}")).collect()
}

/// Whether each of these workers has so many more shares stored than `before`.
fn all_found(
    pool: &Role,
    account: &str,
    workers: &[String],
    before: &BTreeMap<String, u64>,
    more: u64,
) -> bool {
    let now = stored(pool, account);
    let count = |tally: &BTreeMap<String, u64>, worker| tally.get(worker).copied().unwrap_or(0);
    workers.iter().all(|worker| count(&now, worker) >= count(before, worker) + more)
}

fn signal(role: &Role, signal: Signal) {
    let pid = Pid::from_raw(role.pid().unwrap() as i32).unwrap();
    kill_process(pid, signal).unwrap();
}

/// A node and its template provider.
fn mine() -> (Bitcoind, Role) {
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    (node, provider)
}

/// A pool that is told apart by its number, and by its key.
fn pool(provider: &Role, server_id: u8, key: &AuthoritySecretKey) -> Setup {
    Setup::pool(&provider.endpoint()).set("coinbase", "server_id", server_id).authority(key)
}

/// Sends its miners to another one.
fn drains_to(setup: Setup, other: &Role) -> Setup {
    let addr = other.endpoint().addr;
    setup.set("drain", "host", addr.ip().to_string()).set("drain", "port", addr.port())
}

/// Waits until both are at work: who is sent to a pool and finds nobody there goes elsewhere.
fn ready(pools: [&Role; 2]) {
    pools.into_iter().for_each(|pool| pool.wait_ready(SOON).unwrap());
}

fn key(number: u8) -> AuthoritySecretKey {
    AuthoritySecretKey::from_entropy([number; 32]).unwrap()
}

/// A device with several miners on one connection.
fn device(pool: &Role, user: &str) -> Setup {
    Setup::device("sv2-extended", &pool.endpoint())
        .arg("--user", user)
        .arg("--channels", &CHANNELS.to_string())
}

#[test]
fn each_channel_of_a_connection_has_its_tally() {
    let (_node, provider) = mine();
    let pool = Setup::pool(&provider.endpoint()).start().unwrap();
    pool.wait_ready(SOON).unwrap();
    let kinds = [
        ("extended", device(&pool, "extended.rig")),
        ("standard", device(&pool, "standard.rig").arg("--mode", "sv2-standard")),
        (
            "grouped",
            device(&pool, "grouped.rig").arg("--mode", "sv2-standard").arg("--group-jobs", ""),
        ),
    ];
    let mut devices =
        kinds.map(|(account, setup)| (account, setup.arg("--json", "").start().unwrap()));
    let workers = workers("rig", CHANNELS);
    eventually(SOON, "3 stored shares of every miner", || {
        devices.iter().all(|(account, _)| all_found(&pool, account, &workers, &BTreeMap::new(), 3))
    });
    // What the pool says of its channels may be a second old.
    eventually(SOON, "3 shares of every channel", || {
        let state = state(&pool);
        let channels = state["channels"].as_array().cloned().unwrap_or_default();
        (number(&state["connections"]), channels.len() as u64) == (3, 3 * CHANNELS)
            && channels.iter().all(|channel| number(&channel["accepted"]) >= 3)
    });

    for (account, device) in &mut devices {
        device.stop().unwrap();
        let said = device.stdout();
        let report: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        let connection = &report["connections"][0];
        let (submitted, acknowledged) =
            (number(&connection["shares_submitted"]), number(&connection["shares_accepted"]));
        let mut tally = BTreeMap::new();
        // What the pool says of its store may be a second old.
        eventually(SOON, &format!("{acknowledged} shares in the store"), || {
            tally = stored(&pool, account);
            tally.values().sum::<u64>() >= acknowledged
        });
        assert_eq!(tally.keys().collect::<Vec<_>>(), workers.iter().collect::<Vec<_>>());
        // What was on its way when the device left may be stored as well.
        assert!(tally.values().sum::<u64>() <= submitted, "{tally:?}: {connection}");
        assert_eq!(
            (number(&connection["reconnects"]), number(&connection["channels_reopened"])),
            (0, 0)
        );
        // Jobs come for the group, but to who wants jobs of his own.
        assert_eq!(number(&connection["group_messages"]) == 0, *account == "standard", "{account}");
    }
}

/// `SIGTERM`: the pool sends its miners to the other one before it ends.
#[test]
fn a_pool_that_stops_hands_its_miners_to_another_with_the_same_key() {
    let (_node, provider) = mine();
    let key = key(1);
    let second = pool(&provider, 2, &key).start().unwrap();
    let mut first = drains_to(pool(&provider, 1, &key), &second).start().unwrap();
    ready([&first, &second]);
    let device = device(&first, "alice.rig").start().unwrap();
    let workers = workers("rig", CHANNELS);
    eventually(SOON, "shares of every miner at the first pool", || {
        all_found(&first, "alice", &workers, &BTreeMap::new(), 1)
    });
    assert_eq!(stored(&second, "alice"), BTreeMap::new());

    first.stop().unwrap();
    eventually(SOON, "shares of every miner at the second pool", || {
        all_found(&second, "alice", &workers, &BTreeMap::new(), 1)
    });
    let connection = connection(&device);
    assert_eq!((&connection["reconnects"], &connection["channels"]), (&1.into(), &CHANNELS.into()));
    assert!(device.only_stale_rejects().unwrap(), "{connection}");
    // Each pool's prefixes begin with its number.
    let prefixes = device.extranonce_prefixes().unwrap();
    assert_eq!(prefixes.len(), 2 * CHANNELS as usize, "{prefixes:02x?}");
    assert!(prefixes[CHANNELS as usize..].iter().all(|prefix| prefix[0] == 2), "{prefixes:02x?}");
}

/// `SIGUSR1`: the pool sends its miners away and stays. Where the other one goes, the device comes home.
#[test]
fn a_pool_that_is_drained_hands_its_miners_over_and_takes_them_back() {
    let (_node, provider) = mine();
    let key = key(2);
    let mut second = pool(&provider, 2, &key).start().unwrap();
    let mut first = drains_to(pool(&provider, 1, &key), &second).start().unwrap();
    ready([&first, &second]);
    let device = device(&first, "bob.rig").start().unwrap();
    let workers = workers("rig", CHANNELS);
    eventually(SOON, "shares of every miner at the first pool", || {
        all_found(&first, "bob", &workers, &BTreeMap::new(), 1)
    });
    signal(&first, Signal::USR1);
    eventually(SOON, "shares of every miner at the second pool", || {
        all_found(&second, "bob", &workers, &BTreeMap::new(), 1)
    });
    eventually(SOON, "nobody at the first pool", || {
        let drained = state(&first);
        drained["draining"] == true && drained["connections"] == 0
    });
    eventually(SOON, "a load balancer sends nobody", || {
        first.ready().is_err_and(|why| why.contains("drain"))
    });

    first.stop().unwrap();
    first.restart().unwrap();
    first.wait_ready(SOON).unwrap();
    assert_eq!(state(&first)["connections"], 0, "the device stays where it is");
    let before = stored(&first, "bob");
    second.kill9().unwrap();
    eventually(SOON, "shares of every miner at the first pool again", || {
        all_found(&first, "bob", &workers, &before, 1)
    });
    eventually(SOON, "it says so", || device.log().contains("back to the configured upstream"));
    assert_eq!(connection(&device)["reconnects"], 2);
}

/// Whoever answers there cannot prove to be the same pool.
#[test]
fn nobody_is_handed_to_a_pool_with_another_key() {
    let (_node, provider) = mine();
    let foreign = pool(&provider, 2, &key(4)).start().unwrap();
    let mut first = drains_to(pool(&provider, 1, &key(3)), &foreign).start().unwrap();
    ready([&first, &foreign]);
    let device = device(&first, "carol.rig").start().unwrap();
    let workers = workers("rig", CHANNELS);
    eventually(SOON, "shares of every miner at the first pool", || {
        all_found(&first, "carol", &workers, &BTreeMap::new(), 1)
    });
    first.stop().unwrap();
    eventually(SOON, "the device has been there and come away", || {
        device.log().contains("back to the configured upstream")
    });
    first.restart().unwrap();
    let before = eventually_some(SOON, "the first pool's tally", || {
        let tally = stored(&first, "carol");
        (!tally.is_empty()).then_some(tally)
    });
    eventually(SOON, "shares of every miner at the first pool again", || {
        all_found(&first, "carol", &workers, &before, 1)
    });
    let metrics = foreign.metrics().unwrap();
    assert_eq!(metrics.sum("adit_pool_channel_opens_total", &[]), 0.0, "{}", metrics.text());
    assert_eq!(stored(&foreign, "carol"), BTreeMap::new());
    let prefixes = device.extranonce_prefixes().unwrap();
    assert!(prefixes.iter().all(|prefix| prefix[0] == 1), "{prefixes:02x?}");
}

/// Extension 0x0002, and a pool that does not have it.
#[test]
fn workers_are_known_by_the_names_in_their_shares() {
    let (_node, provider) = mine();
    let with = Setup::pool(&provider.endpoint()).start().unwrap();
    let without = Setup::pool(&provider.endpoint())
        .set("mining", "supported_extensions", Vec::<u16>::new())
        .start()
        .unwrap();
    let named = device(&with, "dave.rig").arg("--worker-tlv", "").start().unwrap();
    let unnamed = device(&without, "dave.rig").arg("--worker-tlv", "").start().unwrap();
    let workers = workers("rig", CHANNELS);
    for pool in [&with, &without] {
        eventually(SOON, "shares of every miner", || {
            all_found(pool, "dave", &workers, &BTreeMap::new(), 2)
        });
    }
    for (pool, device, names) in [(&with, &named, 1), (&without, &unnamed, 0)] {
        eventually(SOON, "each worker with its shares, on its channel and in all", || {
            let state = state(pool);
            let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
            let channels = list(&state["channels"]);
            let own = |channel: &Value| {
                list(&channel["workers"]).iter().all(|worker| {
                    worker["identity"] == channel["identity"] && number(&worker["accepted"]) > 0
                })
            };
            let mut known: Vec<_> = list(&state["workers"])
                .iter()
                .filter(|worker| worker["account"] == "dave" && number(&worker["accepted"]) > 0)
                .filter_map(|worker| Some(worker["worker"].as_str()?.to_owned()))
                .collect();
            known.sort();
            channels.len() as u64 == CHANNELS
                && channels.iter().all(|channel| channel["named_workers"] == names && own(channel))
                && known == workers
        });
        assert_eq!(connection(device)["names_workers"], names == 1);
        assert!(device.only_stale_rejects().unwrap());
    }
}

/// The pool has room for one channel less than the device wants, until its configuration says otherwise.
#[test]
fn a_channel_that_was_refused_is_opened_when_there_is_room() {
    let (_node, provider) = mine();
    let pool = Setup::pool(&provider.endpoint())
        .set("channels", "max_per_connection", CHANNELS - 1)
        .start()
        .unwrap();
    pool.wait_ready(SOON).unwrap();
    let device = device(&pool, "erin.rig").start().unwrap();
    let early = workers("rig", CHANNELS - 1);
    eventually(SOON, "shares of those that have a channel", || {
        all_found(&pool, "erin", &early, &BTreeMap::new(), 1)
    });
    eventually(SOON, "the device says so", || {
        device.ready().is_err_and(|why| why.contains("3 of 4 miners have work"))
    });
    let file = pool.dir().join("config.toml");
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, config.replace("max_per_connection = 3", "max_per_connection = 4")).unwrap();
    signal(&pool, Signal::HUP);
    eventually(SOON, "shares of all", || {
        all_found(&pool, "erin", &workers("rig", CHANNELS), &BTreeMap::new(), 1)
    });
    let connection = connection(&device);
    assert_eq!(
        (&connection["channels_reopened"], &connection["reconnects"]),
        (&1.into(), &0.into())
    );
    assert!(device.log().contains("a miner is without channel"));
    device.wait_ready(SOON).unwrap();
}

/// In the pool's name: this pool never closes a channel of its own accord.
#[test]
fn a_channel_that_is_closed_is_opened_again() {
    let (_node, provider) = mine();
    let pool = Setup::pool(&provider.endpoint()).start().unwrap();
    pool.wait_ready(SOON).unwrap();
    let endpoint = pool.endpoint();
    let sniffer = Sniffer::noise(endpoint.addr, endpoint.key.unwrap()).unwrap();
    let device = Setup::device("sv2-extended", &(&sniffer).into())
        .arg("--user", "frank.rig")
        .arg("--channels", &CHANNELS.to_string())
        .start()
        .unwrap();
    let workers = workers("rig", CHANNELS);
    eventually(SOON, "shares of every miner", || {
        all_found(&pool, "frank", &workers, &BTreeMap::new(), 1)
    });

    let mut said = sniffer.from_now();
    // The first channel of which something is heard.
    let closed = std::sync::Arc::new(std::sync::OnceLock::new());
    let known = closed.clone();
    let close = move |record: &Record| {
        let mut messages = vec![record.bytes.clone()];
        if let Ok((AnyMessage::Mining(Mining::SubmitSharesSuccess(m)), _)) = record.message()
            && known.set(m.channel_id).is_ok()
        {
            let reason_code = Str0255::cut("test");
            let mut frame = Vec::new();
            encode_frame(&CloseChannel { channel_id: m.channel_id, reason_code }, &mut frame);
            messages.push(frame);
        }
        messages
    };
    let rule = sniffer.intercept(
        Direction::ToClient,
        "SubmitShares.Success",
        Action::Replace(Box::new(close)),
    );
    let request = said.wait_for(Direction::ToServer, "OpenExtendedMiningChannel", SOON).unwrap();
    rule.end();
    let Ok((AnyMessage::Mining(Mining::OpenExtendedMiningChannel(request)), _)) = request.message()
    else {
        panic!("{request}")
    };
    assert_eq!(u64::from(request.request_id), CHANNELS + 1, "an id that was never used");
    let worker = request.user_identity.to_clean_string();
    let worker = worker.strip_prefix("frank.").unwrap().to_owned();
    let before = stored(&pool, "frank");
    eventually(SOON, "shares of the others, and of the new channel", || {
        all_found(&pool, "frank", &workers, &before, 2)
    });
    let old = u64::from(*closed.get().unwrap());
    eventually(
        SOON,
        "both of its channels at the pool, which knows nothing of the closing",
        || {
            let state = state(&pool);
            let channels = state["channels"].as_array().cloned().unwrap_or_default();
            let of_worker = |channel: &&Value| channel["identity"] == format!("frank.{worker}");
            let ids: Vec<_> = channels.iter().filter(of_worker).map(|c| number(&c["id"])).collect();
            ids.len() == 2 && ids.contains(&old)
        },
    );
    let connection = connection(&device);
    assert_eq!(
        (&connection["channels"], &connection["channels_reopened"], &connection["reconnects"]),
        (&CHANNELS.into(), &1.into(), &0.into())
    );
    assert!(device.only_stale_rejects().unwrap(), "{connection}");
}
