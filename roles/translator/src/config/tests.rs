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
    // And each key that is commented out says the default, but for those that have none.
    let without_default =
        ["name", "tls_certificate", "tls_key", "nominal_hash_rate = 1e13", "auth =", "listen ="];
    let mut said = String::new();
    let mut section = "";
    for line in EXAMPLE.lines() {
        section = if line.trim_start_matches("# ").starts_with('[') { line } else { section };
        let key = line
            .strip_prefix("# ")
            .filter(|l| l.split_once(" = ").is_some_and(|(k, _)| !k.contains(' ')));
        let free = |key: &&str| {
            let of_listener = section.starts_with("[[listen");
            section.starts_with("# ")
                || without_default
                    .iter()
                    .any(|free| key.starts_with(free) && (of_listener || *free == "listen ="))
        };
        // An address of whoever it is.
        let free = |key: &&str| free(key) || key.starts_with("verify_payout =");
        said += key.filter(|key| !free(key)).unwrap_or(line);
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
    let ip = "10.0.0.1".parse().unwrap();
    assert_eq!(config.upstream[0].identity("a.b", ip), "a.b");
    assert_eq!(config.miners.nominal_hash_rate, 20_000.0);
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    for (text, key) in [
        ("user_identity = \"{who}\"", "upstream[0].user_identity"),
        ("user_identity = \"\"", "upstream[0].user_identity"),
        ("user_identity = \"{user}{user}\"", "upstream[0].user_identity"),
        ("user_identity = \"{user}.{worker}\"", "upstream[0].user_identity"),
        ("verify_payout = \"nobody\"", "upstream[0].verify_payout"),
        ("verify_payout_percent = 101.0", "upstream[0].verify_payout_percent"),
        ("[failover]\nreturn_after_seconds = 0", "failover.return_after_seconds"),
        ("[failover]\nsilence_seconds = 1", "failover.silence_seconds"),
        ("[failover]\nacknowledge_seconds = 1", "failover.acknowledge_seconds"),
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
        (
            "[[listen]]\nname = \"a\"\n[[listen]]\naddress = \"127.0.0.1:1\"\nname = \"a\"",
            "listen[1].name: given twice",
        ),
        ("[[listen]]\nname = \"a b\"", "listen[0].name"),
        ("[[listen]]\nproxy_protocol = true", "listen[0].trusted_proxies: required"),
        ("[[listen]]\ntrusted_proxies = [\"10.0.0.0/33\"]", "listen[0].trusted_proxies"),
        ("[[listen]]\ntls_key = \"k\"", "listen[0].tls_certificate: required"),
        (
            "[[listen]]\ntls_key = \"k\"\ntls_certificate = \"c\"",
            "listen[0].tls_certificate: /nowhere/c: No such file",
        ),
        ("[[listen]]\nban_seconds = 100000", "listen[0].ban_seconds"),
        ("[[listen]]\nmin_difficulty = -1.0", "listen[0].min_difficulty"),
        ("[[listen]]\nsuggested_difficulty = \"maybe\"", "suggested_difficulty"),
        ("[auth]\nmode = \"local\"", "auth.users: required"),
        ("[[listen]]\nauth = \"local\"", "auth.users: required"),
        ("[auth.users]\na = \"secret\"", "auth.users: a: not a hash"),
        ("[[firmware]]\nname = \"a b\"\nuser_agent = \"x\"", "firmware[0].name"),
        (
            "[[firmware]]\nname = \"a\"\nuser_agent = \"x\"\nextranonce2_size = 2",
            "firmware[0].extranonce2_size",
        ),
        ("[miners]\nidle_timeout_seconds = 1", "miners.idle_timeout_seconds"),
        ("[miners]\nmax_lines_per_second = 1", "miners.max_lines_per_second"),
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

#[test]
fn a_certificate_is_read_when_the_configuration_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["pool.example".to_owned()]).unwrap();
    std::fs::write(dir.path().join("c.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("k.pem"), made.signing_key.serialize_pem()).unwrap();
    let text = |key: &str| {
        format!("{UPSTREAM}[[listen]]\ntls_certificate = \"c.pem\"\ntls_key = \"{key}\"")
    };
    let config = |key| parse_config::<Config>(&text(key), dir.path()).unwrap();
    config("k.pem").check().unwrap();
    let error = config("c.pem").check().unwrap_err().to_string();
    assert!(error.contains("listen[0].tls_key"), "{error}");
}

#[test]
fn listeners_are_named_and_have_their_own_terms() {
    let config = parse(&format!(
        "{UPSTREAM}[[listen]]\n[[listen]]\naddress = \"0.0.0.0:3333\"\nmin_difficulty = 1024\n\
         [[listen]]\naddress = \"0.0.0.0:3334\"\nname = \"asics\"\nsuggested_difficulty = \"hint\"\n\
         trusted_proxies = [\"10.0.0.0/8\", \"::1\"]\nproxy_protocol = true"
    ))
    .unwrap();
    config.check().unwrap();
    let names = config.listen.iter().enumerate().map(|(index, listen)| listen.label(index));
    assert_eq!(names.collect::<Vec<_>>(), ["miners", "miners-2", "asics"]);
    assert_eq!(config.listen[1].min_difficulty, 1_024.0);
    assert_eq!(config.listen[2].suggested_difficulty, Suggested::Hint);
    assert_eq!(config.listen[2].trusted_proxies[0].to_string(), "10.0.0.0/8");
}

#[test]
fn the_operators_page_names_every_key() {
    let page = include_str!("../../../../docs/roles/translator.md");
    for line in EXAMPLE.lines() {
        let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") else { continue };
        // Example entries of [auth.users] are no keys.
        if !key.contains(' ') && key != "farm" {
            let named = page.split('`').skip(1).step_by(2);
            let named = named.flat_map(|code| code.split([' ', '.'])).any(|word| word == key);
            assert!(named, "{key} is not on docs/roles/translator.md");
        }
    }
}

#[test]
fn names_of_miners_at_an_upstream() {
    let ip = "::ffff:10.0.0.1".parse().unwrap();
    let name = |template: &str, user: &str| {
        let config = parse(&format!("{UPSTREAM}user_identity = \"{template}\"")).unwrap();
        config.check().unwrap();
        config.upstream[0].identity(user, ip)
    };
    assert_eq!(name("{user}", "farm.rig.7"), "farm.rig.7");
    assert_eq!(name("acc.{worker}", "farm.rig.7"), "acc.rig.7");
    assert_eq!(name("{account}-x.{worker}", "farm.rig"), "farm-x.rig");
    assert_eq!(name("acc.{worker}", "solo"), "acc.");
    assert_eq!(name("acc.{ip}", "farm.rig"), "acc.10.0.0.1");
    // What a miner calls itself is no template.
    assert_eq!(name("{account}.{worker}", "{worker}.{ip}"), "{worker}.{ip}");
    assert_eq!(name("all", "farm.rig"), "all");
}

#[test]
fn an_aggregated_channel_has_one_name() {
    let aggregated = |template: &str| {
        let text = format!("channels = \"aggregated\"\n{UPSTREAM}user_identity = \"{template}\"");
        parse(&text).unwrap().check().map_err(|error| error.to_string())
    };
    assert_eq!(aggregated("farm.all"), Ok(()));
    for template in ["{user}", "farm.{worker}", "{ip}"] {
        let error = aggregated(template).unwrap_err();
        assert!(error.starts_with("upstream[0].user_identity"), "{error}");
    }
    assert!(parse("channels = \"both\"").is_err());
}

#[test]
fn terms_and_users_change_while_it_runs_and_sockets_do_not() {
    let text = |more: &str, listen: &str, user: &str| {
        let hash = crate::auth::cheap_hash("x");
        let text =
            format!("{UPSTREAM}[[listen]]\n{listen}\n{more}\n[auth.users]\n{user} = \"{hash}\"");
        parse(&text).unwrap()
    };
    let mut running = text("", "min_difficulty = 1.0", "a");
    let new = text("", "min_difficulty = 2.0\nmax_connections = 7", "b");
    let changes = running.take_in(&new).to_string();
    assert_eq!(changes, "applied: listen: difficulty, auth.users; needs a restart: listen");
    assert_eq!(running.listen[0].min_difficulty, 2.0);
    assert_ne!(running.listen[0].max_connections, 7, "until it is started anew");
    assert!(running.auth.users.contains_key("b") && !running.auth.users.contains_key("a"));
    let new = text("[auth]\nmode = \"local\"", "min_difficulty = 2.0", "b");
    assert!(running.take_in(&new).to_string().ends_with("needs a restart: auth.mode"));
}
