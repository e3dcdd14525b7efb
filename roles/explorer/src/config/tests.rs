use std::path::Path;

use adit_service::parse_config;

use super::*;

fn read(text: &str) -> Result<Config, String> {
    let config: Config = parse_config(text, Path::new("/etc/adit")).map_err(|e| e.to_string())?;
    config.check().map_err(|e| e.to_string())?;
    Ok(config)
}

const NODE: &str = "[node]\nurl = \"http://127.0.0.1:18443\"\ncookie_file = \"cookie\"\n";

#[test]
fn the_example_is_the_default() {
    let example = read(EXAMPLE).unwrap();
    assert_eq!(example.listen, Listen::default());
    assert_eq!(example.listen.address.to_string(), "127.0.0.1:3002");
    assert_eq!(example.index, Index::default());
    assert!(example.roles.is_empty());
    assert_eq!((example.http, example.log), (Http::default(), Log::default()));
    // What is commented out is what a key is when it is left out.
    let given: String = EXAMPLE
        .lines()
        .map(|line| {
            let key = line.strip_prefix("# ").filter(|rest| {
                rest.split_once(" = ").is_some_and(|(key, _)| {
                    key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
                })
            });
            // Two ways to log in exclude one another, and a role needs its table.
            let other = ["user", "password_file", "name", "kind", "url", "upstream", "scan_coins"];
            let key =
                key.filter(|key| !other.iter().any(|name| key.starts_with(&format!("{name} = "))));
            format!("{}\n", key.unwrap_or(line))
        })
        .collect();
    let given = read(&given).unwrap();
    assert_eq!(given.listen, Listen::default());
    assert_eq!(given.index, Index::default());
    assert_eq!(given.node.timeout_seconds, example.node.timeout_seconds);
    assert_eq!(given.log, Log::default());
    let role: String = EXAMPLE
        .lines()
        .skip_while(|line| *line != "# [[roles]]")
        .take_while(|line| line.starts_with("# "))
        .map(|line| format!("{}\n", &line[2..]))
        .collect();
    let upstream = "[[roles]]\nname = \"template-provider\"\nkind = \"template-provider\"\nurl = \"http://a:1\"\n";
    assert_eq!(read(&format!("{NODE}{upstream}{role}")).unwrap().roles[1].name, "pool");
}

#[test]
fn what_cannot_work_is_refused_with_its_key() {
    let role = |lines: &str| {
        format!("{NODE}[[roles]]\nname = \"a\"\nkind = \"pool\"\nurl = \"http://h:1\"\n{lines}")
    };
    for (text, wanted) in [
        (String::new(), "node"),
        (NODE.replace("cookie_file = \"cookie\"\n", ""), "node.cookie_file: required"),
        (NODE.replace("http", "ftp"), "node.url"),
        (format!("{NODE}[listen]\nmax_connections = 0"), "listen.max_connections"),
        (format!("{NODE}[listen]\naddress = \"x\""), "listen.address"),
        (format!("{NODE}[index]\nblocks = 0"), "index.blocks"),
        (format!("{NODE}[index]\ntransactions = 0"), "index.transactions"),
        (role("").replace("http://h:1", "h:1"), "roles[0].url"),
        (role("").replace("http://h:1", "http://h"), "roles[0].url"),
        (role("").replace("http://h:1", "http://h:1/x"), "roles[0].url"),
        (role("").replace("http://h:1", "http://u@h:1"), "roles[0].url"),
        (role("").replace("\"a\"", "\"a b\""), "roles[0].name"),
        (role("").replace("\"a\"", "\"<b>\""), "roles[0].name"),
        (role("").replace("\"a\"", "\"node\""), "roles[0].name"),
        (role("").replace("\"pool\"", "\"pond\""), "roles[0].kind"),
        (
            role("[[roles]]\nname = \"a\"\nkind = \"jds\"\nurl = \"http://h:2\"\n"),
            "roles[1].name: given twice",
        ),
        (role("upstream = [\"b\"]"), "roles[0].upstream: no other role is called b"),
        (role("upstream = [\"a\"]"), "roles[0].upstream"),
        (role("color = 1"), "roles[0].color"),
    ] {
        let error = read(&text).map(drop).unwrap_err();
        assert!(error.contains(wanted), "{error} for\n{text}");
    }
    assert!(read(&role("upstream = [\"node\"]")).is_ok());
    assert_eq!(read(&role("")).unwrap().roles[0].authority(), Some(("h", 1)));
}
