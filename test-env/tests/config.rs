//! What the programs make of their command lines and configurations: one line with the place and exit code 2 for what
//! is wrong, and commands that a newcomer can follow.

#![allow(clippy::unwrap_used)] // a test's helpers may panic as the test itself may

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use adit_sv2::keys::{AuthorityPublicKey, AuthoritySecretKey};
use adit_test_env::bitcoind::Chain;
use adit_test_env::harness::{payout_address, program};
use tempfile::TempDir;

/// A server role and how it is configured.
struct Server {
    name: &'static str,
    /// Nothing is wrong with it; the section `[http]` comes last.
    good: String,
    /// A line of `good` that must be there, and its key.
    required: (&'static str, &'static str),
    /// A line of `good` with a number above 0, and its key.
    number: (&'static str, &'static str),
}

fn servers() -> [Server; 3] {
    let authority = "[authority]\nsecret_key_file = \"authority.key\"\n";
    let provider = format!(
        "network = \"regtest\"\n[[node]]\nurl = \"http://127.0.0.1:18443\"\ncookie_file = \"cookie\"\n\
         {authority}[templates]\nfee_interval_seconds = 5\n[http]\nlisten = \"127.0.0.1:0\"\n"
    );
    let pool = format!(
        "network = \"regtest\"\n[coinbase]\noutput = \"{}\"\n[[template_provider]]\naddress = \"127.0.0.1:8442\"\n\
         {authority}[shares]\nack_batch = 5\n[http]\nlisten = \"127.0.0.1:0\"\n",
        payout_address(Chain::Regtest)
    );
    let translator = "[[upstream]]\nurl = \"stratum2+tcp://127.0.0.1:34254\"\n[miners]\nextranonce2_size = 8\n\
         [http]\nlisten = \"127.0.0.1:0\"\n";
    [
        Server {
            name: "template-provider",
            good: provider,
            required: ("network = \"regtest\"", "network"),
            number: ("fee_interval_seconds = 5", "templates.fee_interval_seconds"),
        },
        Server {
            name: "pool",
            good: pool,
            required: ("address = \"127.0.0.1:8442\"", "template_provider[0].address"),
            number: ("ack_batch = 5", "shares.ack_batch"),
        },
        Server {
            name: "translator",
            good: translator.to_owned(),
            required: ("url = \"stratum2+tcp://127.0.0.1:34254\"", "upstream[0].url"),
            number: ("extranonce2_size = 8", "miners.extranonce2_size"),
        },
    ]
}

/// A folder with an authority key, in which programs run.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let made = folder.run("pool", &["keys", "--out", "authority.key"], &[]);
        assert_eq!(made.status.code(), Some(0), "{made:?}");
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, name: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
        let mut command = Command::new(program(name).unwrap());
        command.args(args).current_dir(self.path()).envs(env.iter().copied());
        command.env_remove("RUST_LOG").output().unwrap()
    }

    /// `check`, and `run` where that refuses.
    fn check(&self, server: &Server, text: &str, env: &[(&str, &str)]) -> Result<(), String> {
        fs::write(self.path().join("x.toml"), text).unwrap();
        let checked = self.run(server.name, &["check", "-c", "x.toml"], env);
        if checked.status.code() == Some(0) {
            assert_eq!(String::from_utf8(checked.stdout).unwrap(), "x.toml: good\n");
            assert!(checked.stderr.is_empty());
            return Ok(());
        }
        let ran = self.run(server.name, &["run", "-c", "x.toml"], env);
        assert_eq!((ran.status, &ran.stderr), (checked.status, &checked.stderr));
        assert!(checked.stdout.is_empty() && ran.stdout.is_empty());
        Err(one_line(&checked))
    }
}

/// The one line that a refused configuration is answered with.
fn one_line(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    let line = text.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "one line: {text}");
    line.to_owned()
}

/// The number of the line in `text` that has `part`.
fn line_of(text: &str, part: &str) -> usize {
    1 + text.lines().position(|line| line.contains(part)).unwrap()
}

#[test]
fn wrong_keys_are_named_with_file_and_line() {
    let folder = Folder::new();
    for server in &servers() {
        let good = &server.good;
        assert_eq!(folder.check(server, good, &[]), Ok(()), "{}", server.name);
        let refused = |text: &str, at: usize, key: &str| {
            let line = folder.check(server, text, &[]).unwrap_err();
            let place = format!("x.toml:{at}: {key}: ");
            assert!(line.starts_with(&place) && line.len() > place.len(), "{line}, not {place}");
        };

        // An unknown key, in a section and at the top; an unknown section.
        let end = line_of(good, "[http]");
        refused(&format!("{good}listem = \"127.0.0.1:1\"\n"), end + 2, "http.listem");
        refused(&format!("netwrok = \"regtest\"\n{good}"), 1, "netwrok");
        refused(&format!("{good}[shraes]\nper_minute = 6\n"), end + 2, "shraes");

        // A wrong type, a value out of range, no TOML at all.
        let (number, key) = server.number;
        let at = line_of(good, number);
        let name = key.rsplit('.').next().unwrap();
        for wrong in ["\"many\"", "0", "-1", "[1]", "1.5", "{}", "=", "\"never ended"] {
            refused(&good.replace(number, &format!("{name} = {wrong}")), at, key);
        }

        // A required key that is missing: nothing has its line, so it is its table's or none.
        let (required, key) = server.required;
        let line = folder.check(server, &good.replace(required, ""), &[]).unwrap_err();
        let top = format!("x.toml: {key}: ");
        let table = format!("x.toml:{}: {key}: ", line_of(good, required) - 1);
        let top = if key.contains('.') { table } else { top };
        assert!(line.starts_with(&top) && line.contains("required"), "{line}, not {top}");
    }
}

#[test]
fn wrong_values_are_named_with_file_and_line() {
    let folder = Folder::new();
    let [provider, pool, translator] = servers();
    let refused = |server: &Server, from: &str, to: &str, key: &str, why: &str| {
        assert!(server.good.contains(from));
        let text = server.good.replace(from, to);
        let line = folder.check(server, &text, &[]).unwrap_err();
        let place = format!("x.toml:{}: {key}: ", line_of(&text, to));
        assert!(line.starts_with(&place) && line.contains(why), "{line}, not {place}{why}");
    };

    // Money that would go to another chain.
    let regtest = payout_address(Chain::Regtest);
    let mainnet = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4";
    refused(&pool, &regtest, mainnet, "coinbase.output", "network");
    refused(&pool, &regtest, "bcrt1qnoaddress", "coinbase.output", "");
    refused(&pool, "127.0.0.1:8442", "127.0.0.1", "template_provider[0].address", "port");

    // Secret keys that are not there, not readable, no keys. Root reads whatever it likes, but no folder.
    fs::write(folder.path().join("no-key"), "nonsense\n").unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    for server in [&provider, &pool] {
        for (file, why) in
            [("missing", "missing"), ("folder", "folder"), ("no-key", "not an authority")]
        {
            refused(server, "authority.key", file, "authority.secret_key_file", why);
        }
    }

    refused(&provider, "http://127", "ftp://127", "node[0].url", "");
    refused(&translator, "stratum2+tcp", "stratum+tcp", "upstream[0].url", "");

    // Neither a file nor a network.
    for server in [&provider, &pool, &translator] {
        let line = one_line(&folder.run(server.name, &["check", "-c", "nowhere.toml"], &[]));
        assert!(line.starts_with("nowhere.toml: cannot be read: "), "{line}");
    }
    for server in [&provider, &pool] {
        refused(server, "network = \"regtest\"", "network = \"moon\"", "network", "moon");
    }
}

#[test]
fn the_environment_overlays_the_file() {
    let folder = Folder::new();
    let [_, pool, _] = servers();
    let check =
        |value| folder.check(&pool, &pool.good, &[("ADIT_POOL__SHARES__PER_MINUTE", value)]);
    assert_eq!(check("12.5"), Ok(()));
    let place = "ADIT_POOL__SHARES__PER_MINUTE: shares.per_minute: ";
    for wrong in ["many", "0", "NaN", "601", "-6"] {
        let line = check(wrong).unwrap_err();
        assert!(line.starts_with(place), "{line}");
    }
    let misspelt = [("ADIT_POOL__SHARES__PER_MINUT", "6")];
    let line = folder.check(&pool, &pool.good, &misspelt).unwrap_err();
    assert!(line.starts_with("ADIT_POOL__SHARES__PER_MINUT: shares.per_minut: "), "{line}");

    // A variable goes before the file, and all of them together do without one.
    let wrong = pool.good.replace("ack_batch = 5", "ack_batch = 0");
    assert!(folder.check(&pool, &wrong, &[]).is_err());
    assert_eq!(folder.check(&pool, &wrong, &[("ADIT_POOL__SHARES__ACK_BATCH", "7")]), Ok(()));
    for server in servers() {
        let prefix = format!("ADIT_{}__", server.name.replace('-', "_").to_uppercase());
        let mut section = String::new();
        let mut env = Vec::new();
        for line in server.good.lines() {
            if let Some(table) = line.strip_prefix("[[") {
                section = format!("{}__0__", table.trim_end_matches(']'));
            } else if let Some(table) = line.strip_prefix('[') {
                section = format!("{}__", table.trim_end_matches(']'));
            } else {
                let (key, value) = line.split_once(" = ").unwrap();
                env.push((format!("{prefix}{section}{key}"), value.trim_matches('"').to_owned()));
            }
        }
        let upper: Vec<_> = env.iter().map(|(k, v)| (k.to_uppercase(), v.as_str())).collect();
        let env: Vec<_> = upper.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        let checked = folder.run(server.name, &["check"], &env);
        let said = String::from_utf8(checked.stdout).unwrap();
        assert_eq!(said, "environment: good\n", "{env:?} {:?}", checked.stderr);
    }
}

/// What a newcomer does: `init`, `keys`, fill in what is asked for, `check`.
#[test]
fn init_prints_what_check_accepts() {
    let folder = Folder::new();
    let missing = [
        ("template-provider", vec!["authority.secret_key_file"]),
        ("pool", vec!["authority.secret_key_file", "coinbase.output"]),
        ("translator", vec![]),
    ];
    for (name, mut missing) in missing {
        let printed = folder.run(name, &["init"], &[]);
        assert!(printed.status.success() && printed.stderr.is_empty());
        let mut text = String::from_utf8(printed.stdout).unwrap();
        let server = Server { name, good: String::new(), required: ("", ""), number: ("", "") };
        while let Err(line) = folder.check(&server, &text, &[]) {
            let at = missing.iter().position(|key| line.contains(&format!(" {key}: ")));
            let key = missing.remove(at.unwrap_or_else(|| panic!("{name}: {line}")));
            if key == "coinbase.output" {
                let address = "output = \"bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4\"";
                text = text.replace("output = \"\"", address);
                continue;
            }
            let file = format!("{name}.key");
            let made = folder.run(name, &["keys", "--out", &file], &[]);
            assert!(made.status.success(), "{made:?}");
            text = text.replace("# secret_key_file", "secret_key_file");
        }
        assert!(missing.is_empty(), "{name} did not ask for {missing:?}");
    }
}

#[test]
fn keys_are_for_their_owner_and_never_overwritten() {
    let folder = Folder::new();
    for server in servers() {
        let file = format!("{}.key", server.name);
        let made = folder.run(server.name, &["keys", "--out", &file], &[]);
        assert_eq!(made.status.code(), Some(0));
        assert!(made.stderr.is_empty());
        let path = folder.path().join(&file);
        let secret = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let public: AuthorityPublicKey =
            String::from_utf8(made.stdout).unwrap().trim().parse().unwrap();
        assert_eq!(secret.trim().parse::<AuthoritySecretKey>().unwrap().public(), public);

        let again = folder.run(server.name, &["keys", "--out", &file], &[]);
        assert!(!again.status.success() && again.stdout.is_empty());
        let said = String::from_utf8(again.stderr).unwrap();
        assert!(said.contains(&file) && said.lines().count() == 1, "{said}");
        assert_eq!(fs::read_to_string(&path).unwrap(), secret);

        let shown = String::from_utf8(folder.run(server.name, &["keys"], &[]).stdout).unwrap();
        let value = |name| shown.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let public: AuthorityPublicKey = value("public: ").parse().unwrap();
        assert_eq!(value("secret: ").parse::<AuthoritySecretKey>().unwrap().public(), public);
    }
}

#[test]
fn help_has_examples() {
    let folder = Folder::new();
    for name in ["template-provider", "pool", "translator", "mining-device", "lab"] {
        let helped = folder.run(name, &["--help"], &[]);
        assert_eq!(helped.status.code(), Some(0), "{name}");
        assert!(helped.stderr.is_empty());
        let text = String::from_utf8(helped.stdout).unwrap();
        assert!(text.contains("Usage: ") && text.contains("Examples:\n"), "{name}: {text}");

        let wrong = folder.run(name, &["--no-such-flag"], &[]);
        assert_eq!(wrong.status.code(), Some(2), "{name}");
        assert!(wrong.stdout.is_empty() && !wrong.stderr.is_empty());
    }
    for server in servers() {
        for command in ["run", "check", "init", "keys", "healthcheck"] {
            let helped = folder.run(server.name, &[command, "--help"], &[]);
            assert_eq!(helped.status.code(), Some(0), "{} {command}", server.name);
            assert!(!helped.stdout.is_empty() && helped.stderr.is_empty());
        }
    }
}
