use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

use super::fake::{Call, Fake, HASH, Reaction};
use crate::{NodeError, TipEvent, TipWatch};

const OTHER: &str = "000000000000000000000000000000000000000000000000000000000000ffff";

async fn next(watch: &mut TipWatch) -> TipEvent {
    timeout(Duration::from_secs(20), watch.recv()).await.expect("an event").expect("a live watch")
}

fn new(hash: &str) -> TipEvent {
    TipEvent::New { hash: hash.parse().unwrap() }
}

#[tokio::test]
async fn outages_are_told_once_and_the_same_tip_not_again() {
    const WARMING: u8 = 0;
    const FINE: u8 = 1;
    let state = Arc::new(AtomicU8::new(WARMING));
    let warm_answers = Arc::new(AtomicUsize::new(0));
    let react = {
        let (state, warm_answers) = (state.clone(), warm_answers.clone());
        move |call: &Call| match (state.load(Ordering::SeqCst), call.method.as_str()) {
            (WARMING, _) => {
                warm_answers.fetch_add(1, Ordering::SeqCst);
                call.error(-28, "Verifying blocks")
            }
            (_, "getbestblockhash") => call.result(json!(HASH)),
            _ => Reaction::Hang,
        }
    };
    let fake = Fake::start(react.clone()).await;
    let mut watch = TipWatch::spawn(fake.node());
    let warming = TipEvent::Down(NodeError::WarmingUp("Verifying blocks".into()));
    assert_eq!(next(&mut watch).await, warming);
    timeout(Duration::from_secs(20), async {
        while warm_answers.load(Ordering::SeqCst) < 2 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it asks again");
    state.store(FINE, Ordering::SeqCst);
    assert_eq!(next(&mut watch).await, TipEvent::Up);
    assert_eq!(next(&mut watch).await, new(HASH));

    // Away, and back on the same port with the same tip, then with another.
    let addr = fake.url().trim_start_matches("http://").to_owned();
    drop(fake);
    assert!(matches!(next(&mut watch).await, TipEvent::Down(NodeError::Unreachable(_))));
    let fake = Fake::on(TcpListener::bind(&addr).await.unwrap(), react);
    assert_eq!(next(&mut watch).await, TipEvent::Up);
    drop(fake);
    assert!(matches!(next(&mut watch).await, TipEvent::Down(NodeError::Unreachable(_))));
    let _fake =
        Fake::on(TcpListener::bind(&addr).await.unwrap(), |call| match call.method.as_str() {
            "getbestblockhash" => call.result(json!(OTHER)),
            _ => Reaction::Hang,
        });
    assert_eq!(next(&mut watch).await, TipEvent::Up);
    assert_eq!(next(&mut watch).await, new(OTHER));
}

#[tokio::test]
async fn a_tip_the_wait_missed_is_seen_by_looking() {
    sees_the_second_look(|_| Reaction::Hang).await;
}

#[tokio::test]
async fn without_the_wait_looking_remains() {
    sees_the_second_look(|call| call.error(-32601, "Method not found")).await;
}

async fn sees_the_second_look(wait: impl Fn(&Call) -> Reaction + Send + 'static) {
    let mut looks = 0;
    let fake = Fake::start(move |call| match call.method.as_str() {
        "getbestblockhash" => {
            looks += 1;
            call.result(json!(if looks == 1 { HASH } else { OTHER }))
        }
        _ => wait(call),
    })
    .await;
    let mut watch = TipWatch::spawn(fake.node());
    for expected in [TipEvent::Up, new(HASH), new(OTHER)] {
        assert_eq!(next(&mut watch).await, expected);
    }
}
