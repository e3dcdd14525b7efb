use serde_json::json;

use super::*;
use crate::config::RoleKeys;
use crate::world::World;

fn world(roles: &[(&str, Kind, &str, Value)]) -> World {
    let keys: Vec<RoleKeys> = roles
        .iter()
        .map(|(name, kind, url, _)| RoleKeys {
            name: (*name).to_owned(),
            kind: *kind,
            url: (*url).to_owned(),
            upstream: None,
        })
        .collect();
    let mut world = World::new(&keys);
    for (view, (_, _, _, status)) in world.roles.iter_mut().zip(roles) {
        view.health.up();
        view.status = status.clone();
    }
    world
}

const NODE_URL: &str = "http://127.0.0.1:18443";

fn paths(world: &World) -> Vec<String> {
    let topology = Topology::of(world, NODE_URL);
    (0..world.roles.len()).map(|role| topology.path(role).join(" ")).collect()
}

#[test]
fn addresses_lead_upstream() {
    let lab = world(&[
        (
            "tp",
            Kind::TemplateProvider,
            "http://127.0.0.1:1",
            json!({
                "listeners": { "clients": "127.0.0.1:8442", "http": "127.0.0.1:1" },
                "state": { "nodes": [{ "url": "http://localhost:18443" }], "clients": [{ "remote": "127.0.0.1:34254" }] },
            }),
        ),
        (
            "pool",
            Kind::Pool,
            "http://127.0.0.1:2",
            json!({
                "listeners": { "miners": "127.0.0.1:34254" },
                "state": { "template_providers": [{ "address": "127.0.0.1:8442" }],
                           "channels": [{ "identity": "a.b", "remote": "127.0.0.1:34255" }] },
            }),
        ),
        (
            "translator",
            Kind::Translator,
            "http://127.0.0.1:3",
            json!({
                "listeners": { "miners": "0.0.0.0:34255" },
                "state": { "upstream": { "address": "127.0.0.1:34254" }, "miners": [{ "user": "lab.sv1" }] },
            }),
        ),
        (
            "sv1",
            Kind::MiningDevice,
            "http://127.0.0.1:4",
            json!({
                "state": { "mode": "sv1", "connections": [{ "user": "lab.sv1" }] },
            }),
        ),
        (
            "sv2",
            Kind::MiningDevice,
            "http://127.0.0.1:5",
            json!({
                "state": { "mode": "sv2-standard", "connections": [{ "user": "a.b" }] },
            }),
        ),
    ]);
    assert_eq!(
        paths(&lab),
        [
            "node tp",
            "node tp pool",
            "node tp pool translator",
            "node tp pool translator sv1",
            "node tp pool sv2",
        ]
    );
    let topology = Topology::of(&lab, NODE_URL);
    assert!(topology.is_below(3, 1) && !topology.is_below(1, 3) && !topology.is_below(4, 2));
    assert!(topology.other_nodes.is_empty());
    assert_eq!(topology.layer(Place::Role(3)), 4);
}

#[test]
fn names_of_containers_lead_upstream() {
    let lab = world(&[
        (
            "tp",
            Kind::TemplateProvider,
            "http://template-provider:9442",
            json!({
                "listeners": { "clients": "0.0.0.0:8442" }, "state": { "nodes": [{ "url": "http://bitcoind:18443" }] },
            }),
        ),
        (
            "tp2",
            Kind::TemplateProvider,
            "http://miner-template-provider:9442",
            json!({
                "listeners": { "clients": "0.0.0.0:8442" }, "state": { "nodes": [{ "url": "http://bitcoind2:18443" }] },
            }),
        ),
        (
            "jds",
            Kind::Jds,
            "http://jds:9264",
            json!({ "listeners": { "clients": "0.0.0.0:34264" }, "state": {} }),
        ),
        (
            "pool",
            Kind::Pool,
            "http://pool:9254",
            json!({
                "listeners": { "miners": "0.0.0.0:34254" },
                "state": { "template_providers": [{ "address": "template-provider:8442" }] },
            }),
        ),
        (
            "jdc",
            Kind::Jdc,
            "http://jdc:9265",
            json!({
                "listeners": { "miners": "0.0.0.0:34265" },
                "state": { "template_provider": { "address": "miner-template-provider:8442" },
                           "upstreams": [{ "pool": "pool:34254", "jds": "jds:34264" }] },
            }),
        ),
        (
            "translator",
            Kind::Translator,
            "http://translator:9255",
            json!({
                "listeners": { "miners": "0.0.0.0:34255" }, "state": { "upstream": { "address": "jdc:34265" } },
            }),
        ),
    ]);
    let topology = Topology::of(&lab, "http://bitcoind:18443");
    assert_eq!(topology.other_nodes, ["http://bitcoind2:18443"]);
    let up: Vec<_> = topology.upstreams(Place::Role(4)).collect();
    assert_eq!(up, [Place::Role(1), Place::Role(2), Place::Role(3)]);
    assert_eq!(topology.path(5).join(" "), "node tp pool jdc translator");
}

#[test]
fn what_is_configured_goes_before_what_is_found() {
    let mut lab = world(&[
        ("pool", Kind::Pool, "http://h:1", Value::Null),
        ("jdc", Kind::Jdc, "http://h:2", Value::Null),
        ("miner", Kind::MiningDevice, "http://h:3", Value::Null),
    ]);
    // Roles that have not answered yet have their usual places.
    assert_eq!(paths(&lab), ["pool", "pool jdc", "pool jdc miner"]);
    lab.roles[2].keys.upstream = Some(vec!["pool".to_owned()]);
    assert_eq!(paths(&lab)[2], "pool miner");
    lab.roles[2].keys.upstream = Some(Vec::new());
    assert_eq!(paths(&lab)[2], "pool jdc miner");
    lab.roles[2].keys.upstream = Some(vec!["pool".to_owned()]);
    // A ring does not hang anything.
    lab.roles[0].keys.upstream = Some(vec!["miner".to_owned()]);
    let topology = Topology::of(&lab, NODE_URL);
    assert!(topology.path(2).len() <= 5 && topology.layer(Place::Role(2)) <= 4);
    assert!(topology.is_below(0, 2) && topology.is_below(2, 0));
}
