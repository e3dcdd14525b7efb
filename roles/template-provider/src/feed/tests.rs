use super::*;
use crate::template::tests::{snapshot, tip};

fn template(json: serde_json::Value) -> BlockTemplate {
    let mut all = serde_json::json!({
        "version": 536870912, "rules": ["csv", "!segwit", "taproot"],
        "previousblockhash": "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206",
        "transactions": [], "coinbasevalue": 5000000000u64, "longpollid": "x",
        "target": "7fffff0000000000000000000000000000000000000000000000000000000000",
        "mintime": 1296688603, "curtime": 1700000000, "bits": "207fffff", "height": 1,
        "sigoplimit": 80000, "sizelimit": 4000000, "weightlimit": 4000000,
    });
    all.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

#[test]
fn templates_that_cannot_be_mined() {
    use serde_json::json;
    assert_eq!(useless(&template(json!({}))), None);
    assert_eq!(
        useless(&template(json!({ "rules": ["!segwit", "!signet"], "signet_challenge": "51" }))),
        None
    );
    assert!(useless(&template(json!({ "rules": ["!quantum"] }))).unwrap().contains("!quantum"));
    assert!(
        useless(&template(json!({ "signet_challenge": "5121aa51ae" }))).unwrap().contains("signed")
    );
}

#[test]
fn an_offer_of_the_node_is_read_field_by_field() {
    let row = |txid: &str, wtxid: &str, fee: u64, depends: &[u32]| {
        serde_json::json!({
            "data": "0200", "txid": txid.repeat(32), "hash": wtxid.repeat(32),
            "fee": fee, "sigops": 3, "weight": 400, "depends": depends,
        })
    };
    let rows = [row("01", "02", 10, &[]), row("03", "04", 20, &[1])];
    let snapshot = Snapshot::from_node(template(serde_json::json!({ "transactions": rows })));
    assert_eq!(
        (snapshot.tip.height, snapshot.tip.n_bits, snapshot.tip.min_time),
        (1, 0x207f_ffff, 1_296_688_603)
    );
    assert_eq!(
        snapshot.tip.prev_hash.to_string(),
        "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
    );
    let second = &snapshot.transactions[1];
    assert_eq!((second.txid, second.raw.wtxid), ([3; 32], [4; 32]));
    assert_eq!(
        (second.fee, second.sigops, second.weight, &second.depends[..]),
        (20, 3, 400, &[0][..])
    );
    assert_eq!(*second.raw.bytes, [2, 0]);
}

#[test]
fn transactions_are_in_memory_once() {
    let earlier = snapshot(tip(5, 1), 5, 10);
    let mut later = snapshot(tip(5, 1), 7, 10);
    later.share_with(&earlier);
    for (at, transaction) in later.transactions.iter().enumerate() {
        let shared = earlier
            .transactions
            .get(at)
            .is_some_and(|e| Arc::ptr_eq(&e.raw.bytes, &transaction.raw.bytes));
        assert_eq!(shared, at < 5);
    }
}

#[test]
fn small_templates_over_a_full_mempool_are_noticed() {
    let offer = template(serde_json::json!({}));
    assert!(is_light(&offer));
    let mut light = LightOffers::default();
    for _ in 0..LIGHT_IN_A_ROW {
        assert!(light.warned.is_none());
        light.look("node", &offer, Some(200_000));
    }
    assert!(light.warned.is_some());
    let mut light = LightOffers::default();
    for backlog in [Some(200_000), Some(200_000), Some(99_000), Some(200_000), None, Some(200_000)]
    {
        light.look("node", &offer, backlog);
    }
    assert!(light.warned.is_none());
}

#[test]
fn what_cannot_be_stored_is_still_mined_on() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = TemplateStore::open(dir.path(), 1).unwrap();
    dir.close().unwrap();
    let too_large = Constraints { size: 1_000_000, sigops: 0 };
    let demand = vec![Constraints::default(), too_large];
    let built = build(&snapshot(tip(5, 1), 2, 10), demand, &Mutex::new(store), &Metrics::default());
    assert_eq!((built.templates.len(), built.refused), (1, vec![too_large]));
}
