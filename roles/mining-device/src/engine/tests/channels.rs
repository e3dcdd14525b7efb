//! Several channels on a connection, groups, and channels that are gone.

use super::*;

#[test]
fn a_group_s_job_is_work_for_each_of_its_channels() {
    let mut bench = Bench::new(&["--channels", "3"]);
    bench.open_many(2);
    let said = bench.said();
    assert_eq!(said.len(), 4, "hello and three requests: {said:#?}");
    for (number, line) in said[1..].iter().enumerate() {
        assert!(line.contains(&format!("user_identity: \"a.b-{}\"", number + 1)), "{line}");
    }
    assert_eq!((bench.device.miners(), bench.device.mining()), (3, 0));
    bench.extended_job(99, 1, None);
    bench.tip(99, 1);
    let effects = bench.effects();
    let [Effect::Work(0, Some(first)), Effect::Work(1, Some(second))] = &effects[..] else {
        panic!("{effects:?}")
    };
    let prefix = |work: &Work| match &work.root {
        Root::Rolled { coinbase_prefix, .. } => {
            coinbase_prefix[coinbase_prefix.len() - 4..].to_vec()
        }
        Root::Fixed(_) => panic!("a standard job"),
    };
    assert_eq!((prefix(first), prefix(second)), (vec![1, 2, 3, 5], vec![1, 2, 3, 6]));
    bench.find_on(1, second, &[0; 4]);
    bench.find_on(1, first, &[0; 4]); // of another miner
    bench.find_on(2, second, &[0; 4]); // has no channel yet
    let said = bench.said();
    assert_eq!(said.len(), 1);
    assert!(
        said[0].starts_with("SubmitSharesExtended { channel_id: 6, sequence_number: 0, job_id: 1")
    );

    // Another group: its messages are those of the channel that went over.
    let ids = [6];
    let channel_ids = Seq064K::new(&ids).unwrap();
    bench.receive(&SetGroupChannel { group_channel_id: 77, channel_ids });
    bench.extended_job(77, 2, Some(1_700_000_001));
    assert!(matches!(&bench.effects()[..], [Effect::Work(1, Some(_))]));

    // One closes and the other goes on; with the last the connection is of no use.
    let close = |channel_id| CloseChannel { channel_id, reason_code: Str0255::cut("bye") };
    bench.receive(&close(77));
    assert_eq!(bench.effects(), [Effect::Work(1, None)]);
    let report = bench.device.report(0, bench.now.instant);
    let connection = &report.connections[0];
    assert_eq!((connection.channels, connection.group_messages), (1, 4));
    assert_eq!((&*connection.state, bench.device.mining()), ("mining", 1));
    // Its answer is still to come, so the connection is.
    bench.receive(&close(5));
    assert!(bench.said().is_empty());
    bench.receive(&OpenMiningChannelError { request_id: 3, error_code: Str0255::cut("full") });
    assert_eq!(bench.said(), ["close: of no use to the miner"]);
}

#[test]
fn an_answer_to_no_request_is_an_inconsistency() {
    for (request_id, channel_id) in [(2, 5), (0, 5), (1, 5)] {
        let mut bench = Bench::new(&[]);
        bench.open_many(1);
        bench.said();
        bench.grant(request_id, channel_id);
        assert_eq!(bench.said(), ["close: of no use to the miner"], "{request_id}");
    }
}

#[test]
fn a_channel_that_is_gone_ends_a_strict_run() {
    let mut bench = Bench::new(&["--channels", "2", "--strict"]);
    bench.open_many(2);
    bench.receive(&CloseChannel { channel_id: 5, reason_code: Str0255::cut("bye") });
    let reason = "channel closed: bye".to_owned();
    assert!(bench.effects().contains(&Effect::Finished(Outcome { ok: false, reason })));
}

/// Each of them by itself, while the others mine on; the one that was refused too.
#[test]
fn channels_that_are_gone_are_opened_again() {
    let mut bench = Bench::new(&["--channels", "4"]);
    bench.open_many(3);
    bench.receive(&OpenMiningChannelError { request_id: 4, error_code: Str0255::cut("full") });
    bench.extended_job(99, 1, None);
    bench.tip(99, 1);
    let works = bench.effects();
    assert_eq!((works.len(), bench.device.mining()), (3, 3));
    let Effect::Work(1, Some(stale)) = &works[1] else { panic!("{works:?}") };
    bench.receive(&CloseChannel { channel_id: 6, reason_code: Str0255::cut("bye") });
    assert_eq!(bench.effects(), [Effect::Work(1, None)]);
    bench.said();

    // Not at once, and not for long.
    bench.device.tick(bench.now, &mut bench.out);
    assert!(bench.said().is_empty());
    let mut asked = Vec::new();
    for _ in 0..3 {
        bench.now = bench.now.later(std::time::Duration::from_millis(100));
        bench.device.tick(bench.now, &mut bench.out);
        asked.extend(bench.said());
    }
    asked.sort_by_key(|line| line.contains("user_identity: \"a.b-4\""));
    let ids: Vec<u32> = asked
        .iter()
        .zip(["user_identity: \"a.b-2\"", "user_identity: \"a.b-4\""])
        .map(|(line, user)| {
            assert!(line.starts_with("OpenExtendedMiningChannel") && line.contains(user), "{line}");
            let id = line.split_once("request_id: ").unwrap().1;
            id.split_once(',').unwrap().0.parse().unwrap()
        })
        .collect();
    assert_eq!(ids.iter().copied().collect::<std::collections::BTreeSet<_>>(), [5, 6].into());

    // The server may use the id of the closed channel again; what was found on that one is not sent.
    bench.grant(ids[0], 6);
    bench.find_on(1, stale, &[0; 4]);
    assert!(bench.said().is_empty());
    bench.extended_job(6, 7, None);
    bench.tip(6, 7);
    let effects = bench.effects();
    let [Effect::Work(1, Some(work))] = &effects[..] else { panic!("{effects:?}") };
    bench.find_on(1, work, &[0; 4]);
    let said = bench.said();
    assert!(said[0].starts_with("SubmitSharesExtended { channel_id: 6, sequence_number: 0,"));

    // Refused again: asks again.
    bench.receive(&OpenMiningChannelError { request_id: ids[1], error_code: Str0255::cut("full") });
    bench.now = bench.now.later(std::time::Duration::from_secs(1));
    bench.device.tick(bench.now, &mut bench.out);
    assert!(bench.said()[0].starts_with("OpenExtendedMiningChannel { request_id: 7,"));
    bench.grant(7, 8);
    let report = bench.device.report(0, bench.now.instant);
    let connection = &report.connections[0];
    assert_eq!(
        (connection.channels, connection.channels_reopened, connection.reconnects),
        (4, 2, 0)
    );

    // A lost connection takes its requests with it.
    bench.receive(&CloseChannel { channel_id: 8, reason_code: Str0255::cut("bye") });
    bench.event(Event::Closed("gone"));
    bench.said();
    bench.event(Event::Opened { remote: "127.0.0.1:1".parse().unwrap() });
    bench.said();
    bench.now = bench.now.later(std::time::Duration::from_secs(60));
    bench.device.tick(bench.now, &mut bench.out);
    assert!(bench.said().is_empty(), "the answer to SetupConnection is still to come");
    bench.open_many(4);
    assert_eq!(bench.said().len(), 4, "one request of each");
}

#[test]
fn standard_channels_may_take_group_jobs() {
    let mut bench = Bench::new(&["--mode", "sv2-standard", "--group-jobs"]);
    assert!(bench.said()[0].contains("flags: 0,"));
    bench.open(false);
    bench.extended_job(9, 1, None);
    bench.tip(9, 1);
    assert!(matches!(bench.work().root, Root::Fixed(_)));
}
