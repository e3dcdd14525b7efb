//! Configuration: a TOML file, overlaid by the environment.
//!
//! Every key `section.key` of a role is also the variable `ADIT_<ROLE>__SECTION__KEY`. Lists are TOML lists
//! (`["a", "b"]`) or entry by entry (`__0`, `__1`), lists of tables entry by entry (`__NODES__0__URL`). A variable that is
//! set but empty counts as not set, as it does for most programs started by Compose; an empty text is `""`.
//!
//! Unknown keys, variables included, are refused. An error is one line: place, key, what is wrong.

mod de;
mod sections;
#[cfg(test)]
mod tests;
mod tree;

use std::{ffi::OsString, fmt, path::Path as FsPath};

use serde::de::DeserializeOwned;

pub use sections::{Authority, CommonConfig, ConfigPath, Http, Log, LogFormat, Secret};

use de::NodeDeserializer;
use tree::{Lines, Node, Origin, Path, Step, SyntaxError};

/// A key that reads well but means nothing sensible; found by [`Role::check`](crate::Role::check).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct ConfigError {
    /// The key with its tables, `coinbase.payout_address` or `nodes[0].url`.
    pub key: String,
    /// What is wrong, lower case, without the key.
    pub message: String,
}

impl ConfigError {
    /// An error about one key.
    pub fn new(key: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { key: key.into(), message: message.to_string() }
    }
}

/// A configuration that cannot be used. Displayed as one line: `pool.toml:12: coinbase.adress: unknown key, expected ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// File and line, or the environment variable, or what there is of that.
    pub place: String,
    /// The key with its tables; empty where no key can be named.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = format!("{}: ", self.place);
        if !self.key.is_empty() {
            line.push_str(&format!("{}: ", self.key));
        }
        line.push_str(&self.message);
        // Keys and values are the user's: a line break among them must not make a second line.
        for c in line.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

/// Reads a configuration from text, as roles do in tests and the harness does for roles inside its own process.
///
/// Relative [`ConfigPath`]s are resolved against `folder`.
pub fn parse_config<C: DeserializeOwned>(text: &str, folder: &FsPath) -> Result<C, LoadError> {
    let tree = Node::parse(text).map_err(|e| syntax_error("config", text, &e))?;
    Origins { tree, file: Some("config".to_owned()) }.read(folder)
}

/// A variable that overlays the file.
struct Overlay {
    name: String,
    path: Path,
    value: String,
}

/// Where each key was written, for errors found after reading.
pub(crate) struct Origins {
    tree: Node,
    file: Option<String>,
}

impl Origins {
    fn read<C: DeserializeOwned>(&self, folder: &FsPath) -> Result<C, LoadError> {
        let read = || C::deserialize(NodeDeserializer { node: &self.tree, folder });
        ConfigPath::reading(folder, read).map_err(|e| {
            let place = self.place(e.origin.as_ref().unwrap_or(&Origin::Root));
            LoadError { place, key: e.path.to_string(), message: e.message }
        })
    }

    /// Gives an error of the role's check its place.
    pub(crate) fn locate(&self, error: &ConfigError) -> LoadError {
        let place = self.place(self.tree.locate(&Path::parse(&error.key).0));
        LoadError { place, key: error.key.clone(), message: error.message.clone() }
    }

    fn place(&self, origin: &Origin) -> String {
        match (origin, &self.file) {
            (Origin::Line(line), Some(file)) => format!("{file}:{line}"),
            (Origin::Named(name), _) => name.clone(),
            (_, Some(file)) => file.clone(),
            (_, None) => "environment".to_owned(),
        }
    }
}

/// Reads the file, then the environment, which wins.
pub(crate) fn load<C: DeserializeOwned>(
    file: Option<&FsPath>,
    env: &[(OsString, OsString)],
    env_prefix: &str,
) -> Result<(C, Origins), LoadError> {
    let name = file.map(|path| path.display().to_string());
    let mut tree = match (file, &name) {
        (Some(path), Some(name)) => {
            let text = read_text(path).map_err(|e| LoadError {
                place: name.clone(),
                key: String::new(),
                message: e,
            })?;
            Node::parse(&text).map_err(|e| syntax_error(name, &text, &e))?
        }
        _ => Node::empty(),
    };
    for Overlay { name: place, path, value } in env_overlays(env, env_prefix)? {
        tree.set(&path.0, Node::raw(value, &place)).map_err(|message| LoadError {
            place,
            key: path.to_string(),
            message,
        })?;
    }
    let origins = Origins { tree, file: name };
    let config = origins.read(file.and_then(FsPath::parent).unwrap_or(FsPath::new("")))?;
    Ok((config, origins))
}

fn read_text(path: &FsPath) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("cannot be read: {e}"))?;
    String::from_utf8(bytes)
        .map_err(|e| format!("not a text in UTF-8 (byte {})", e.utf8_error().valid_up_to()))
}

fn env_overlays(env: &[(OsString, OsString)], prefix: &str) -> Result<Vec<Overlay>, LoadError> {
    let mut found = Vec::new();
    for (name, value) in env {
        let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) else { continue };
        let error = |message: &str| LoadError {
            place: name.to_owned(),
            key: String::new(),
            message: message.to_owned(),
        };
        let steps: Vec<Step> = name[prefix.len()..]
            .split("__")
            .map(|part| Step::parse(&part.to_ascii_lowercase()))
            .collect();
        if steps.iter().any(|step| *step == Step::Key(String::new())) {
            return Err(error(&format!("not a key: expected {prefix}SECTION__KEY")));
        }
        let value = value.to_str().ok_or_else(|| error("not a text in UTF-8"))?;
        if !value.is_empty() {
            found.push(Overlay {
                name: name.to_owned(),
                path: Path(steps),
                value: value.to_owned(),
            });
        }
    }
    // Entries of a list are appended in the order of their numbers, and a table as a whole comes before its keys.
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn syntax_error(file: &str, text: &str, error: &SyntaxError) -> LoadError {
    let number = Lines::new(text).number(error.offset);
    LoadError {
        place: format!("{file}:{number}"),
        key: key_on_line(text, number).unwrap_or_default(),
        message: error.message.clone(),
    }
}

/// The key that a line of broken TOML is most likely about: what stands before its `=`, below the last table header.
fn key_on_line(text: &str, number: usize) -> Option<String> {
    let lines: Vec<&str> = text.lines().take(number).map(str::trim).collect();
    let header = |line: &&str| -> Option<String> {
        let inner =
            line.strip_prefix('[')?.trim_start_matches('[').split([']', '#']).next()?.trim();
        is_bare(inner).then(|| inner.to_owned())
    };
    let last = lines.last()?;
    if last.starts_with('[') {
        return header(last);
    }
    let key = last.split('=').next()?.trim();
    let section = lines.iter().rev().skip(1).find_map(header);
    is_bare(key).then(|| section.map_or(key.to_owned(), |section| format!("{section}.{key}")))
}

fn is_bare(key: &str) -> bool {
    !key.is_empty()
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}
