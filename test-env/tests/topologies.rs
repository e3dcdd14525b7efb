//! What the reference implementation's integration tests ask of pool and translator, where no other test of ours shows it
//! on real parts (docs/sri-tests.md has the whole list).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use adit_sv2::messages::AnyMessage;
use adit_sv2::messages::mining::Mining;
use adit_sv2::messages::template_distribution::TemplateDistribution;
use adit_test_env::bitcoind::Chain;
use adit_test_env::harness::{self, Endpoint, Role, Setup, Stack, eventually};
use adit_test_env::sniffer::{Action, Direction, Sniffer};
use serde_json::{Value, json};

/// On a machine busy with other tests.
const SOON: Duration = Duration::from_secs(60);
/// Both ways to put miners on channels.
const CHANNELS: [&str; 2] = ["per-miner", "aggregated"];

fn sniffer(server: &Role) -> Sniffer {
    let Endpoint { addr, key } = server.endpoint();
    Sniffer::noise(addr, key.unwrap()).unwrap()
}

/// A translator at these pools, each with more entries of its own.
fn translator(channels: &str, pools: &[(Endpoint, &[(&str, Value)])]) -> Setup {
    let identity = if channels == "aggregated" { "farm.all" } else { "farm.{worker}" };
    let mut setup = Setup::translator(&pools[0].0).clear("upstream").set("", "channels", channels);
    for (pool, more) in pools {
        let url = format!("stratum2+tcp://{}/{}", pool.addr, pool.key.unwrap());
        let mut entries = vec![("url", url.into()), ("user_identity", identity.into())];
        entries.extend(more.iter().cloned());
        setup = setup.push("upstream", &entries);
    }
    setup.set("miners", "expected_shares_per_minute", 60)
}

fn state(role: &Role) -> Value {
    role.status().unwrap()["state"].clone()
}

fn reconnects(miner: &Role) -> &'static str {
    match state(miner)["connections"][0]["reconnects"].as_u64() {
        Some(0) => "never",
        _ => "at least once",
    }
}

/// The times that miners are told are the template's own.
#[test]
fn min_ntime_is_the_header_timestamp() {
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let templates = sniffer(&provider);
    let pool = Setup::pool(&(&templates).into()).start().unwrap();
    let jobs = sniffer(&pool);
    let mut stack = Stack::of(node, provider, pool).unwrap();
    // So slow that tips are the node's own and stay until there are fees.
    let slow = Setup::device("sv2-extended", &(&jobs).into()).arg("--hashrate", "1");
    stack.miners.push(slow.start().unwrap());
    stack.wait_ready().unwrap();
    let mut said = jobs.from_now();
    stack.node.generate(1).unwrap();
    said.wait_for(Direction::ToClient, "SetNewPrevHash", SOON).unwrap();
    let coin = &stack.node.coins().unwrap()[0];
    let fee = bitcoin::Amount::from_sat(50_000);
    stack.node.send(&[adit_test_env::bitcoind::split(coin, 2, fee).unwrap()]).unwrap();
    // A block may have come between: then its job is for later, and the next one is looked for.
    said.wait_until(SOON, "a job for the tip of now", |record| {
        matches!(record.message(),
            Ok((AnyMessage::Mining(Mining::NewExtendedMiningJob(job)), _)) if job.min_ntime.is_some())
    })
    .unwrap();

    // Taken first, so that every tip in them was told to the pool before.
    let to_miner = jobs.records();
    // By previous hash, as the template provider told the pool.
    let mut tips = Vec::new();
    for record in templates.records().iter().filter(|r| r.direction == Direction::ToClient) {
        if let Ok((AnyMessage::TemplateDistribution(said), _)) = record.message()
            && let TemplateDistribution::SetNewPrevHash(tip) = said
        {
            tips.push((tip.prev_hash.to_owned(), tip.header_timestamp));
        }
    }
    let (mut activated, mut at_once) = (0, 0);
    let mut now = None;
    for record in to_miner.iter().filter(|r| r.direction == Direction::ToClient) {
        let Ok((AnyMessage::Mining(said), _)) = record.message() else { continue };
        match said {
            Mining::SetNewPrevHash(tip) => {
                let known = tips.iter().find(|(prev_hash, _)| *prev_hash == tip.prev_hash);
                assert_eq!(known.map(|(_, time)| *time), Some(tip.min_ntime), "{record}");
                now = Some(tip.min_ntime);
                activated += 1;
            }
            Mining::NewExtendedMiningJob(job) => {
                if let Some(min_ntime) = job.min_ntime {
                    assert_eq!(now, Some(min_ntime), "{record}");
                    at_once += 1;
                }
            }
            _ => {}
        }
    }
    assert!(activated >= 2 && at_once >= 1, "{activated} tips, {at_once} jobs for one of them");
}

/// One channel for all, and the other kind beside it.
#[test]
fn several_translators_at_one_pool() {
    let mut stack = Stack::start(&[]).unwrap();
    let at = [(stack.pool.endpoint(), &[][..])];
    let translators = CHANNELS.map(|channels| translator(channels, &at).start().unwrap());
    for translator in [&translators[0], &translators[1], &translators[0], &translators[1]] {
        stack.miners.push(Setup::device("sv1", &translator.endpoint()).start().unwrap());
    }
    stack.wait_ready().unwrap();
    stack.mine(1, SOON);
    eventually(SOON, "two connections with a channel of all and one for each of two", || {
        let pool = state(&stack.pool);
        (&pool["connections"], &pool["channels_open"]) == (&json!(2), &json!(3))
    });
    // One of them goes, and the other's miners do not notice.
    let [gone, _stays] = translators;
    drop(gone);
    eventually(SOON, "one translator at the pool", || state(&stack.pool)["connections"] == 1);
    for miner in [2, 0] {
        drop(stack.miners.remove(miner));
    }
    stack.mine(1, SOON);
    for miner in &stack.miners {
        assert_eq!(reconnects(miner), "never");
        assert!(miner.only_stale_rejects().unwrap());
    }
}

/// A pool that pays somebody else is left for one that pays whom it should, and there miners mine.
#[test]
fn only_a_pool_that_pays_whom_it_should_is_mined_for() {
    let node = harness::regtest().unwrap();
    let provider = Setup::template_provider(&node).start().unwrap();
    let other = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080";
    let wrong = Setup::pool(&provider.endpoint()).set("coinbase", "output", other).start().unwrap();
    let right = Setup::pool(&provider.endpoint()).start().unwrap();
    let mut stack = Stack::of(node, provider, right).unwrap();
    let verify = [("verify_payout", harness::payout_address(Chain::Regtest).into())];
    for channels in CHANNELS {
        let pools = [(wrong.endpoint(), &verify[..]), (stack.pool.endpoint(), &verify[..])];
        stack.translator = Some(translator(channels, &pools).start().unwrap());
        stack.miners.clear();
        stack.add_miner("sv1").unwrap();
        stack.wait_ready().unwrap();
        // Blocks are counted that pay the address.
        stack.mine(2, SOON);
        let translator = stack.translator.as_ref().unwrap();
        let upstream = &state(translator)["upstream"];
        assert_eq!(upstream["address"], stack.pool.endpoint().addr.to_string());
        assert_eq!(reconnects(&stack.miners[0]), "never");
    }
    assert_eq!(wrong.status().unwrap()["state"]["blocks"].as_array().map(Vec::len), Some(0));
}

/// The channel of all opens late, while miners come.
#[test]
fn nothing_is_said_of_a_channel_that_is_not_open() {
    const LATE: Duration = Duration::from_secs(7);
    let mut stack = Stack::start(&[]).unwrap();
    let between = sniffer(&stack.pool);
    let at = [((&between).into(), &[][..])];
    let late = between.intercept(
        Direction::ToClient,
        "OpenExtendedMiningChannel.Success",
        Action::Delay(LATE),
    );
    stack.translator = Some(translator("aggregated", &at).start().unwrap());
    for _ in 0..3 {
        stack.add_miner("sv1").unwrap();
    }
    late.wait_hit(SOON).unwrap();
    let mut said = between.from_start();
    let opened =
        said.wait_for(Direction::ToClient, "OpenExtendedMiningChannel.Success", SOON).unwrap();
    late.end();
    // Three miners are another hash rate than the one for which the channel was opened: it is said, once it can be.
    let update = between.from_start().wait_for(Direction::ToServer, "UpdateChannel", SOON).unwrap();
    assert!(update.at - opened.at >= LATE, "{:?}", update.at - opened.at);
    let opens = between.records();
    let opens = opens.iter().filter(|record| record.name == "OpenExtendedMiningChannel").count();
    assert_eq!(opens, 1);
    stack.wait_ready().unwrap();
    stack.mine(1, SOON);
}

/// Miners that come between a job for later and the tip that makes it work.
#[test]
fn miners_come_between_a_future_job_and_its_tip() {
    for channels in CHANNELS {
        let mut stack = Stack::start(&[]).unwrap();
        let between = sniffer(&stack.pool);
        let at = [((&between).into(), &[][..])];
        stack.translator = Some(translator(channels, &at).start().unwrap());
        stack.add_miner("sv1").unwrap();
        stack.wait_ready().unwrap();
        let held = between.intercept(Direction::ToClient, "SetNewPrevHash", Action::Hold);
        stack.node.generate(1).unwrap();
        held.wait_hit(SOON).unwrap();
        stack.add_miner("sv1").unwrap();
        stack.add_miner("sv1").unwrap();
        eventually(SOON, "they are known to the translator", || {
            state(stack.translator.as_ref().unwrap())["miners_total"] == 3
        });
        held.end();
        stack.wait_ready().unwrap();
        stack.mine(1, SOON);
        for miner in &stack.miners {
            assert_eq!(reconnects(miner), "never");
            assert!(miner.only_stale_rejects().unwrap());
        }
        assert_eq!(between.records().iter().map(|record| record.connection).max(), Some(0));
    }
}
