//! The metrics that roles really serve, held against docs/metrics.md, the dashboard and the alerts.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use adit_test_env::bitcoind::Bitcoind;
use adit_test_env::harness::{Role, Setup, eventually, regtest};
use bitcoincore_rpc::RpcApi;

const SOON: Duration = Duration::from_secs(60);
/// Series of one family of one role in a lab: labels are words of ours, not of peers.
const MOST_SERIES: usize = 60;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A family as it is served or documented.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
    series: usize,
}

/// What a role serves, by family.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            current = name.to_owned();
            families.entry(current.clone()).or_default().kind = kind.to_owned();
        } else if !line.starts_with('#') && !line.is_empty() {
            assert!(line.starts_with(&current), "{line} is not of {current}");
            let family = families.get_mut(&current).unwrap();
            let labels =
                line.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
            let names = labels.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0));
            family.labels.extend(names.filter(|name| *name != "le").map(str::to_owned));
            if !line.contains("le=\"") || line.contains("le=\"+Inf\"") {
                family.series += 1;
            }
        }
    }
    families
}

/// A lab with every role, at work, by role.
struct Lab {
    roles: Vec<Role>,
    node: Bitcoind,
}

impl Lab {
    fn start() -> Self {
        let node = regtest().unwrap();
        let provider = Setup::template_provider(&node).start().unwrap();
        let jds = Setup::jds(&node).start().unwrap();
        let pool = Setup::pool(&provider.endpoint()).declared_by(&[&jds.endpoint()]);
        let pool = pool.start().unwrap();
        let jdc = Setup::jdc(&provider.endpoint()).upstream(&pool.endpoint(), &jds.endpoint());
        let jdc = jdc.start().unwrap();
        let translator = Setup::translator(&jdc.endpoint()).start().unwrap();
        let v1 = Setup::device("sv1", &translator.endpoint()).start().unwrap();
        let v2 = Setup::device("sv2-extended", &pool.endpoint()).start().unwrap();
        let mut explorer = Setup::explorer(&node);
        for role in [&provider, &jds, &pool, &jdc, &translator] {
            explorer = explorer.watch(role.name(), role);
        }
        let explorer = explorer.start().unwrap();
        let roles = vec![explorer, v1, v2, translator, jdc, pool, jds, provider];
        let lab = Self { roles, node };
        for role in &lab.roles {
            role.wait_ready(SOON).unwrap();
        }
        let _page = minreq::get(format!("http://{}", lab.role("explorer").endpoint().addr)).send();
        // Each has done what it is there for, so that it has counted it.
        for (role, sample) in [
            ("pool", "adit_pool_share_ack_seconds_count"),
            ("pool", "adit_pool_blocks_total"),
            ("jds", "adit_jds_declarations_total"),
            ("jdc", "adit_jdc_job_acceptance_seconds_count"),
            ("translator", "adit_translator_notify_fan_out_seconds_count"),
            ("template-provider", "adit_template_provider_solutions_total"),
            ("explorer", "adit_explorer_page_seconds_count"),
        ] {
            eventually(SOON, sample, || {
                lab.role(role).metrics().is_ok_and(|m| m.sum(sample, &[]) > 0.0)
            });
        }
        eventually(SOON, "a block of the pool's in the chain", || {
            lab.node.client().unwrap().get_block_count().unwrap() > 115
        });
        lab
    }

    fn role(&self, name: &str) -> &Role {
        self.roles.iter().find(|role| role.name() == name).unwrap()
    }
}

/// The rows of docs/metrics.md by family.
fn documented() -> BTreeMap<String, Family> {
    let text = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let mut families = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `adit_")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("not four cells: {line}") };
        assert!(!meaning.is_empty(), "{line}");
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let family = Family { kind: kind.to_owned(), labels, series: 0 };
        let name = name.trim_matches('`').to_owned();
        assert!(families.insert(name, family).is_none(), "documented twice: {line}");
    }
    families
}

/// What `promtool` says to a text, if it is there.
fn promtool(arguments: &[&str], input: &str) {
    let spawned = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            println!(
                "skipped: promtool {arguments:?}: {error} (on Debian: apt-get install prometheus)"
            );
            return;
        }
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    // Remarks on names and help texts do not change the exit code.
    assert!(arguments[1] != "metrics" || said.trim().is_empty(), "{said}\n{input}");
}

#[test]
fn what_roles_serve_is_documented() {
    let lab = Lab::start();
    let documented = documented();
    for role in &lab.roles {
        let (status, text) = role.get("/metrics").unwrap();
        assert_eq!(status, 200);
        let served = families(&text);
        assert!(served.len() > 5, "{text}");
        for (name, family) in &served {
            let known = documented.get(name);
            let known = known
                .unwrap_or_else(|| panic!("{} of {} is not in docs/metrics.md", name, role.name()));
            assert_eq!(family.kind, known.kind, "{name}");
            assert_eq!(family.labels, known.labels, "{name}");
            assert!(family.series <= MOST_SERIES, "{name} has {} series:\n{text}", family.series);
        }
        promtool(&["check", "metrics"], &text);
    }
    // Memory and CPU of every one of them; a quick one has used none yet, by the system's clock.
    for role in &lab.roles {
        let served = families(&role.get("/metrics").unwrap().1);
        let names =
            ["adit_process_resident_memory_bytes", "adit_process_cpu_seconds_total", "adit_ready"];
        for name in names {
            assert!(served.contains_key(name), "{name} of {}", role.name());
        }
    }
}

/// All Rust sources of these folders.
fn sources(folders: &[PathBuf]) -> String {
    let mut text = String::new();
    for folder in folders {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                text.push_str(&sources(&[path]));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
    text
}

/// Families that only come with what a quiet lab does not see are looked for in the sources.
#[test]
fn what_is_documented_exists() {
    let sources = sources(&[root().join("roles"), root().join("utils")]);
    for name in documented().keys() {
        let owners = [
            "transport",
            "http",
            "process",
            "template_provider",
            "pool",
            "jds",
            "jdc",
            "translator",
            "mining_device",
            "explorer",
        ];
        let rest = name.strip_prefix("adit_").unwrap();
        let owner = owners.iter().find_map(|owner| rest.strip_prefix(owner)?.strip_prefix('_'));
        let mut plain = owner.unwrap_or(rest).to_owned();
        for suffix in ["_total", "_seconds", "_bytes", "_ratios"] {
            plain = plain.strip_suffix(suffix).unwrap_or(&plain).to_owned();
        }
        let spelled = [
            format!("\"{plain}\""),
            format!("\"{rest}\""),
            format!("_{plain}\""),
            format!("\"{plain}_bytes\""),
        ];
        assert!(spelled.iter().any(|text| sources.contains(text)), "{name} ({plain}) is nobody's");
    }
}

/// Every use of a metric in an expression: its name and the labels that its selector names.
fn uses(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut uses = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("adit_") {
        let before = rest[..at].chars().next_back();
        rest = &rest[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        if before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let selector = after.strip_prefix('{').and_then(|text| text.split_once('}'));
        let labels = selector.map_or("", |(labels, _)| labels).split(',');
        let labels = labels
            .filter_map(|label| label.split_once(['=', '!']))
            .map(|(name, _)| name.trim().to_owned());
        uses.push((name.to_owned(), labels.collect()));
    }
    uses
}

#[track_caller]
fn all_exist(documented: &BTreeMap<String, Family>, expression: &str) -> usize {
    let uses = uses(expression);
    for (name, labels) in &uses {
        let family = ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|part| Some((documented.get(name.strip_suffix(part)?)?, true)))
            .or_else(|| Some((documented.get(name)?, false)));
        let Some((family, part)) = family else { panic!("there is no {name}: {expression}") };
        assert_eq!(family.kind == "histogram", part, "{name}: {expression}");
        for label in labels {
            assert!(
                family.labels.contains(label) || label == "name",
                "{name} has no {label}: {expression}"
            );
        }
    }
    uses.len()
}

#[test]
fn dashboard_and_alerts_use_what_exists() {
    let documented = documented();
    let rules_file = root().join("docker/prometheus/rules.yml");
    let rules = fs::read_to_string(&rules_file).unwrap();
    assert!(all_exist(&documented, &rules) > 20);
    promtool(&["check", "rules", rules_file.to_str().unwrap()], "");
    let config = root().join("docker/prometheus/prometheus.yml");
    promtool(&["check", "config", config.to_str().unwrap()], "");

    let dashboard = fs::read_to_string(root().join("docker/grafana/dashboards/adit.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut as_rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    let mut count = 0;
    for (at, target) in targets.enumerate() {
        let expression = target["expr"].as_str().unwrap();
        assert!(all_exist(&documented, expression) > 0, "{expression}");
        let expression = expression.replace("$__rate_interval", "1m");
        as_rules.push_str(&format!(
            "      - record: dashboard_{at}\n        expr: {}\n",
            serde_json::Value::from(expression)
        ));
        count += 1;
    }
    assert!(count > 40);
    let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    fs::write(file.path(), as_rules).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()], "");

    // What the explorer reads of the roles.
    let explorer = sources(&[root().join("roles/explorer/src")]);
    let read: BTreeSet<_> = uses(&explorer).into_iter().map(|(name, _)| name).collect();
    let metrics = read
        .iter()
        .filter(|name| ["_seconds", "_bytes", "_total"].iter().any(|end| name.ends_with(end)));
    let unknown: Vec<_> = metrics.filter(|name| !documented.contains_key(*name)).collect();
    assert_eq!(unknown, Vec::<&String>::new());
}
