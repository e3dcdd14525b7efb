use serde_json::json;

use super::*;
use crate::config::RoleKeys;
use crate::index::Index;
use crate::rpc::Block;

fn world() -> World {
    let role = |name: &str, kind: Kind, upstream: &[&str]| RoleKeys {
        name: name.to_owned(),
        kind,
        url: "http://h:1".to_owned(),
        upstream: Some(upstream.iter().map(|name| (*name).to_owned()).collect()),
    };
    let keys = [
        role("tp", Kind::TemplateProvider, &["node"]),
        role("pool", Kind::Pool, &["tp"]),
        role("jdc", Kind::Jdc, &["tp", "pool"]),
        role("translator", Kind::Translator, &["pool"]),
        role("sv1", Kind::MiningDevice, &["translator"]),
        role("sv2", Kind::MiningDevice, &["pool"]),
        role("stranger", Kind::MiningDevice, &["node"]),
        role("rig", Kind::MiningDevice, &["jdc"]),
    ];
    let mut world = World::new(&keys);
    let status = [
        json!({ "unsettled_blocks": [{ "hash": "one" }, { "hash": "solo" }, { "hash": "strange" }] }),
        json!({
            "blocks": [
                { "hash": "one", "account": "lab", "worker": "sv1" },
                { "hash": "two", "account": "lab", "worker": "" },
                { "hash": "three", "account": "jd", "worker": "x", "job": "custom" },
            ],
            "channels": [{ "identity": "lab.sv2", "extranonce_prefix": "01000001" }],
        }),
        json!({
            "upstreams": [{ "in_use": true, "extranonce_prefix": "0777" }],
            "channels": [{ "identity": "home.rig", "extranonce_prefix": "000001", "extranonce_size": 2 }],
            "blocks": [
                { "hash": "earlier", "identity": "home.rig", "for": "solo", "job": "custom", "state": "accepted" },
                { "hash": "gone", "identity": "home.other", "for": "solo", "job": "custom", "state": "accepted" },
            ],
        }),
        json!({ "miners": [{ "user": "lab.sv1", "extranonce1": "00000001", "channel": { "extranonce_prefix": "01000002" } }] }),
        json!({ "connections": [{ "user": "lab.sv1", "extranonce_prefixes": ["0100000200000001"] }] }),
        json!({ "connections": [{ "user": "lab.sv2", "extranonce_prefixes": ["01000001"] }] }),
        json!({ "connections": [{ "user": "other", "extranonce_prefixes": ["010000020000000177"] }] }),
        json!({ "connections": [{ "user": "home.rig", "extranonce_prefixes": ["000001"] }] }),
    ];
    for (role, state) in world.roles.iter_mut().zip(status) {
        role.health.up();
        role.status = json!({ "ready": true, "state": state });
    }
    world
}

fn index(blocks: &[(&str, &str)]) -> Index {
    let mut index = Index::new(100, 100);
    for (height, (hash, extranonce)) in blocks.iter().enumerate() {
        let push = format!("{:02x}{extranonce}", extranonce.len() / 2);
        let block: Block = serde_json::from_value(json!({
            "hash": hash, "confirmations": 1, "height": height, "merkleroot": "m", "time": 1, "nonce": 1, "bits": "b",
            "difficulty": 1.0, "size": 1, "weight": 1, "tx": [{
                "txid": "t", "hash": "t", "version": 2, "size": 1, "vsize": 1, "weight": 1, "locktime": 0,
                "vin": [{ "coinbase": format!("0171{push}") }], "vout": [],
            }],
        }))
        .unwrap();
        index.insert(&block);
    }
    index
}

#[test]
fn blocks_are_traced_to_their_miner() {
    let world = world();
    let topology = Topology::of(&world, "http://n:1");
    let mut index = index(&[
        ("one", "010000020000000177aa"),
        ("two", "0100000155"),
        ("three", "07770000000001aabb"),
        ("unseen", "0100000155"),
        ("solo", "0777000001aacc"),
        ("strange", "ff"),
        ("earlier", "9999000001aacc"),
        ("gone", "9999000002aacc"),
    ]);
    assert!(attribute(index.newest_mut(), &world, &topology));
    let found = |height: u32| index.at(height).unwrap().found_by.clone();
    // The longest prefix is a stranger's who does not work for the pool.
    assert_eq!(found(0).path, ["pool", "translator", "sv1"]);
    assert_eq!(found(0).worker.as_deref(), Some("lab.sv1"));
    assert_eq!(found(1).path, ["pool", "sv2"]);
    assert_eq!(found(1).worker.as_deref(), Some("lab.sv2"));
    // The pool knows the JDC's channel alone, the JDC who is behind it.
    assert_eq!(found(2).path, ["pool", "jdc", "rig"]);
    assert_eq!(found(2).worker.as_deref(), Some("home.rig"));
    assert!(found(2).declared && !found(1).declared);
    // No role says that it found this one, whatever its extranonce.
    assert!(!found(3).is_known());
    // No pool says that it was paid for this one.
    assert_eq!(found(4).path, ["jdc", "rig"]);
    assert_eq!(found(4).worker.as_deref(), Some("home.rig"));
    // Submitted here, but nobody's that is known.
    assert!(!found(5).is_known());
    // The JDC remembers whose its solo blocks were, whatever stands before its extranonces now.
    assert_eq!(found(6).path, ["jdc", "rig"]);
    assert_eq!(found(6).worker.as_deref(), Some("home.rig"));
    assert!(found(6).declared);
    assert_eq!(found(7).path, ["jdc"]);
    assert_eq!(found(7).worker.as_deref(), Some("home.other"));

    // What was known stays when a role forgets or goes.
    let nothing = World::new(&[]);
    assert!(!attribute(index.newest_mut(), &nothing, &Topology::default()));
    assert_eq!(index.at(0).unwrap().found_by.path, ["pool", "translator", "sv1"]);
}
