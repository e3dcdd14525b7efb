use std::path::Path;

use adit_service::parse_config;

use super::*;

const PAYOUT: &str = "bcrt1q6rhpng9evdsfnn833a4f4vej0asu6dk5srld6x";

fn parse(text: &str) -> Result<Config, String> {
    parse_config(text, Path::new("/nowhere")).map_err(|e| e.to_string())
}

const UPSTREAM: &str = "[[upstreams]]\npool = \"stratum2+tcp://127.0.0.1:34254\"\n\
                        jds = \"stratum2+tcp://127.0.0.1:34264\"\nuser_identity = \"miner\"\n";

/// A configuration that works, with more lines in front of its tables and behind them.
fn with(first: &str, more: &str) -> String {
    let secret = adit_sv2::keys::AuthoritySecretKey::from_entropy([7; 32]).unwrap();
    format!(
        "network = \"regtest\"\n{first}\nauthority.secret_key = \"{}\"\n\
         [[template_provider]]\naddress = \"localhost:8442\"\n{more}",
        *secret.to_text()
    )
}

fn refused(first: &str, more: &str) -> String {
    parse(&with(first, more)).and_then(|c| c.check().map_err(|e| e.to_string())).unwrap_err()
}

#[test]
fn the_example_is_the_default() {
    let example = parse(EXAMPLE).unwrap();
    let bare = format!(
        "network = \"mainnet\"\n[authority]\nsecret_key_file = \"jdc.key\"\n{UPSTREAM}\
         [[template_provider]]\naddress = \"127.0.0.1:8442\""
    );
    assert_eq!(format!("{example:?}"), format!("{:?}", parse(&bare).unwrap()));
    assert_eq!(*example.blocks.path, *std::path::Path::new("/nowhere/jdc-blocks"));
    // And each key that is commented out says the default, but for those that have none.
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
    assert!(said.contains("\nper_minute = 6.0\n") && said.contains("\nmode = \"full-template\"\n"));
    assert_eq!(format!("{:?}", parse(&said).unwrap()), format!("{example:?}"));
}

#[test]
fn working_ones() {
    let config = parse(&with("", UPSTREAM)).unwrap();
    config.check().unwrap();
    assert!(config.upstreams[0].worker_names);
    let unnamed = parse(&with("", &format!("{UPSTREAM}worker_names = false\n"))).unwrap();
    assert!(!unnamed.upstreams[0].worker_names);
    assert!(config.payout().unwrap().is_none() && config.allow_above_network_difficulty());
    let solo = format!("mode = \"solo\"\ncoinbase.solo_output = \"{PAYOUT}\"");
    let config = parse(&with(&solo, "")).unwrap();
    config.check().unwrap();
    assert!(config.payout().unwrap().is_some());
}

#[test]
fn what_cannot_work_is_refused_by_its_key() {
    for (first, more, key) in [
        ("", "", "upstreams"),
        ("mode = \"solo\"", "", "coinbase.solo_output"),
        ("on_declaration_failure = \"solo\"", UPSTREAM, "coinbase.solo_output"),
        ("coinbase.tag = \"\u{e4}\"", UPSTREAM, "coinbase.tag"),
        ("coinbase.solo_output = \"nonsense\"", UPSTREAM, "coinbase.solo_output"),
        ("declaration.tokens = 0", UPSTREAM, "declaration.tokens"),
        ("declaration.timeout_ms = 1", UPSTREAM, "declaration.timeout_ms"),
        ("shares.per_minute = 0.0", UPSTREAM, "shares.per_minute"),
        ("channels.extranonce_size = 3", UPSTREAM, "channels.extranonce_size"),
    ] {
        let error = refused(first, more);
        assert!(error.contains(key), "{error}");
    }
    assert!(refused("", &format!("{UPSTREAM}{UPSTREAM}")).contains("given twice"));
    let nobody = UPSTREAM.replace("\"miner\"", "\"\"");
    assert!(refused("", &nobody).contains("upstreams[0].user_identity"));
    assert!(parse(&with("unknown = 1", UPSTREAM)).unwrap_err().contains("unknown"));
}
