use std::time::Duration;

use crate::{Auth, ConfigError, Node, NodeConfig};

fn parse(text: &str) -> Result<NodeConfig, String> {
    toml::from_str(text).map_err(|e: toml::de::Error| e.to_string())
}

#[test]
fn every_way_to_log_in() {
    let config = parse("url = 'http://127.0.0.1:18443'\ncookie_file = '/x/.cookie'").unwrap();
    assert_eq!(config.auth, Auth::Cookie("/x/.cookie".into()));
    assert_eq!(config.timeout, Duration::from_secs(10));

    let config =
        parse("url = 'http://[::1]:8332/wallet/'\nuser = 'u'\npassword = 'p'\ntimeout_seconds = 3")
            .unwrap();
    assert_eq!(config.auth, Auth::UserPass { user: "u".into(), password: "p".into() });
    assert_eq!(config.timeout, Duration::from_secs(3));
    let endpoint = config.endpoint().unwrap();
    assert_eq!((endpoint.host.as_str(), endpoint.port), ("::1", 8332));
    assert_eq!((endpoint.authority.as_str(), endpoint.path.as_str()), ("[::1]:8332", "/wallet/"));

    let config = parse("url = 'http://bitcoind:8332'\nuser = 'u'\npassword_file = 'f'").unwrap();
    let auth = Auth::UserPasswordFile { user: "u".into(), password_file: "f".into() };
    assert_eq!(config.auth, auth);
}

#[test]
fn what_is_wrong_is_named() {
    let cookie = "\ncookie_file = 'c'";
    for (text, expected) in [
        ("url = 'https://h:1'".to_owned() + cookie, "a node speaks plain http"),
        ("url = 'http://h'".to_owned() + cookie, "no port"),
        ("url = '127.0.0.1:8332'".to_owned() + cookie, "http://HOST:PORT"),
        ("url = 'http://u:p@h:1'".to_owned() + cookie, "'http://***@h:1'"),
        ("url = 'u:p@h:1'".to_owned() + cookie, "'***@h:1'"),
        ("url = 'http://h:1'".to_owned() + cookie + "\ntimeout_seconds = 0", "at least 1"),
        ("url = 'http://h:1'".to_owned() + cookie + "\ntimeout = 1", "unknown field `timeout`"),
        ("url = 'http://h:1'".to_owned(), "either cookie_file"),
        ("url = 'http://h:1'\nuser = 'u'".to_owned(), "either cookie_file"),
        (
            "url = 'http://h:1'\nuser = 'u'\npassword = 'p'".to_owned() + cookie,
            "either cookie_file",
        ),
    ] {
        let error = parse(&text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let config = NodeConfig::new("ftp://h:1", Auth::Cookie("c".into()));
    assert!(matches!(Node::new(config).unwrap_err(), ConfigError::Url { .. }));
}

#[test]
fn a_password_is_not_printed() {
    let config = parse("url = 'http://h:1'\nuser = 'u'\npassword = 'hunter2'").unwrap();
    let text = format!("{config:?} {:?}", Node::new(config.clone()).unwrap());
    assert!(!text.contains("hunter2"), "{text}");
}
