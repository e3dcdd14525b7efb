//! The configuration as a tree that remembers where each value was written.
//!
//! TOML gives byte ranges and the environment gives variable names. One tree holds both, so that an error about any key, found while reading or much later, can name the place to mend.

use std::fmt;

use toml::de::{DeInteger, DeTable, DeValue};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A line of the file, counted from 1.
    Line(usize),
    /// An environment variable, by its name.
    Named(String),
    /// Nowhere: the table that holds everything.
    Root,
}

/// One step into the tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Index(usize),
    Key(String),
}

/// The way to a value, displayed as `nodes[0].url`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Path(pub(crate) Vec<Step>);

impl Path {
    /// Reads `nodes[0].url` as well as `nodes.0.url`.
    pub(crate) fn parse(text: &str) -> Self {
        let steps = text
            .split(['.', '['])
            .map(|part| part.trim_end_matches(']'))
            .filter(|part| !part.is_empty());
        Self(steps.map(Step::parse).collect())
    }
}

impl Step {
    pub(crate) fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Key(text.to_owned()), Self::Index)
    }

    /// A number is a key, too, where there is a table.
    fn as_key(&self) -> String {
        match self {
            Self::Key(key) => key.clone(),
            Self::Index(index) => index.to_string(),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if at == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// What a node holds. Not shown by any error: it may be a secret.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Table(Vec<(String, Node)>),
    Array(Vec<Node>),
    Text(String),
    Integer(i128),
    Float(f64),
    Boolean(bool),
    /// A TOML date; no key takes one, it is kept to be refused by name.
    Date,
    /// From the environment: what it is depends on what is asked for.
    Raw(String),
}

/// TOML that is none: what is wrong and at which byte.
pub(crate) struct SyntaxError {
    pub(crate) message: String,
    pub(crate) offset: usize,
}

impl Node {
    /// A tree with nothing in it.
    pub(crate) fn empty() -> Self {
        Self { value: Value::Table(Vec::new()), origin: Origin::Root }
    }

    /// A value of the environment.
    pub(crate) fn raw(text: impl Into<String>, from: impl Into<String>) -> Self {
        Self { value: Value::Raw(text.into()), origin: Origin::Named(from.into()) }
    }

    /// Reads a whole file.
    pub(crate) fn parse(text: &str) -> Result<Self, SyntaxError> {
        let table = DeTable::parse(text).map_err(|e| SyntaxError {
            message: e.message().to_owned(),
            offset: e.span().map_or(0, |span| span.start),
        })?;
        let lines = Lines::new(text);
        Ok(Self { value: lines.table(table.get_ref())?, origin: Origin::Root })
    }

    /// Reads a raw text as TOML value, or as plain text where it is none.
    pub(crate) fn interpret(text: &str, origin: &Origin) -> Self {
        let value = DeValue::parse(text.trim()).ok().and_then(|value| {
            // Line numbers of an environment value mean nothing: every part of it comes from the same variable.
            Lines::new("").value(value.get_ref(), 0).ok()
        });
        let mut node = Self {
            value: value.unwrap_or_else(|| Value::Text(text.to_owned())),
            origin: origin.clone(),
        };
        node.set_origin(origin);
        node
    }

    fn set_origin(&mut self, origin: &Origin) {
        self.origin = origin.clone();
        match &mut self.value {
            Value::Table(entries) => {
                entries.iter_mut().for_each(|(_, node)| node.set_origin(origin))
            }
            Value::Array(items) => items.iter_mut().for_each(|node| node.set_origin(origin)),
            _ => {}
        }
    }

    /// Puts a value where the path says, replacing what was there and making the tables on the way.
    pub(crate) fn set(&mut self, path: &[Step], new: Self) -> Result<(), String> {
        let Some((step, rest)) = path.split_first() else {
            *self = new;
            return Ok(());
        };
        if let Value::Raw(text) = &self.value {
            *self = Self::interpret(&text.clone(), &self.origin.clone());
        }
        let fresh = || Self {
            value: match rest.first() {
                Some(Step::Index(_)) => Value::Array(Vec::new()),
                _ => Value::Table(Vec::new()),
            },
            // Nobody wrote this table down; what misses in it is not the fault of the value that made it.
            origin: Origin::Root,
        };
        match (&mut self.value, step) {
            (Value::Table(entries), step) => {
                let key = step.as_key();
                let at = entries.iter().position(|(name, _)| *name == key).unwrap_or_else(|| {
                    entries.push((key, fresh()));
                    entries.len() - 1
                });
                entries[at].1.set(rest, new)
            }
            (Value::Array(items), Step::Index(index)) => {
                if *index > items.len() {
                    return Err(format!(
                        "entry {index} of a list that has {}: entries are counted from 0",
                        items.len()
                    ));
                }
                if *index == items.len() {
                    items.push(fresh());
                }
                items[*index].set(rest, new)
            }
            (Value::Array(_), Step::Key(key)) => {
                Err(format!("a list: expected the number of an entry, not `{key}`"))
            }
            _ => Err("a single value: it has no keys below it".to_owned()),
        }
    }

    /// The place of a key, or of the nearest table above it that was written down.
    pub(crate) fn locate(&self, path: &[Step]) -> &Origin {
        let below = path.split_first().and_then(|(step, rest)| match (&self.value, step) {
            (Value::Table(entries), step) => {
                entries.iter().find(|(name, _)| *name == step.as_key()).map(|e| (&e.1, rest))
            }
            (Value::Array(items), Step::Index(index)) => items.get(*index).map(|item| (item, rest)),
            _ => None,
        });
        match below {
            Some((node, rest)) => match node.locate(rest) {
                Origin::Root => &self.origin,
                origin => origin,
            },
            None => &self.origin,
        }
    }
}

/// Byte offsets to line numbers.
pub(crate) struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    pub(crate) fn new(text: &str) -> Self {
        Self {
            starts: std::iter::once(0)
                .chain(text.match_indices('\n').map(|(at, _)| at + 1))
                .collect(),
        }
    }

    /// The line of a byte, counted from 1.
    pub(crate) fn number(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    fn table(&self, table: &DeTable<'_>) -> Result<Value, SyntaxError> {
        let mut entries: Vec<_> = table.iter().collect();
        // In the order written, so that the first mistake of the file is the one reported.
        entries.sort_by_key(|(key, _)| key.span().start);
        let entries = entries.into_iter().map(|(key, value)| {
            let offset = key.span().start;
            let value = self.value(value.get_ref(), offset)?;
            Ok((
                key.get_ref().clone().into_owned(),
                Node { value, origin: Origin::Line(self.number(offset)) },
            ))
        });
        Ok(Value::Table(entries.collect::<Result<_, _>>()?))
    }

    fn value(&self, value: &DeValue<'_>, offset: usize) -> Result<Value, SyntaxError> {
        Ok(match value {
            DeValue::String(text) => Value::Text(text.clone().into_owned()),
            DeValue::Integer(number) => Value::Integer(integer(number, offset)?),
            DeValue::Float(number) => Value::Float(number.as_str().parse().map_err(|_| {
                SyntaxError { message: "not a number that can be represented".into(), offset }
            })?),
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Datetime(_) => Value::Date,
            DeValue::Array(items) => Value::Array(
                items
                    .iter()
                    .map(|item| {
                        let offset = item.span().start;
                        Ok(Node {
                            value: self.value(item.get_ref(), offset)?,
                            origin: Origin::Line(self.number(offset)),
                        })
                    })
                    .collect::<Result<_, _>>()?,
            ),
            DeValue::Table(table) => self.table(table)?,
        })
    }
}

fn integer(number: &DeInteger<'_>, offset: usize) -> Result<i128, SyntaxError> {
    i128::from_str_radix(number.as_str(), number.radix())
        .map_err(|_| SyntaxError { message: "a number too large for any key".into(), offset })
}
