use std::path::Path;

use adit_service::parse_config;

use super::*;

const KEY: &str = "9auqWEzQDVyd2oe1JVGFLMLHZtCo2FFqZwtKA5gd9xbuEu7PH72";

fn parse(text: &str) -> Result<Config, String> {
    parse_config(text, Path::new("/nowhere")).map_err(|e| e.to_string())
}

/// A configuration that works, with more lines in front of its tables and behind them.
fn working(first: &str, more: &str) -> Config {
    let secret = adit_sv2::keys::AuthoritySecretKey::from_entropy([7; 32]).unwrap();
    let text = format!(
        "network = \"regtest\"\n{first}\n\
         coinbase.output = \"bcrt1q6rhpng9evdsfnn833a4f4vej0asu6dk5srld6x\"\n\
         authority.secret_key = \"{}\"\n\
         [[template_provider]]\naddress = \"localhost:8442\"\nauthority_key = \"{KEY}\"\n{more}",
        *secret.to_text()
    );
    parse(&text).unwrap()
}

#[test]
fn the_example_is_the_default() {
    let example = parse(EXAMPLE).unwrap();
    let bare = "network = \"mainnet\"\n[authority]\nsecret_key_file = \"pool.key\"\n\
                [[template_provider]]\naddress = \"127.0.0.1:8442\"";
    assert_eq!(format!("{example:?}"), format!("{:?}", parse(bare).unwrap()));
    // Beside the file, whether that says it or not.
    assert!(example.store.path.ends_with("pool.redb") && example.store.path.is_absolute());
    // And each key that is commented out says the default, but for the four that have none.
    let mut said = String::new();
    for line in EXAMPLE.lines() {
        let key = line
            .strip_prefix("# ")
            .filter(|l| l.split_once(" = ").is_some_and(|(k, _)| !k.contains(' ')));
        let none =
            ["authority_key", "allow_above", "listen ="].iter().any(|none| line.contains(none));
        said += key.filter(|_| !none).unwrap_or(line);
        said += "\n";
    }
    assert!(said.contains("\nper_minute = 6.0\n") && said.contains("\nmax = 200000\n"));
    assert_eq!(format!("{:?}", parse(&said).unwrap()), format!("{example:?}"));
}

#[test]
fn what_a_running_pool_takes_in() {
    let mut running = working("", "");
    assert_eq!(running.take_in(&working("", "")).to_string(), "nothing has changed");
    let new = working(
        "coinbase.server_id = 9\ncoinbase.tag = \"x\"\nshares.per_minute = 9.0\nmining.group_channels = false\n\
         mining.version_rolling = false\ndrain.port = 5",
        "",
    );
    let said = running.take_in(&new).to_string();
    assert_eq!(
        said,
        "applied: coinbase.server_id, shares, mining.group_channels, drain; needs a restart: coinbase.tag, mining"
    );
    assert_eq!((running.coinbase.server_id, running.drain.port), (9, 5));
    assert!(!running.mining.group_channels && running.mining.version_rolling);
    assert_eq!(running.coinbase.tag, "adit");
}

#[test]
fn every_key_is_on_the_operators_page() {
    let page = include_str!("../../../../docs/roles/pool.md");
    let keys = EXAMPLE.lines().filter_map(|line| {
        let (key, _) = line.trim_start_matches("# ").split_once(" = ")?;
        key.chars().all(|c| c.is_ascii_lowercase() || c == '_').then_some(key)
    });
    for key in keys {
        let named =
            [format!("`{key}`"), format!("] {key}`")].iter().any(|text| page.contains(text));
        assert!(named, "{key} is not described");
    }
}

#[test]
fn a_working_one() {
    let config = working("", "");
    config.check().unwrap();
    assert!(config.allow_above_network_difficulty());
    let url = config.template_provider[0].url().unwrap();
    assert_eq!((url.host.as_str(), url.port, url.authority.is_some()), ("localhost", 8442, true));
    assert!(
        !working("shares.allow_above_network_difficulty = false", "")
            .allow_above_network_difficulty()
    );
}

#[test]
fn what_cannot_be_read_is_one_line_with_place_and_key() {
    let error = |text: &str| parse(text).unwrap_err();
    assert!(error("").contains("network"));
    let unknown = error("network = \"regtest\"\n[coinbase]\nadress = \"x\"");
    assert!(unknown.starts_with("config:3: coinbase.adress: "), "{unknown}");
    let network = error("network = \"litecoin\"");
    assert!(network.starts_with("config:1: network: ") && network.contains("regtest"), "{network}");
    let key = error(
        "network = \"regtest\"\n[[template_provider]]\naddress = \"a:1\"\nauthority_key = \"zz\"",
    );
    assert!(key.starts_with("config:4: template_provider[0].authority_key: "), "{key}");
}

#[test]
fn what_cannot_work_names_its_key() {
    let check = |first: &str, more: &str| {
        let error = working(first, more).check().unwrap_err();
        (error.key, error.message)
    };
    let keys = [
        ("coinbase.tag = \"caf\\u00e9\"", "", "coinbase.tag"),
        (
            "coinbase.tag = \"12345678901234567890123456789012345678901234567890123456789012345\"",
            "",
            "coinbase.tag",
        ),
        ("shares.per_minute = 0.0", "", "shares.per_minute"),
        ("shares.per_minute = nan", "", "shares.per_minute"),
        ("shares.start_hashrate = inf", "", "shares.start_hashrate"),
        ("shares.min_hashrate = -1.0", "", "shares.min_hashrate"),
        ("shares.ack_batch = 0", "", "shares.ack_batch"),
        ("shares.ack_interval_ms = 0", "", "shares.ack_interval_ms"),
        ("channels.max = 0", "", "channels.max"),
        ("channels.max_per_connection = 0", "", "channels.max_per_connection"),
        ("channels.open_deadline_secs = 0", "", "channels.open_deadline_secs"),
        ("channels.max_workers = 99999999", "", "channels.max_workers"),
        ("channels.worker_metrics = 10001", "", "channels.worker_metrics"),
        ("mining.supported_extensions = [2, 3]", "", "mining.supported_extensions"),
        (
            "mining.supported_extensions = []\nmining.required_extensions = [2]",
            "",
            "mining.required_extensions",
        ),
        ("drain.host = \"a b\"", "", "drain.host"),
        ("drain.seconds = 8", "", "drain.seconds"),
        ("drain.per_second = 0", "", "drain.per_second"),
        ("listen.max_connections = 0", "", "listen.max_connections"),
        ("authority.cert_validity_hours = 0", "", "authority.cert_validity_hours"),
        ("", "[[template_provider]]\naddress = \"host\"", "template_provider[1].address"),
        ("", "[[template_provider]]\naddress = \":8442\"", "template_provider[1].address"),
        ("", "[[template_provider]]\naddress = \"localhost:8442\"", "template_provider[1].address"),
    ];
    for (first, more, key) in keys {
        assert_eq!(check(first, more).0, key, "{first}{more}");
    }
    let mut config = working("", "");
    config.coinbase.output = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4".to_owned();
    let error = config.check().unwrap_err();
    assert_eq!(error.key, "coinbase.output");
    assert!(
        error.message.ends_with("belongs to another network than regtest"),
        "{}",
        error.message
    );
    config.template_provider.clear();
    config.coinbase.output = "raw(51)".to_owned();
    assert_eq!(config.check().unwrap_err().key, "template_provider");
}
