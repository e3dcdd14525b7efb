use serde_json::json;

use super::*;
use crate::config::{Kind, RoleKeys};

const SCRIPT: &str = "<script>alert(1)</script>";

fn lab(status: [serde_json::Value; 3]) -> World {
    let kinds = [Kind::TemplateProvider, Kind::Pool, Kind::Translator];
    let keys: Vec<_> = kinds
        .iter()
        .map(|kind| RoleKeys {
            name: kind.name().to_owned(),
            kind: *kind,
            url: "http://127.0.0.1:1".to_owned(),
            upstream: None,
        })
        .collect();
    let mut world = World::new(&keys);
    for (role, status) in world.roles.iter_mut().zip(status) {
        role.health.up();
        role.status = json!({ "ready": true, "state": status });
    }
    world
}

#[test]
fn whatever_a_role_says_is_shown_as_text() {
    // Wrong types, missing keys and scripts everywhere.
    let odd = [json!(null), json!(7), json!(SCRIPT), json!([SCRIPT]), json!({ SCRIPT: SCRIPT })];
    for value in odd {
        let channel = json!({ "identity": value, "vendor": SCRIPT, "hashrate": value, "rejected": { SCRIPT: 1 },
                              "extranonce_prefix": value, "remote": SCRIPT });
        let world = lab([
            json!({ "template": value, "clients": value, "nodes": [{ "url": SCRIPT, "problem": SCRIPT }] }),
            json!({ "channels": [channel], "blocks": value, "template_providers": value }),
            json!({ "miners": [{ "user": SCRIPT, "user_agent": SCRIPT }], "upstream": value, "shares": value }),
        ]);
        let workers = workers::workers(&world);
        let pages = [
            workers::worker_table(&workers, 10),
            flow::picture(&world, "http://127.0.0.1:2"),
            layout(&world, SCRIPT, "/", Live::Always, &workers::share_note(&workers)),
        ];
        for page in pages {
            let page = page.into_string();
            assert!(!page.contains("<script>"), "{page}");
        }
    }
}

#[test]
fn a_worker_is_listed_once_where_it_connects() {
    let world = lab([
        json!({}),
        json!({ "workers": [
            { "identity": "lab.v2", "channels": 2, "hashrate": 3e3, "accepted": 8, "rejected": { "stale-share": 2 },
              "best_difficulty": 5.0, "last_share_age_seconds": 4 },
            { "identity": "lab.v1", "channels": 1, "hashrate": 1e3, "accepted": 5 },
        ], "channels": [
            { "identity": "lab.v1", "hashrate": 1e3, "accepted": 5, "vendor": "adit" },
            { "identity": "lab.v2", "vendor": "adit", "hashrate": 2e3, "accepted": 7, "rejected": { "stale-share": 2 }, "last_share_age_seconds": 9 },
            { "identity": "lab.v2", "hashrate": 1e3, "accepted": 1, "last_share_age_seconds": 4 },
        ] }),
        json!({ "miners": [{ "user": "lab.v1", "user_agent": "bmminer", "hashrate": 1.5e3, "shares_accepted": 6,
                             "shares_rejected": { "duplicate": 1 } }] }),
    ]);
    let workers = workers::workers(&world);
    assert_eq!(workers.len(), 2);
    let v2 = &workers[0];
    assert_eq!(
        (v2.name.as_str(), v2.at.as_str(), v2.channels, v2.accepted),
        ("lab.v2", "pool", 2, 8)
    );
    assert_eq!((v2.best, v2.agents.len()), (Some(5.0), 1));
    assert_eq!((v2.last_share, v2.rejected["stale-share"]), (Some(4), 2));
    let v1 = &workers[1];
    assert_eq!((v1.at.as_str(), v1.accepted, v1.agents[0].as_str()), ("translator", 6, "bmminer"));
}

#[test]
fn a_proxys_own_channel_is_no_worker() {
    let world = lab([
        json!({}),
        json!({ "channels": [{ "identity": "farm", "hashrate": 1e3 }, { "identity": "a.b", "hashrate": 1.0 }] }),
        json!({ "upstream": { "user_identity": "farm" }, "miners": [{ "user": "rig", "hashrate": 1e3 }] }),
    ]);
    let names: Vec<_> = workers::workers(&world).into_iter().map(|worker| worker.name).collect();
    assert_eq!(names, ["rig", "a.b"]);
}

#[test]
fn counts_of_a_role_are_as_large_as_they_can_be() {
    let worker = json!({ "identity": "a", "channels": u64::MAX, "accepted": u64::MAX,
                         "rejected": { "x": u64::MAX, "y": u64::MAX } });
    let world = lab([json!({}), json!({ "channels": [worker, worker] }), json!({})]);
    let workers = workers::workers(&world);
    assert_eq!((workers.len(), workers[0].accepted), (1, u64::MAX));
    let note = workers::share_note(&[workers.as_slice(), &workers].concat()).into_string();
    let most = format::grouped(u64::MAX);
    assert_eq!(note.matches(&most).count(), 2, "{note}");
}
