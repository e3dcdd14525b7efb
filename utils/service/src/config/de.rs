//! From the tree to a role's config struct; every error carries the path and the place of the value it is about.

use std::{fmt, path::Path as FsPath};

use serde::{
    Deserializer,
    de::{
        self, DeserializeSeed, Error as _, Expected, IntoDeserializer, Unexpected, Visitor,
        value::{MapAccessDeserializer, StrDeserializer},
    },
    forward_to_deserialize_any,
};

use super::tree::{Node, Origin, Path, Step, Value};

/// The name of [`ConfigPath`](super::ConfigPath) as serde shows it.
const PATH_STRUCT: &str = "ConfigPath";

/// What is wrong with which key. The message never holds a value that could be a secret.
#[derive(Debug)]
pub(crate) struct DeError {
    pub(crate) path: Path,
    pub(crate) origin: Option<Origin>,
    pub(crate) message: String,
}

impl DeError {
    fn new(message: String) -> Self {
        Self { path: Path::default(), origin: None, message }
    }

    /// Adds a step above, and the place if nothing below had one.
    fn within(mut self, step: Step, origin: &Origin) -> Self {
        self.path.0.insert(0, step);
        if *origin != Origin::Root {
            self.origin.get_or_insert_with(|| origin.clone());
        }
        self
    }
}

impl fmt::Display for DeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DeError {}

impl de::Error for DeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {}, found {}", describe(expected), kind(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        // A number out of range helps when shown; a text might be a secret.
        let found = match found {
            Unexpected::Unsigned(number) => number.to_string(),
            Unexpected::Signed(number) => number.to_string(),
            other => kind(other).to_owned(),
        };
        Self::new(format!("expected {}, found {found}", describe(expected)))
    }

    fn unknown_variant(found: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("unknown value `{found}`, expected {}", one_of(expected)))
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("unknown key, expected {}", one_of(expected)))
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            path: Path(vec![Step::Key(field.to_owned())]),
            origin: None,
            message: "required, but not given".to_owned(),
        }
    }
}

fn one_of(names: &[&str]) -> String {
    match names {
        [] => "nothing here".to_owned(),
        [name] => format!("`{name}`"),
        names => format!("one of `{}`", names.join("`, `")),
    }
}

fn kind(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "true or false",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a number with decimals",
        Unexpected::Char(_) | Unexpected::Str(_) => "text",
        Unexpected::Seq => "a list",
        Unexpected::Map | Unexpected::StructVariant => "a table",
        _ => "something else",
    }
}

/// serde names Rust types; the reader of an error message writes TOML.
fn describe(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    let range = match text.as_str() {
        "u8" => Some((0, i128::from(u8::MAX))),
        "u16" => Some((0, i128::from(u16::MAX))),
        "u32" => Some((0, i128::from(u32::MAX))),
        "u64" | "usize" => Some((0, i128::from(u64::MAX))),
        "i8" => Some((i128::from(i8::MIN), i128::from(i8::MAX))),
        "i16" => Some((i128::from(i16::MIN), i128::from(i16::MAX))),
        "i32" => Some((i128::from(i32::MIN), i128::from(i32::MAX))),
        "i64" | "isize" => Some((i128::from(i64::MIN), i128::from(i64::MAX))),
        _ => None,
    };
    match (range, text.as_str()) {
        (Some((low, high)), _) => format!("a whole number from {low} to {high}"),
        (_, "f32" | "f64") => "a number".to_owned(),
        (_, "a string" | "string") => "text".to_owned(),
        (_, "a boolean") => "true or false".to_owned(),
        (_, "a sequence") => "a list".to_owned(),
        (_, "a map") => "a table".to_owned(),
        (_, other) if other.starts_with("struct ") => "a table".to_owned(),
        (_, other) if other.starts_with("enum ") || other.starts_with("string or map") => {
            "the name of a choice".to_owned()
        }
        (_, other) => other.to_owned(),
    }
}

/// Reads one node.
pub(crate) struct NodeDeserializer<'a> {
    pub(crate) node: &'a Node,
    /// The folder of the configuration file, for relative paths written in it.
    pub(crate) folder: &'a FsPath,
}

impl<'a> NodeDeserializer<'a> {
    fn visit<'de, V: Visitor<'de>>(&self, node: &Node, visitor: V) -> Result<V::Value, DeError> {
        let folder = self.folder;
        match &node.value {
            Value::Table(entries) => visitor.visit_map(Entries { entries, next: 0, folder }),
            Value::Array(items) => visitor.visit_seq(Items { items, next: 0, folder }),
            Value::Text(text) | Value::Raw(text) => visitor.visit_str(text),
            Value::Integer(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (_, Ok(number)) => visitor.visit_u64(number),
                (Ok(number), _) => visitor.visit_i64(number),
                _ => Err(DeError::custom("a number too large for any key")),
            },
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Date => Err(DeError::invalid_type(Unexpected::Other("date"), &visitor)),
        }
    }
}

impl<'de> Deserializer<'de> for NodeDeserializer<'_> {
    type Error = DeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.node.value {
            Value::Raw(text) => self.visit(&Node::interpret(text, &self.node.origin), visitor),
            _ => self.visit(self.node, visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        let Value::Raw(text) = &self.node.value else { return self.deserialize_any(visitor) };
        // Where text is wanted, `5` and `true` are text; quotes are allowed, not needed.
        if text.trim_start().starts_with(['"', '\''])
            && let Value::Text(quoted) = Node::interpret(text, &self.node.origin).value
        {
            return visitor.visit_string(quoted);
        }
        visitor.visit_str(text)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DeError> {
        if name == PATH_STRUCT
            && let (Value::Text(text), Origin::Line(_)) = (&self.node.value, &self.node.origin)
        {
            let path = self.folder.join(text);
            let path = path.to_str().ok_or_else(|| {
                DeError::custom("the folder of this file has a name that is not UTF-8")
            })?;
            return visitor.visit_newtype_struct(StrDeserializer::new(path));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        let interpreted;
        let node = match &self.node.value {
            Value::Raw(text) => {
                interpreted = Node::interpret(text, &self.node.origin);
                &interpreted
            }
            _ => self.node,
        };
        match &node.value {
            Value::Text(text) => visitor.visit_enum(StrDeserializer::new(text)),
            Value::Table(entries) => visitor.visit_enum(MapAccessDeserializer::new(Entries {
                entries,
                next: 0,
                folder: self.folder,
            })),
            _ => self.visit(node, visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 bytes byte_buf unit unit_struct seq tuple tuple_struct map
        struct ignored_any
    }
}

struct Entries<'a> {
    entries: &'a [(String, Node)],
    next: usize,
    folder: &'a FsPath,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = DeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DeError> {
        let Some((key, node)) = self.entries.get(self.next) else { return Ok(None) };
        let key_deserializer: StrDeserializer<'_, DeError> = key.as_str().into_deserializer();
        seed.deserialize(key_deserializer)
            .map(Some)
            .map_err(|e| e.within(Step::Key(key.clone()), &node.origin))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DeError> {
        let Some((key, node)) = self.entries.get(self.next) else {
            return Err(DeError::custom("a key without value"));
        };
        self.next += 1;
        seed.deserialize(NodeDeserializer { node, folder: self.folder })
            .map_err(|e| e.within(Step::Key(key.clone()), &node.origin))
    }
}

struct Items<'a> {
    items: &'a [Node],
    next: usize,
    folder: &'a FsPath,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = DeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DeError> {
        let index = self.next;
        let Some(node) = self.items.get(index) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(NodeDeserializer { node, folder: self.folder })
            .map(Some)
            .map_err(|e| e.within(Step::Index(index), &node.origin))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.next)
    }
}
