//! The whole role against nodes that do what a test wants of them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::path::Path;

use common::{FakeNode, Provider, Said, eventually};

const SUBSIDY: u64 = 5_000_000_000;

fn files(dir: &Path, folder: &str, suffix: &str) -> usize {
    let entries = std::fs::read_dir(dir.join("data").join(folder)).unwrap();
    entries
        .filter(|entry| entry.as_ref().unwrap().path().to_str().unwrap().ends_with(suffix))
        .count()
}

#[tokio::test]
async fn templates_follow_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::start().await;
    node.add_transaction(1, 1_000);
    let provider = Provider::start(dir.path(), &[&node]).await;
    provider.ready().await;
    let full = || provider.metrics().contains("content=\"full\"");
    let mut first = provider.client(100).await;
    let (template, prev) = first.future().await;
    let template = if template.value == SUBSIDY { first.template().await } else { template };
    assert_eq!((template.value, template.path.len()), (SUBSIDY + 1_000, 1));
    assert_eq!(bitcoin::hashes::Hash::to_byte_array(node.tip()), prev.prev_hash);
    eventually("a full template was sent", full).await;

    // Whoever comes later gets the newest template of the tip, whatever its constraints.
    let mut second = provider.client(500).await;
    let (newest, _) = second.future().await;
    assert_eq!(newest.value, SUBSIDY + 1_000);
    assert!(newest.id > template.id);

    // Fees: below the threshold nothing is sent, above it everybody gets it.
    node.add_transaction(2, 499);
    node.add_transaction(3, 1);
    for client in [&mut first, &mut second] {
        let template = client.template().await;
        assert_eq!((template.value, template.future), (SUBSIDY + 1_500, false));
    }

    // A new tip: coinbase-only with its prev hash first, then the full one.
    let tip = node.extend(1);
    for client in [&mut first, &mut second] {
        let (template, prev) = client.future().await;
        assert_eq!((template.value, template.path.len()), (SUBSIDY, 0));
        assert_eq!(prev.prev_hash, bitcoin::hashes::Hash::to_byte_array(tip));
        assert_eq!((client.template().await.value, prev.n_bits), (SUBSIDY + 1_500, 0x207f_ffff));
    }
    eventually("two tips are kept", || files(dir.path(), "templates", ".templates") == 2).await;

    first.request_transactions(template.id);
    let stale = format!(
        "RequestTransactionData.Error {{ template_id: {}, error_code: \"stale-template-id\" }}",
        template.id
    );
    assert_eq!(first.next().await, Said::Other(stale));

    // What no block can hold ends that connection and no other.
    second.constraints(u32::MAX);
    second.closed().await;
    node.extend(1);
    first.future().await;
    for name in [
        "clients 1",
        "template_age_seconds",
        "tip_latency_seconds_count 3",
        "rpc_duration_seconds_count{",
    ] {
        let line = format!("\nadit_template_provider_{name}");
        eventually(name, || provider.metrics().contains(&line)).await;
    }
    provider.stop().await;
}

#[tokio::test]
async fn full_templates_alone_where_that_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::start().await;
    node.add_transaction(1, 1_000);
    let provider = Provider::start_with(dir.path(), &[&node], "future = \"full-only\"\n").await;
    let mut client = provider.client(100).await;
    assert_eq!(client.future().await.0.value, SUBSIDY + 1_000);
    node.extend(1);
    assert_eq!(client.future().await.0.value, SUBSIDY + 1_000);
    provider.stop().await;
}

#[tokio::test]
async fn a_block_is_on_disk_before_it_is_submitted_and_goes_to_every_node() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (FakeNode::start().await, FakeNode::start().await);
    a.add_transaction(1, 1_000);
    for node in [&a, &b] {
        let folder = dir.path().join("data/solutions");
        node.on_submit(move |block| {
            let path = folder.join(format!("{}.block", block.block_hash()));
            assert_eq!(std::fs::read(path).unwrap(), bitcoin::consensus::serialize(block));
        });
    }
    let provider = Provider::start(dir.path(), &[&a, &b]).await;
    let mut client = provider.client(100).await;
    let (mut template, prev) = client.future().await;
    if template.path.is_empty() {
        template = client.template().await;
    }
    let hash = client.solve(&template, &prev, 1);
    client.solve(&template, &prev, 1);
    client.future_upon(hash).await;
    eventually("both have it", || a.tip() == hash && b.tip() == hash).await;
    assert_eq!((a.submitted().len(), b.submitted().len()), (1, 1));
    assert_eq!(a.submitted()[0].txdata.len(), 2);
    eventually("the repeat is counted", || provider.metrics().contains("{result=\"repeated\"} 1"))
        .await;

    // Forgotten once it is deep.
    for _ in 2..8 {
        a.extend(1);
    }
    eventually("forgotten", || files(dir.path(), "solutions", "") == 0).await;
    eventually("counted", || provider.metrics().contains("{result=\"confirmed\"} 1")).await;
    provider.stop().await;
}

#[tokio::test]
async fn clients_stay_while_the_node_is_away_and_lost_blocks_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::start().await;
    let provider = Provider::start(dir.path(), &[&node]).await;
    let mut client = provider.client(100).await;
    let (template, prev) = client.future().await;
    let parent = client.solve(&template, &prev, 1);
    let (template, prev) = client.future_upon(parent).await;
    let child = client.solve(&template, &prev, 2);
    let (template, prev) = client.future_upon(child).await;
    eventually("both are known to be in the chain", || {
        let states = std::fs::read_dir(dir.path().join("data/solutions")).unwrap();
        let json = states.filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok());
        json.filter(|text| text.contains("in_chain")).count() == 2
    })
    .await;

    node.kill().await;
    provider.waiting_for("node unreachable").await;
    // Solved while nobody is there to take it.
    let orphan = client.solve(&template, &prev, 3);
    eventually("it is on disk", || files(dir.path(), "solutions", ".block") == 3).await;
    node.rewind(0);
    node.restart().await;
    provider.ready().await;
    eventually("all are back", || node.chain()[1..] == [parent, child, orphan]).await;
    client.future_upon(orphan).await;
    provider.stop().await;
}

#[tokio::test]
async fn work_survives_a_restart_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::start().await;
    node.add_transaction(1, 1_000);
    let provider = Provider::start(dir.path(), &[&node]).await;
    let mut client = provider.client(100).await;
    let (mut template, prev) = client.future().await;
    if template.path.is_empty() {
        template = client.template().await;
    }
    provider.stop().await;

    // The node is away when the solution comes, and we are stopped again before it is back.
    node.kill().await;
    let provider = Provider::start(dir.path(), &[&node]).await;
    let client = provider.client(100).await;
    let hash = client.solve(&template, &prev, 1);
    eventually("it is on disk", || files(dir.path(), "solutions", ".block") == 1).await;
    provider.stop().await;

    node.restart().await;
    let provider = Provider::start(dir.path(), &[&node]).await;
    eventually("it is in the chain", || node.tip() == hash).await;
    let (next, _) = provider.client(100).await.future_upon(hash).await;
    assert!(next.id > template.id);
    provider.stop().await;
}

#[tokio::test]
async fn two_processes_do_not_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::start().await;
    let first = Provider::start(dir.path(), &[&node]).await;
    first.ready().await;
    let error = Provider::start(dir.path(), &[&node]).await.ended().await;
    assert!(error.contains("used by another process"), "{error}");
    first.stop().await;
    let again = Provider::start(dir.path(), &[&node]).await;
    again.ready().await;
    again.stop().await;
}

#[tokio::test]
async fn another_node_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (FakeNode::start().await, FakeNode::start().await);
    // At one height, so that the first is used whichever answers first.
    a.extend(1);
    b.extend(2);
    let provider = Provider::start(dir.path(), &[&a, &b]).await;
    let mut client = provider.client(100).await;
    client.future_upon(a.tip()).await;
    a.kill().await;
    client.future_upon(b.tip()).await;
    // Back again, but behind: only when it has caught up it is the first again.
    b.extend(1);
    client.future_upon(b.tip()).await;
    a.restart().await;
    b.extend(1);
    client.future_upon(b.tip()).await;
    a.extend(2);
    a.extend(2);
    a.extend(2);
    client.future_upon(a.tip()).await;
    provider.stop().await;
}

#[tokio::test]
async fn readiness_says_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::start().await;
    node.set_error(Some((-28, "Loading block index…")));
    let provider = Provider::start(dir.path(), &[&node]).await;
    provider.waiting_for("node warming up: Loading block index…").await;
    node.set_error(Some((-10, "is in initial sync")));
    provider.waiting_for("node syncing").await;
    node.set_error(None);
    node.set_status(401);
    provider.waiting_for("wrong credentials").await;
    node.set_status(200);
    node.set_chain_name("main");
    provider.waiting_for("node is on chain main, configured is regtest").await;
    node.set_chain_name("regtest");
    provider.ready().await;
    provider.stop().await;
}
