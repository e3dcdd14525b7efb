//! Commands, exit codes and what is said where, without a process of its own.
#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use std::{ffi::OsString, os::unix::fs::PermissionsExt, path::Path, process::ExitCode};

use adit_service::{Role, parse_config, run_cli};
use adit_sv2::keys::{AuthorityPublicKey, AuthoritySecretKey};

#[allow(dead_code)]
#[path = "../examples/role.rs"]
mod role;

use role::{Config, Greeter};

#[derive(Debug, PartialEq)]
struct Outcome {
    code: ExitCode,
    out: String,
    err: String,
}

fn cli(args: &[&str], env: &[(&str, &str)]) -> Outcome {
    let args =
        std::iter::once("anything").chain(args.iter().copied()).map(OsString::from).collect();
    let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run_cli::<Greeter>(args, env, &mut out, &mut err);
    Outcome { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

fn refusal(err: &str) -> Outcome {
    Outcome { code: ExitCode::from(2), out: String::new(), err: format!("{err}\n") }
}

/// The only line on stderr, with the folder of the file taken away.
fn check(toml: &str, env: &[(&str, &str)]) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("greeter.toml");
    std::fs::write(&file, toml).unwrap();
    let mut outcome = cli(&["check", "-c", file.to_str().unwrap()], env);
    let prefix = format!("{}/", folder.path().display());
    outcome.err = outcome.err.replace(&prefix, "");
    outcome.out = outcome.out.replace(&prefix, "");
    outcome
}

#[test]
fn a_good_configuration() {
    let good =
        Outcome { code: ExitCode::SUCCESS, out: "greeter.toml: good\n".into(), err: String::new() };
    assert_eq!(check(Greeter::EXAMPLE, &[]), good);
    assert_eq!(check("", &[("ADIT_POLITE_GREETER__GREETING__REPEATS", "10")]), good);
    let env_only = cli(&["check"], &[("ADIT_POLITE_GREETER__GREETING__REPEATS", "10")]);
    assert_eq!((env_only.code, env_only.out.as_str()), (ExitCode::SUCCESS, "environment: good\n"));
}

#[test]
fn the_example_is_the_default() {
    let printed = cli(&["init"], &[]);
    assert_eq!((printed.code, printed.out.as_str()), (ExitCode::SUCCESS, Greeter::EXAMPLE));
    assert_eq!(parse_config::<Config>(&printed.out, Path::new("")).unwrap(), Config::default());
}

#[test]
fn mistakes_in_the_file_have_line_and_key() {
    let cases = [
        (
            "[greeting]\n\nrepets = 1\n",
            "greeter.toml:3: greeting.repets: unknown key, expected one of `manner`, `words`, `repeats`, `book`",
        ),
        (
            "[greting]\n",
            "greeter.toml:1: greting: unknown key, expected one of `http`, `log`, `authority`, `greeting`, `guests`",
        ),
        (
            "[greeting]\nrepeats = \"2\"\n",
            "greeter.toml:2: greeting.repeats: expected a whole number from 0 to 65535, found text",
        ),
        (
            "greeting.repeats = 65536\n",
            "greeter.toml:1: greeting.repeats: expected a whole number from 0 to 65535, found 65536",
        ),
        (
            "greeting.repeats = 1.5\n",
            "greeter.toml:1: greeting.repeats: expected a whole number from 0 to 65535, found a number with decimals",
        ),
        (
            "[greeting]\nwords = [\n  \"a\",\n  5\n]\n",
            "greeter.toml:4: greeting.words[1]: expected text, found a whole number",
        ),
        (
            "[greeting]\nwords = \"a\"\n",
            "greeter.toml:2: greeting.words: expected a list, found text",
        ),
        ("greeting = 5\n", "greeter.toml:1: greeting: expected a table, found a whole number"),
        (
            "log.format = 2024-01-01\n",
            "greeter.toml:1: log.format: expected the name of a choice, found something else",
        ),
        (
            "[log]\nformat = \"xml\"\n",
            "greeter.toml:2: log.format: unknown value `xml`, expected one of `text`, `json`",
        ),
        (
            "[http]\nlisten = \"nowhere\"\n",
            "greeter.toml:2: http.listen: invalid socket address syntax",
        ),
        (
            "[[guests]]\nname = \"a\"\n\n[[guests]]\npassword = \"b\"\n",
            "greeter.toml:4: guests[1].name: required, but not given",
        ),
        // What reads well but is refused by the role, or by what all roles share.
        ("\n[greeting]\nrepeats = 11\n", "greeter.toml:3: greeting.repeats: expected 1 to 10"),
        (
            "[[guests]]\nname = \"a\"\n[[guests]]\nname = \"\"\n",
            "greeter.toml:4: guests[1].name: empty",
        ),
        (
            "[log]\nlevel = \"inof\"\n",
            "greeter.toml:2: log.level: `inof` is not a level: expected off, error, warn, info, debug, trace or parts like `info,adit_pool=debug`",
        ),
        (
            "[authority]\ncert_validity_hours = 0\n",
            "greeter.toml:2: authority.cert_validity_hours: expected 1 to 87600 hours",
        ),
        (
            "[authority]\ncert_validity_hours = 1\n",
            "greeter.toml:1: authority.secret_key_file: required: make a key with the command `keys --out FILE`",
        ),
        (
            "[authority]\nsecret_key_file = \"a\"\nsecret_key = \"b\"\n",
            "greeter.toml:3: authority.secret_key: given twice: also as authority.secret_key_file",
        ),
        (
            "[authority]\nsecret_key_file = \"gone\"\n",
            "greeter.toml:2: authority.secret_key_file: gone: No such file or directory (os error 2)",
        ),
        // What is no TOML at all.
        (
            "[greeting]\nrepeats = \n",
            "greeter.toml:2: greeting.repeats: string values must be quoted, expected literal string",
        ),
        (
            "[greeting]\nrepeats = 1\nrepeats = 1\n",
            "greeter.toml:3: greeting.repeats: duplicate key",
        ),
        // A line break in a key makes no second line.
        (
            "\"a\\nb\" = 1\n",
            "greeter.toml:1: a\\nb: unknown key, expected one of `http`, `log`, `authority`, `greeting`, `guests`",
        ),
    ];
    for (toml, err) in cases {
        assert_eq!(check(toml, &[]), refusal(err), "for {toml}");
    }
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    const X: &str = "ADIT_POLITE_GREETER__";
    let cases = [
        (
            "GREETING__REPETS",
            "1",
            "greeting.repets: unknown key, expected one of `manner`, `words`, `repeats`, `book`",
        ),
        (
            "GREETING__REPEATS",
            "many",
            "greeting.repeats: expected a whole number from 0 to 65535, found text",
        ),
        ("GREETING__REPEATS", "11", "greeting.repeats: expected 1 to 10"),
        ("GREETING__WORDS", "[\"a\", 5]", "greeting.words[1]: expected text, found a whole number"),
        ("GREETING__WORDS", "[a", "greeting.words: expected a list, found text"),
        (
            "GUESTS__1__NAME",
            "a",
            "guests[1].name: entry 1 of a list that has 0: entries are counted from 0",
        ),
        ("LOG__LEVEL__DEEP", "a", "log.level.deep: a single value: it has no keys below it"),
        (
            "LOG__LEVEL",
            "loud",
            "log.level: `loud` is not a level: expected off, error, warn, info, debug, trace or parts like `info,adit_pool=debug`",
        ),
        ("LOG", "5", "log: expected a table, found a whole number"),
        ("LOG__", "5", "not a key: expected ADIT_POLITE_GREETER__SECTION__KEY"),
    ];
    for (name, value, err) in cases {
        let name = format!("{X}{name}");
        let outcome = check("log.level = \"info\"\n", &[(&name, value)]);
        assert_eq!(outcome, refusal(&format!("{name}: {err}")), "for {name}={value}");
    }
    // Without file or variable there is no place to name.
    let outcome = check("", &[("ADIT_POLITE_GREETER__GUESTS__0__PASSWORD", "a")]);
    assert_eq!(outcome, refusal("greeter.toml: guests[0].name: required, but not given"));
    let outcome = cli(&["check"], &[("ADIT_POLITE_GREETER__GUESTS__0__PASSWORD", "a")]);
    assert_eq!(outcome, refusal("environment: guests[0].name: required, but not given"));
    let outcome = cli(&["run"], &[("RUST_LOG", "a=b=c")]);
    assert_eq!(outcome.code, ExitCode::from(2));
    assert!(outcome.err.starts_with("RUST_LOG: `a=b=c` is not a level"), "{outcome:?}");
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for command in ["check", "run", "healthcheck"] {
        let gone = path("gone.toml");
        let expected = format!("{gone}: cannot be read: No such file or directory (os error 2)");
        assert_eq!(cli(&[command, "-c", &gone], &[]), refusal(&expected));
    }
    let binary = path("binary.toml");
    std::fs::write(&binary, b"[log]\n\xff").unwrap();
    let expected = format!("{binary}: not a text in UTF-8 (byte 6)");
    assert_eq!(cli(&["-c", &binary], &[]), refusal(&expected));
}

#[test]
fn secrets_are_not_printed() {
    const SECRET: &str = "7777123777";
    let file = |toml: &str| check(&toml.replace("SECRET", SECRET), &[]);
    let outcomes = [
        file("[[guests]]\nname = \"a\"\npassword = SECRET\n"),
        file("[[guests]]\nname = \"a\"\npassword = [SECRET]\n"),
        file("[[guests]]\nname = \"a\"\npassword = \"SECRET\n"),
        file("[authority]\nsecret_key = \"SECRET\"\n"),
        file("[authority]\nsecret_key_file = \"x\"\nsecret_key = \"SECRET\"\n"),
        check("", &[("ADIT_POLITE_GREETER__AUTHORITY__SECRET_KEY", SECRET)]),
        check("", &[("ADIT_POLITE_GREETER__AUTHORITY__SECRET_KEY", &format!("[{SECRET}"))]),
    ];
    for outcome in outcomes {
        assert_eq!(outcome.code, ExitCode::from(2), "{outcome:?}");
        assert!(!outcome.err.contains(SECRET), "{outcome:?}");
    }
    let config: Config =
        parse_config("[[guests]]\nname = \"a\"\npassword = \"7777123777\"\n", Path::new(""))
            .unwrap();
    assert_eq!(config.guests[0].password.as_ref().unwrap().expose(), SECRET);
    assert!(!format!("{config:?}").contains(SECRET));
}

#[test]
fn keys() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authority.key");
    let generate = || cli(&["keys", "--out", file.to_str().unwrap()], &[]);

    let first = generate();
    assert_eq!((first.code, first.err.as_str()), (ExitCode::SUCCESS, ""));
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let secret: AuthoritySecretKey = written.trim_end().parse().unwrap();
    assert_eq!(first.out, format!("{}\n", secret.public()));
    assert!(!first.out.contains(written.trim_end()));

    let second = generate();
    assert_eq!((second.code, second.out.as_str()), (ExitCode::FAILURE, ""));
    let expected = format!(
        "adit-polite-greeter: {}: not written: File exists (os error 17)\n",
        file.display()
    );
    assert_eq!(second.err, expected);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), written);

    let both = cli(&["keys"], &[]).out;
    let public: AuthorityPublicKey =
        both.lines().next().unwrap().strip_prefix("public: ").unwrap().parse().unwrap();
    let other: AuthoritySecretKey =
        both.lines().nth(1).unwrap().strip_prefix("secret: ").unwrap().parse().unwrap();
    assert_eq!(other.public(), public);
    assert_ne!(other.public(), secret.public());

    // The file is what the configuration takes, by a path relative to the configuration file.
    let toml = folder.path().join("greeter.toml");
    std::fs::write(&toml, "authority.secret_key_file = \"authority.key\"\n").unwrap();
    assert_eq!(cli(&["check", "-c", toml.to_str().unwrap()], &[]).code, ExitCode::SUCCESS);
}

#[test]
fn help_version_and_usage() {
    let help = cli(&["--help"], &[]);
    assert_eq!((help.code, help.err.as_str()), (ExitCode::SUCCESS, ""));
    for part in [
        "Greets nobody, politely",
        "adit-polite-greeter -c polite-greeter.toml",
        "ADIT_POLITE_GREETER__HTTP__LISTEN",
        "bow",
    ] {
        assert!(help.out.contains(part), "{part} in {}", help.out);
    }
    assert!(help.out.contains("Usage: adit-polite-greeter [OPTIONS]"), "{}", help.out);
    let version = cli(&["--version"], &[]);
    assert_eq!(
        (version.code, version.out.as_str()),
        (ExitCode::SUCCESS, concat!("adit-polite-greeter ", env!("CARGO_PKG_VERSION"), "\n"))
    );
    for args in [&["dance"][..], &["--secret=a"], &["run", "--out", "a"], &["-c"]] {
        let wrong = cli(args, &[]);
        assert_eq!((wrong.code, wrong.out.as_str()), (ExitCode::from(2), ""), "{args:?}");
        assert!(wrong.err.starts_with("error: "), "{wrong:?}");
    }
}

#[test]
fn commands_of_the_role() {
    assert_eq!(cli(&["bow", "7"], &[]).code, ExitCode::from(7));
    let failed = cli(&["bow", "low"], &[]);
    assert_eq!(failed.code, ExitCode::FAILURE);
    assert_eq!(failed.err, "adit-polite-greeter: depth low: invalid digit found in string\n");
}

#[test]
fn healthcheck_without_anybody_to_ask() {
    let none = cli(&["healthcheck"], &[]);
    assert_eq!((none.code, none.out.as_str()), (ExitCode::FAILURE, ""));
    assert_eq!(none.err, "adit-polite-greeter: http.listen is not set: nothing to ask\n");
    let any = cli(&["healthcheck"], &[("ADIT_POLITE_GREETER__HTTP__LISTEN", "127.0.0.1:0")]);
    assert_eq!(
        any.err,
        "adit-polite-greeter: http.listen takes any free port: give the right one with --url\n"
    );
    // Bound and not listening: nobody answers, and nobody else gets the port.
    let away = tokio::net::TcpSocket::new_v4().unwrap();
    away.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = away.local_addr().unwrap();
    let refused =
        cli(&["healthcheck"], &[("ADIT_POLITE_GREETER__HTTP__LISTEN", &addr.to_string())]);
    assert_eq!(refused.code, ExitCode::FAILURE);
    assert!(
        refused
            .err
            .starts_with(&format!("adit-polite-greeter: http://{addr}/readyz: Connection refused")),
        "{refused:?}"
    );
    for url in ["ftp://127.0.0.1", "http://127.0.0.1:1/a b", "http://"] {
        assert_eq!(cli(&["healthcheck", "--url", url], &[]).code, ExitCode::FAILURE);
    }
}
