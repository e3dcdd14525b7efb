use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use serde::Deserialize;

use super::*;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    name: String,
    count: i64,
    big: u64,
    ratio: f64,
    on: bool,
    list: Vec<String>,
    maybe: Option<u8>,
    nodes: Vec<Node>,
    table: std::collections::BTreeMap<String, String>,
    choice: Choice,
    file: Option<ConfigPath>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    url: String,
    #[serde(default)]
    weight: u8,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Choice {
    #[default]
    Plain,
    Size(u8),
    Named {
        id: u8,
    },
}

fn vars(env: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    env.iter().map(|(name, value)| (format!("X__{name}").into(), value.into())).collect()
}

fn read(toml: &str, env: &[(&str, &str)]) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    std::fs::write(&file, toml).unwrap();
    match load(Some(&file), &vars(env), "X__") {
        Ok((config, _)) => Ok(config),
        Err(e) => Err(e.to_string().replace(&format!("{}/", folder.path().display()), "")),
    }
}

#[test]
fn every_kind_of_value() {
    let toml = r#"
        name = "a"
        count = -9_000_000_000
        big = 0xffff_ffff_ffff_ffff
        ratio = 1
        on = true
        list = ["a", 'b']
        maybe = 3
        table = { a = "1", b.c = "2" }
    "#;
    let error = read(toml, &[]).unwrap_err();
    assert_eq!(error, "x.toml:9: table.b: expected text, found a table");

    let toml =
        toml.replace("b.c", "b") + "[choice.named]\nid = 4\n[[nodes]]\nurl = \"u\"\nweight = 2\n";
    let expected = Config {
        name: "a".into(),
        count: -9_000_000_000,
        big: u64::MAX,
        ratio: 1.0,
        on: true,
        list: vec!["a".into(), "b".into()],
        maybe: Some(3),
        nodes: vec![Node { url: "u".into(), weight: 2 }],
        table: [("a", "1"), ("b", "2")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        choice: Choice::Named { id: 4 },
        file: None,
    };
    assert_eq!(read(&toml, &[]).unwrap(), expected);

    // The same, said by the environment alone; text needs no quotes and may have them.
    let env = [
        ("NAME", "a"),
        ("COUNT", "-9_000_000_000"),
        ("BIG", "0xffff_ffff_ffff_ffff"),
        ("RATIO", "1.0"),
        ("ON", " true "),
        ("LIST", r#"["a", "b"]"#),
        ("MAYBE", "3"),
        ("TABLE__A", "1"),
        ("TABLE__B", r#""2""#),
        ("CHOICE", "{ named = { id = 4 } }"),
        ("NODES__0__URL", "u"),
        ("NODES__0__WEIGHT", "2"),
    ];
    let (config, _) = load::<Config>(None, &vars(&env), "X__").unwrap();
    assert_eq!(config, expected);
    assert_eq!(read("name = \"b\"\ncount = 1\nlist = []\n", &env).unwrap(), expected);
}

#[test]
fn the_environment_overlays() {
    let toml = "[[nodes]]\nurl = \"a\"\nweight = 1\n[[nodes]]\nurl = \"b\"\n";
    let node = |url: &str, weight| Node { url: url.into(), weight };
    let nodes = |env: &[(&str, &str)]| read(toml, env).map(|config| config.nodes);

    assert_eq!(nodes(&[("NODES__1__URL", "c")]).unwrap(), [node("a", 1), node("c", 0)]);
    assert_eq!(
        nodes(&[("NODES__2__URL", "c")]).unwrap(),
        [node("a", 1), node("b", 0), node("c", 0)]
    );
    assert_eq!(nodes(&[("NODES", "[{ url = \"c\" }]")]).unwrap(), [node("c", 0)]);
    // A whole list first, then a part of it, however the environment is ordered.
    let both = [("NODES__0__WEIGHT", "7"), ("NODES", "[{ url = \"c\" }]")];
    assert_eq!(nodes(&both).unwrap(), [node("c", 7)]);
    assert_eq!(
        nodes(&[("NODES__3__URL", "c")]).unwrap_err(),
        "X__NODES__3__URL: nodes[3].url: entry 3 of a list that has 2: entries are counted from 0"
    );
    assert_eq!(
        nodes(&[("NODES__FIRST", "c")]).unwrap_err(),
        "X__NODES__FIRST: nodes.first: a list: expected the number of an entry, not `first`"
    );
    // More than ten entries stay in order.
    let env: Vec<(String, String)> =
        (0..12).map(|i| (format!("LIST__{i}"), i.to_string())).collect();
    let env: Vec<(&str, &str)> =
        env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(read("", &env).unwrap().list.last().unwrap(), "11");
    // Set but empty is not set; an empty text is a pair of quotes.
    assert_eq!(read("name = \"a\"\n", &[("NAME", "")]).unwrap().name, "a");
    assert_eq!(read("name = \"a\"\n", &[("NAME", "\"\"")]).unwrap().name, "");
    // What looks like another type is text where text is wanted, and stays as it is.
    for text in ["5", "true", "[a]", " padded ", "\"half", "2024-01-01"] {
        assert_eq!(read("", &[("NAME", text)]).unwrap().name, text);
    }
    assert_eq!(read("", &[("CHOICE", "plain")]).unwrap().choice, Choice::Plain);
    assert_eq!(read("[choice]\nsize = 3\n", &[]).unwrap().choice, Choice::Size(3));
}

#[test]
fn variables_of_others_do_not_matter() {
    let env = [("PATH", "a"), ("X_", "b"), ("X", "c"), ("XX__NAME", "d")];
    let env: Vec<(OsString, OsString)> =
        env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    assert_eq!(load::<Config>(None, &env, "X__").unwrap().0, Config::default());
}

#[test]
fn a_variable_that_is_no_text() {
    let env = [("X__NAME".into(), OsStr::from_bytes(b"\xff").to_owned())];
    let error = load::<Config>(None, &env, "X__").err().unwrap();
    assert_eq!(error.to_string(), "X__NAME: not a text in UTF-8");
}

#[test]
fn paths_are_relative_to_where_they_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    let path = |text: &str, env: &[(&str, &str)]| {
        std::fs::write(&file, text).unwrap();
        load::<Config>(Some(&file), &vars(env), "X__").unwrap().0.file.unwrap().to_path_buf()
    };
    assert_eq!(path("file = \"a/b\"\n", &[]), folder.path().join("a/b"));
    assert_eq!(path("file = \"/a/b\"\n", &[]), Path::new("/a/b"));
    assert_eq!(path("file = \"a/b\"\n", &[("FILE", "c/d")]), Path::new("c/d"));

    // A default is meant as if it stood in the file, also in a table that is not there.
    #[derive(Deserialize)]
    #[serde(default)]
    struct Inner {
        path: ConfigPath,
    }
    impl Default for Inner {
        fn default() -> Self {
            Self { path: ConfigPath::by_default("data") }
        }
    }
    #[derive(Deserialize)]
    struct Outer {
        #[serde(default)]
        inner: Inner,
    }
    let inner = |text: &str, env: &[(&str, &str)]| {
        std::fs::write(&file, text).unwrap();
        load::<Outer>(Some(&file), &vars(env), "X__").unwrap().0.inner.path.to_path_buf()
    };
    for text in ["", "[inner]\n", "inner.path = \"data\"\n"] {
        assert_eq!(inner(text, &[]), folder.path().join("data"), "{text}");
    }
    assert_eq!(inner("", &[("INNER__PATH", "data")]), Path::new("data"));
    let (alone, _) = load::<Outer>(None, &[], "X__").unwrap();
    assert_eq!(*alone.inner.path, *Path::new("data"), "without a file, the working folder");
    assert_eq!(*Inner::default().path, *Path::new("data"));
    assert!(parse_config::<Outer>("inner = 5", Path::new("/etc/adit")).is_err());
    assert_eq!(*Inner::default().path, *Path::new("data"), "nothing is left behind");

    // Any newtype of that name is one, for crates that do not know this one.
    mod elsewhere {
        #[derive(serde::Deserialize)]
        pub(super) struct ConfigPath(pub(super) std::path::PathBuf);
    }
    #[derive(Deserialize)]
    struct Other {
        file: elsewhere::ConfigPath,
    }
    let other: Other = parse_config("file = \"a\"\n", Path::new("/etc/adit")).unwrap();
    assert_eq!(other.file.0, Path::new("/etc/adit/a"));
}

#[test]
fn places_of_keys() {
    let toml = "name = \"a\"\n[table]\na = \"1\"\n7 = \"2\"\n[[nodes]]\nurl = \"u\"\n";
    let tree = tree::Node::parse(toml).map_err(|e| e.message).unwrap();
    let origins = Origins { tree, file: Some("x.toml".into()) };
    let place = |key: &str| origins.locate(&ConfigError::new(key, "wrong")).to_string();
    assert_eq!(place("table.a"), "x.toml:3: table.a: wrong");
    assert_eq!(place("table.b"), "x.toml:2: table.b: wrong");
    assert_eq!(place("nodes[0].url"), "x.toml:6: nodes[0].url: wrong");
    assert_eq!(place("nodes.0.url"), "x.toml:6: nodes.0.url: wrong");
    assert_eq!(place("nodes[0].weight"), "x.toml:5: nodes[0].weight: wrong");
    assert_eq!(place("table.7"), "x.toml:4: table.7: wrong");
    assert_eq!(place("count"), "x.toml: count: wrong");
}

#[test]
fn secrets_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let read = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        Secret::read("a.b", None, Some(&path)).map(|secret| secret.unwrap().expose().to_owned())
    };
    assert_eq!(read(b"open sesame \r\n").unwrap(), "open sesame ");
    assert_eq!(read(b"\n").unwrap_err().to_string(), "a.b_file: empty");
    assert!(read(&[b'a'; 100_000]).unwrap_err().message.ends_with("too large for a secret"));
    assert_eq!(read(b"\xff").unwrap_err().key, "a.b_file");
    assert_eq!(Secret::read("a.b", None, None), Ok(None));
    let given = Secret::new("x");
    assert_eq!(Secret::read("a.b", Some(&given), None), Ok(Some(given.clone())));
    assert_eq!(Secret::read("a.b", Some(&given), Some(&path)).unwrap_err().key, "a.b");
}
