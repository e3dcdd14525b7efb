use std::path::Path;

use adit_service::parse_config;

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    parse_config(text, Path::new("/nowhere")).map_err(|e| e.to_string())
}

const UPSTREAM: &str = "[[upstream]]\nurl = \"stratum2+tcp://127.0.0.1:34254\"\n";

fn refused(text: &str) -> String {
    match parse(&format!("{UPSTREAM}{text}")) {
        Ok(config) => config.check().unwrap_err().to_string(),
        Err(error) => error,
    }
}

#[test]
fn the_example_is_the_default() {
    let example = parse(EXAMPLE).unwrap();
    example.check().unwrap();
    assert_eq!(format!("{example:?}"), format!("{:?}", parse(UPSTREAM).unwrap()));
    // And each key that is commented out says the default, but for the one that has none.
    let mut said = String::new();
    for line in EXAMPLE.lines() {
        let key = line
            .strip_prefix("# ")
            .filter(|l| l.split_once(" = ").is_some_and(|(k, _)| !k.contains(' ')));
        said += key.filter(|_| !line.contains("listen =")).unwrap_or(line);
        said += "\n";
    }
    assert!(said.contains("\nextranonce2_size = 8\n") && said.contains("\nuser_identity = "));
    assert_eq!(format!("{:?}", parse(&said).unwrap()), format!("{example:?}"));
}

#[test]
fn what_the_lab_writes() {
    let config = parse(
        "[[listen]]\naddress = \"127.0.0.1:1\"\n\
         [[upstream]]\nurl = \"stratum2+tcp://127.0.0.1:2/9auqWEzQDVyd2oe1JVGFLMLHZtCo2FFqZwtKA5gd9xbuEu7PH72\"\n\
         [miners]\nnominal_hash_rate = 20000\n",
    )
    .unwrap();
    config.check().unwrap();
    assert!(config.upstream[0].url.authority.is_some());
    assert_eq!(config.upstream[0].identity("a.b"), "a.b");
    assert_eq!(config.miners.nominal_hash_rate, 20_000.0);
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    for (text, key) in [
        ("user_identity = \"{who}\"", "upstream[0].user_identity"),
        ("user_identity = \"\"", "upstream[0].user_identity"),
        ("user_identity = \"{user}{user}\"", "upstream[0].user_identity"),
        ("max_ntime_ahead_seconds = 7201", "upstream[0].max_ntime_ahead_seconds"),
        ("[[upstream]]\nurl = \"stratum2+tcp://127.0.0.1:34254\"", "upstream[1].url: given twice"),
        ("[[upstream]]\nurl = \"http://x\"", "upstream[1].url"),
        ("[miners]\nversion_mask = \"1fff\"", "miners.version_mask"),
        ("[miners]\nextranonce2_size = 2", "miners.extranonce2_size"),
        ("[miners]\nanonymous_user = \"\"", "miners.anonymous_user"),
        ("[miners]\nkeepalive_notify_seconds = 90", "miners.keepalive_notify_seconds"),
        ("[miners]\nnominal_hash_rate = 0.0", "miners.nominal_hash_rate"),
        ("[miners]\nspeed = 1", "unknown key"),
        ("[[listen]]\n[[listen]]", "listen[1].address: given twice"),
    ] {
        let error = refused(text);
        assert!(error.contains(key), "{text}: {error}");
    }
    assert!(parse("").unwrap().check().unwrap_err().to_string().starts_with("upstream: required"));
}

#[test]
fn a_mask_has_only_bits_that_may_be_rolled() {
    let config = parse(&format!("{UPSTREAM}[miners]\nversion_mask = \"ffffffff\"")).unwrap();
    assert_eq!(config.miners.version_mask, 0x1fff_ffe0);
}
