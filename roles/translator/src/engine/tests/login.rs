//! Who may mine, and in which order a hello is answered.

use super::*;
use crate::auth::{Verdict, cheap_hash};

const YES: &str = r#"{"id":2,"result":true,"error":null}"#;
const NO: &str = r#"{"id":2,"result":null,"error":[24,"Unauthorized worker",null]}"#;

fn local() -> Net {
    let hash = cheap_hash("secret");
    let mut net = Net::new(&format!("[auth]\nmode = \"local\"\n[auth.users]\nfarm = \"{hash}\"\n"));
    net.connect();
    net.subscribe(MINER, "test/1");
    net
}

/// What the driver is asked to verify.
fn asked(net: &mut Net) -> Vec<(String, String)> {
    let effects = std::mem::take(&mut net.effects);
    effects
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Verify(login) => Some((login.user.into(), login.password.into())),
            Effect::FannedOut(_) | Effect::Dial(_) => None,
        })
        .collect()
}

fn verified(net: &mut Net, verdict: Verdict) -> Vec<String> {
    net.engine.verified(MINER, verdict, net.now, &mut net.out);
    net.drain();
    net.told(MINER)
}

#[test]
fn a_user_with_its_password_is_let_in_and_gets_its_channel() {
    let mut net = local();
    assert!(net.authorize(MINER, "secret,d=64").is_empty(), "not answered before it is verified");
    assert_eq!(asked(&mut net), [("farm.rig".to_owned(), "secret,d=64".to_owned())]);
    assert!(net.frames.is_empty());
    assert_eq!(verified(&mut net, Verdict::Right), [YES]);
    assert_eq!(net.asked().1, target(64.0), "with the options of its password");
}

#[test]
fn who_has_another_password_is_told_so_and_mines_nothing() {
    let mut net = local();
    for verdict in [Verdict::Wrong, Verdict::UnknownUser] {
        net.authorize(MINER, "guess");
        assert_eq!(verified(&mut net, verdict), [NO]);
        assert!(net.frames.is_empty() && net.closed.is_empty());
    }
    let share = r#"{"method": "mining.submit", "params": ["farm", "1", "00", "6b00f646", "3e2c0900"], "id":4}"#;
    assert_eq!(net.line(MINER, share), refused(24, "Unauthorized worker"), "and nothing else");
    net.authorize(MINER, "guess");
    assert_eq!(verified(&mut net, Verdict::Wrong), [NO]);
    assert_eq!(net.closed, [(MINER, "not-authorised")], "three guesses are enough");
}

#[test]
fn what_follows_is_answered_behind_it_and_in_order() {
    let mut net = local();
    // ESP-Miner, which does not wait.
    for line in [
        r#"{"id":2,"method":"mining.authorize","params":["farm.bitaxe","secret"]}"#,
        r#"{"id":3,"method":"mining.suggest_difficulty","params":[1000]}"#,
        r#"{"id":4,"method":"mining.authorize","params":["other","secret"]}"#,
        r#"{"id":5,"method":"mining.extranonce.subscribe","params":[]}"#,
    ] {
        assert!(net.line(MINER, line).is_empty());
    }
    assert_eq!(asked(&mut net).len(), 1);
    let told = verified(&mut net, Verdict::Right);
    assert_eq!(told, [YES, r#"{"id":3,"result":true,"error":null}"#]);
    // The next user is verified in its turn, and what is behind it still waits.
    assert_eq!(asked(&mut net), [("other".to_owned(), "secret".to_owned())]);
    let told = verified(&mut net, Verdict::UnknownUser);
    let no = r#"{"id":4,"result":null,"error":[24,"Unauthorized worker",null]}"#;
    assert_eq!(told, [no, r#"{"id":5,"result":true,"error":null}"#]);
    assert_eq!(net.engine.miners[&MINER].user.as_deref(), Some("farm.bitaxe"));
    assert!(net.closed.is_empty());
}

#[test]
fn who_floods_meanwhile_or_comes_with_a_crowd_is_dropped() {
    let mut net = local();
    net.authorize(MINER, "secret");
    let long = format!(r#"{{"id":9,"method":"x","params":["{}"]}}"#, "y".repeat(3_000));
    for _ in 0..3 {
        net.line(MINER, &long);
    }
    assert_eq!(net.closed, [(MINER, "too-much-before-authorised")]);
    assert!(verified(&mut net, Verdict::Right).is_empty(), "it has left");
    let mut net = local();
    net.authorize(MINER, "secret");
    verified(&mut net, Verdict::Busy);
    assert_eq!(net.closed, [(MINER, "too-many-logins")]);
}

#[test]
fn a_verification_that_never_comes_ends_with_the_hello() {
    let mut net = local();
    net.authorize(MINER, "secret");
    net.pass(Duration::from_secs(61));
    assert_eq!(net.closed, [(MINER, "no-hello")]);
}

#[test]
fn a_listener_may_be_open_where_others_are_not() {
    let hash = cheap_hash("secret");
    let mut net = Net::new(&format!(
        "[[listen]]\nauth = \"open\"\n[auth]\nmode = \"local\"\n[auth.users]\nfarm = \"{hash}\"\n"
    ));
    net.connect();
    net.subscribe(MINER, "test/1");
    assert_eq!(net.authorize(MINER, "whatever"), [YES]);
}

#[test]
fn several_users_on_one_connection() {
    let mut net = Net::mining();
    let job = Notified::last(&net.told(MINER));
    for (id, user) in [(5, "a.1"), (6, "a.2"), (7, "w.1")] {
        let line = format!(r#"{{"id":{id},"method":"mining.authorize","params":["{user}","x"]}}"#);
        assert_eq!(
            net.line(MINER, &line),
            [format!(r#"{{"id":{id},"result":true,"error":null}}"#)]
        );
    }
    assert!(net.frames.is_empty(), "one connection is one channel");
    // A share counts whosever name it has: letters of another case, one that never authorised.
    let extranonce1 = net.engine.miners[&MINER].extranonce1.unwrap();
    let shares = (0..).map(|n| Found::new(&job, &extranonce1, &[7; 8], NTIME, n, job.version));
    let shares = shares.filter(|share| meets(&share.hash, &EASY));
    for (share, user) in shares.zip(["a.2", "W.1", "nobody", ""]) {
        let line = share.submit().replace(r#"["w", "#, &format!(r#"["{user}", "#));
        assert_eq!(net.line(MINER, &line), [ACCEPTED], "{user}");
    }
    assert_eq!(net.sent().len(), 4);
}

#[test]
fn answers_to_others_wait_for_that_to_authorize() {
    // Bitmain's firmware with #xnsub in the pool's address takes the first line behind its mining.authorize for the
    // answer to that.
    let mut net = Net::connected();
    assert_eq!(net.subscribe(MINER, "bmminer/2.0.0").len(), 1);
    let subscribe = r#"{"id": 3, "method": "mining.extranonce.subscribe", "params": []}"#;
    assert!(net.line(MINER, subscribe).is_empty());
    assert!(
        net.line(MINER, r#"{"id": 4, "method": "mining.multi_version", "params": [1]}"#).is_empty()
    );
    let told = net.authorize(MINER, "x");
    assert_eq!(
        told,
        [
            YES,
            r#"{"id":3,"result":true,"error":null}"#,
            r#"{"id":4,"result":null,"error":[20,"Use mining.configure",null]}"#
        ]
    );
    // Once that is out, everything is answered at once.
    let told =
        net.line(MINER, r#"{"id":"txlist1","method":"mining.get_transactions","params":["1"]}"#);
    assert_eq!(told, [r#"{"id":"txlist1","result":[],"error":null}"#]);
}

#[test]
fn who_waits_for_such_an_answer_gets_it_all_the_same() {
    let mut net = Net::connected();
    net.subscribe(MINER, "test/1");
    let line = r#"{"id":3,"method":"mining.what","params":[]}"#;
    assert!(net.line(MINER, line).is_empty());
    net.pass(Duration::from_secs(1));
    assert_eq!(net.told(MINER), [r#"{"id":3,"result":null,"error":[-3,"Method not found",null]}"#]);
    // However much it asks, what waits has a bound.
    for _ in 0..200 {
        net.line(MINER, line);
    }
    assert!(net.engine.miners[&MINER].waiting.len() <= 4 << 10);
}

#[test]
fn nothing_but_known_lines_before_the_answer_to_authorize() {
    // With work at hand: a connection of a miner that was there before.
    let mut net = Net::mining();
    let other = PeerId(2);
    net.join(other);
    let configure = r#"{"id": 0, "method": "mining.configure", "params": [["version-rolling"], {"version-rolling.mask": "ffffffff"}]}"#;
    let mut told = net.line(other, configure);
    told.extend(
        net.line(other, r#"{"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.11.1"]}"#),
    );
    net.pass(Duration::from_secs(50));
    told.extend(net.told(other));
    told.extend(
        net.line(other, r#"{"id": 2, "method": "mining.authorize", "params": ["a", "b"]}"#),
    );
    for (line, id) in told.iter().zip(0..) {
        assert!(line.starts_with(&format!(r#"{{"id":{id},"result":"#)), "{line}");
    }
    assert_eq!(told.len(), 3);
}
