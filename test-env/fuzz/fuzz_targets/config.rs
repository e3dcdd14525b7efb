//! The configuration of every role, as an operator may write it in a file or in the environment: read and checked, or
//! refused in one line about the key at fault.
#![no_main]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::LazyLock;

use adit_explorer::Explorer;
use adit_jdc::Jdc;
use adit_jds::JdsRole;
use adit_pool::Pool;
use adit_service::{Role, parse_config, run_cli};
use adit_sv2::keys::AuthoritySecretKey;
use adit_template_provider::TemplateProviderRole;
use adit_translator::TranslatorRole;
use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;

/// Names of files are taken from here, where nothing is.
const FOLDER: &str = "/nonexistent/adit-fuzz";

/// A line of a role's example.
#[derive(Clone, Debug)]
enum Line {
    /// Without it its keys are not written either.
    Table {
        name: String,
        live: bool,
    },
    Entry {
        key: String,
        value: String,
        live: bool,
    },
}

/// Each role's example, complete as far as it must be.
static EXAMPLES: LazyLock<Vec<Vec<Line>>> = LazyLock::new(|| {
    let all = [
        Pool::EXAMPLE,
        TranslatorRole::EXAMPLE,
        JdsRole::EXAMPLE,
        Jdc::EXAMPLE,
        TemplateProviderRole::EXAMPLE,
        Explorer::EXAMPLE,
    ];
    let all: Vec<Vec<Line>> = all.iter().map(|text| lines(text)).collect();
    for (role, lines) in all.iter().enumerate() {
        let text = write(lines);
        let good = check(role, &text);
        assert_eq!(good, Ok(()), "role {role}: the example is no good start:\n{text}");
        let good = check_variables(role, &variables(lines));
        assert_eq!(good, Ok(()), "role {role}: nor is it in the environment");
    }
    all
});

/// What may be done to a line.
#[derive(Arbitrary, Debug)]
struct Edit<'a> {
    line: u8,
    to: To<'a>,
}

#[derive(Arbitrary, Debug)]
enum To<'a> {
    /// Comments out what is live, and the other way round.
    Toggle,
    /// Another of the values in the examples.
    Other(u8),
    Value(Value<'a>),
    /// Something else behind the equals sign.
    Raw(&'a str),
    /// The line twice.
    Again,
    /// The line's place is another's.
    Swap(u8),
    /// A dotted key.
    Below(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Value<'a> {
    Integer(i64),
    Float(f64),
    Small(u8),
    /// A text that has once been trouble somewhere.
    Odd(u8),
    Text(&'a str),
    Boolean(bool),
    List(Vec<Value<'a>>),
    Table(Vec<(&'a str, Value<'a>)>),
}

const ODD: [&str; 30] = [
    "",
    " ",
    ":",
    ":0",
    "[::1]:8442",
    "[::1",
    "127.0.0.1",
    "127.0.0.1:65536",
    "host:1:2",
    "http://",
    "http://h:0/",
    "https://[::1]:8332/x?y#z",
    "stratum2+tcp://h:1/",
    "stratum2+tcp://h:1/9bXiEd8boQVhq7WddEcERUL5tyyJVFYdU8th3HfbNXK3Yw6GRXh",
    "9bXiEd8boQVhq7WddEcERUL5tyyJVFYdU8th3HfbNXK3Yw6GRXh",
    "raw()",
    "raw(51)",
    "addr(bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4)",
    "tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx",
    "wpkh(xpub661MyMwAqRbcFtXgS5sYJABqqG9YLmC4Q1Rdap9gSE8NqtwybGhePY2gZ29ESFjqJoCu1Rupje8YtGqsefD265TMg7usUDFdp6W1EGMcet8/*)",
    "tr(xprv9s21ZrQH143K3QTDL4LXw2F7HEK3wJUD2nW2nRk4stbPy6cq3jPPqjiChkVvvNKmPGJxWUtg6LnF5kejMRNNU3TGtRBeJgk33yuGBxrMPHi/0)",
    "1fffe000",
    "ffffffff0",
    "10.0.0.0/8",
    "::/129",
    "$argon2id$v=19$m=19456,t=2,p=1$",
    "{user}{worker}{account}{ip}",
    "{",
    "\u{1f600}\u{202e}\u{7f}\n\0",
    "../../x",
];

fuzz_target!(|data: &[u8]| {
    let Some((role, rest)) = data.split_first() else { return };
    let (raw, environment) = (role & 0x80 != 0, role & 0x40 != 0);
    let role = usize::from(role & 7) % EXAMPLES.len();
    if raw {
        if let Ok(text) = std::str::from_utf8(rest) {
            drop(check(role, text));
        }
        return;
    }
    let mut lines = EXAMPLES[role].clone();
    let mut input = Unstructured::new(rest);
    while !input.is_empty() {
        let Ok(edit) = Edit::arbitrary(&mut input) else { break };
        apply(&mut lines, role, &edit);
    }
    drop(match environment {
        true => check_variables(role, &variables(&lines)),
        false => check(role, &write(&lines)),
    });
});

fn apply(lines: &mut Vec<Line>, role: usize, edit: &Edit<'_>) {
    let at = usize::from(edit.line) % lines.len();
    match (&edit.to, &mut lines[at]) {
        (To::Again, line) if lines_are_few(at) => {
            let line = line.clone();
            lines.insert(at, line);
        }
        (To::Swap(other), _) => {
            let other = usize::from(*other) % lines.len();
            lines.swap(at, other);
        }
        (To::Toggle, Line::Entry { live, .. } | Line::Table { live, .. }) => *live = !*live,
        (To::Other(which), Line::Entry { value, live, .. }) => {
            let others = EXAMPLES[role].iter().filter_map(|line| match line {
                Line::Entry { value, .. } => Some(value),
                Line::Table { .. } => None,
            });
            let count = others.clone().count();
            let other = others.clone().nth(usize::from(*which) % count).expect("one of so many");
            (*value, *live) = (other.clone(), true);
        }
        (To::Value(new), Line::Entry { value, live, .. }) => {
            (*value, *live) = (toml(new, 0), true);
        }
        (To::Raw(raw), Line::Entry { value, live, .. }) => {
            (*value, *live) = ((*raw).to_owned(), true);
        }
        (To::Below(name), Line::Entry { key, live, .. }) => {
            key.push('.');
            key.push_str(name);
            *live = true;
        }
        (To::Raw(raw), Line::Table { name, live }) => (*name, *live) = ((*raw).to_owned(), true),
        _ => {}
    }
}

/// A bound on how much one input can make of an example.
fn lines_are_few(at: usize) -> bool {
    at < 250
}

fn toml(value: &Value<'_>, depth: usize) -> String {
    let list = |values: Vec<String>| values.join(", ");
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Float(number) if number.is_nan() => "nan".to_owned(),
        Value::Float(number) if number.is_infinite() => {
            if *number > 0.0 { "inf" } else { "-inf" }.to_owned()
        }
        Value::Float(number) => format!("{number:?}"),
        Value::Small(number) => number.to_string(),
        Value::Odd(which) => text(ODD[usize::from(*which) % ODD.len()]),
        Value::Text(own) => text(own),
        Value::Boolean(own) => own.to_string(),
        Value::List(_) | Value::Table(_) if depth > 20 => "[]".to_owned(),
        Value::List(values) => {
            format!("[{}]", list(values.iter().map(|v| toml(v, depth + 1)).collect()))
        }
        Value::Table(entries) => {
            let entry =
                |(key, v): &(&str, Value<'_>)| format!("{} = {}", text(key), toml(v, depth + 1));
            format!("{{ {} }}", list(entries.iter().map(entry).collect()))
        }
    }
}

/// A basic string.
fn text(value: &str) -> String {
    let mut quoted = String::from('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Tables and keys of an example, with what it leaves open filled in.
fn lines(example: &str) -> Vec<Line> {
    let (mut lines, mut commented) = (Vec::new(), false);
    for line in example.lines() {
        let plain = line.strip_prefix("# ").unwrap_or(line);
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if plain.starts_with('[') && plain.ends_with(']') {
            commented = plain != line;
            lines.push(Line::Table { name: plain.to_owned(), live: !commented });
        } else if let Some((key, value)) = plain.split_once(" = ")
            && key.chars().all(word)
        {
            // Of a table that is commented out everything is.
            let live = plain == line || commented;
            let value = match (key, live) {
                ("output", true) => text("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"),
                _ => value.split("   ").next().expect("a part").to_owned(),
            };
            if key == "secret_key_file" {
                let secret = AuthoritySecretKey::from_entropy([1; 32]).expect("a secret key");
                let value = text(&secret.to_text());
                lines.push(Line::Entry { key: "secret_key".to_owned(), value, live: true });
                lines.push(Line::Entry { key: key.to_owned(), value: text("x.key"), live: false });
            } else {
                lines.push(Line::Entry { key: key.to_owned(), value, live });
            }
        }
    }
    lines
}

fn write(lines: &[Line]) -> String {
    let (mut text, mut shown) = (String::new(), true);
    for line in lines {
        if let Line::Table { live, .. } = line {
            shown = *live;
        }
        match line {
            Line::Table { name, live: true } => text.push_str(name),
            Line::Table { .. } | Line::Entry { live: false, .. } => continue,
            Line::Entry { .. } if !shown => continue,
            Line::Entry { key, value, .. } => text.extend([key, " = ", value]),
        }
        text.push('\n');
    }
    text
}

/// The same as variables, without the role's prefix: `NODE__0__URL`.
fn variables(lines: &[Line]) -> Vec<(String, String)> {
    let (mut table, mut shown, mut counts) = (String::new(), true, BTreeMap::new());
    let mut variables = Vec::new();
    for line in lines {
        match line {
            Line::Table { live: false, .. } => shown = false,
            Line::Table { name, live: true } => {
                let plain = name.trim_matches(['[', ']']);
                table = format!("{plain}.");
                if name.starts_with("[[") {
                    let count: &mut usize = counts.entry(plain.to_owned()).or_default();
                    table.push_str(&format!("{count}."));
                    *count += 1;
                }
                shown = true;
            }
            Line::Entry { key, value, live: true } if shown => {
                let name = format!("{table}{key}").to_uppercase().replace('.', "__");
                variables.push((name, value.clone()));
            }
            Line::Entry { .. } => {}
        }
    }
    variables
}

/// Whether files of this machine are named: there is nothing to read in them, and some have no end.
fn names_files(text: &str) -> bool {
    ["/dev", "/proc", "/sys"].iter().any(|folder| text.contains(folder))
}

fn check_variables(role: usize, variables: &[(String, String)]) -> Result<(), String> {
    if variables.iter().any(|(_, value)| names_files(value)) {
        return Err("not for a fuzzer".to_owned());
    }
    match role {
        0 => check_variables_of::<Pool>(variables),
        1 => check_variables_of::<TranslatorRole>(variables),
        2 => check_variables_of::<JdsRole>(variables),
        3 => check_variables_of::<Jdc>(variables),
        4 => check_variables_of::<TemplateProviderRole>(variables),
        _ => check_variables_of::<Explorer>(variables),
    }
}

fn check_variables_of<R: Role>(variables: &[(String, String)]) -> Result<(), String> {
    let prefix = format!("adit_{}__", R::NAME.replace('-', "_")).to_uppercase();
    let env = variables.iter().map(|(name, value)| {
        (OsString::from(format!("{prefix}{name}")), OsString::from(value.as_str()))
    });
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = vec![OsString::from(R::NAME), OsString::from("check")];
    let code = run_cli::<R>(args, env.collect(), &mut out, &mut err);
    let said = String::from_utf8(err).expect("text");
    if code == ExitCode::SUCCESS {
        assert_eq!((&*String::from_utf8_lossy(&out), &*said), ("environment: good\n", ""));
        return Ok(());
    }
    assert_eq!(code, ExitCode::from(2), "{said:?}");
    assert!(said.ends_with('\n') && said.trim_end_matches('\n').len() + 1 == said.len());
    assert!(!said.trim_end_matches('\n').contains(char::is_control), "{said:?}");
    assert!(out.is_empty());
    Err(said)
}

/// Reads and checks a configuration.
fn check(role: usize, text: &str) -> Result<(), String> {
    if names_files(text) {
        return Err("not for a fuzzer".to_owned());
    }
    match role {
        0 => check_of::<Pool>(text),
        1 => check_of::<TranslatorRole>(text),
        2 => check_of::<JdsRole>(text),
        3 => check_of::<Jdc>(text),
        4 => check_of::<TemplateProviderRole>(text),
        _ => check_of::<Explorer>(text),
    }
}

fn check_of<R: Role>(text: &str) -> Result<(), String> {
    match parse_config::<R::Config>(text, Path::new(FOLDER)) {
        Ok(config) => R::check(&config).map_err(|error| {
            assert!(!error.key.is_empty() && !error.message.is_empty(), "{error:?}");
            error.to_string()
        }),
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains(char::is_control), "{line:?}");
            assert!(line.starts_with("config") && !error.message.is_empty(), "{line:?}");
            Err(line)
        }
    }
}
