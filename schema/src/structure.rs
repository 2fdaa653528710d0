//! Everything that is wrong with the shape of a document, each with its place.
//!
//! Strict deserialization stops at the first error and knows its place only roughly. So when it has failed, the
//! document is read again as a tree with places, and compared with the JSON Schema that its type generates. What is
//! left without the wrong parts can still be checked for its meaning.
use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use serde_json::{Map, Number, Value as Json};

use crate::{
    IcmpFamily, code,
    icmp::{self, IcmpType},
    marked::{Node, Value},
    prefix::parse_prefix,
    suggest::nearest,
};

/// One thing that is wrong, by its place in characters of the document.
#[derive(Debug)]
pub(crate) struct Found {
    pub code: &'static str,
    pub start: usize,
    pub end: usize,
    pub message: String,
    pub help: Option<String>,
    pub related: Vec<(usize, String)>,
}

/// Fields of `CiliumNetworkPolicy` that this version refuses, and what they are.
const REFUSED: &[(&str, &str)] = &[
    ("rules", "layer 7 rules are"),
    ("terminatingTLS", "TLS interception is"),
    ("originatingTLS", "TLS interception is"),
    ("serverNames", "matching TLS server names is"),
    ("listener", "redirecting to an Envoy listener is"),
    ("authentication", "mutual authentication is"),
    ("fromRequires", "requirements are"),
    ("toRequires", "requirements are"),
    ("fromGroups", "cloud provider groups are"),
    ("toGroups", "cloud provider groups are"),
    ("toFQDNs", "DNS names as peers are"),
    ("toServices", "services as peers are"),
    ("cidrGroupRef", "`CiliumCIDRGroup` is"),
    ("cidrGroupSelector", "`CiliumCIDRGroup` is"),
    ("log", "a policy's own log text is"),
];

/// Compares the document with its schema. The tree is what is right of it, if anything is left.
pub(crate) fn compare(root: &Node, schema: &Json) -> (Vec<Found>, Option<Json>) {
    let mut walk = Walk { schema, found: Vec::new(), visited: 0, nodes: size(root) };
    let tree = walk.value(root, schema, None, "the document");
    (walk.found, tree)
}

/// Values that stand in the text: what is reached through an alias counts once.
fn size(root: &Node) -> usize {
    let mut seen: HashSet<*const Value> = HashSet::new();
    let mut open = vec![root];
    while let Some(node) = open.pop() {
        if seen.insert(std::rc::Rc::as_ptr(&node.value)) {
            match &*node.value {
                Value::Scalar { .. } => {}
                Value::Sequence(items) => open.extend(items),
                Value::Mapping(entries) => open.extend(entries.iter().flat_map(|(key, value)| [key, value])),
            }
        }
    }
    seen.len()
}

struct Walk<'a> {
    schema: &'a Json,
    found: Vec<Found>,
    visited: usize,
    nodes: usize,
}

/// More values than this for each one in the text come from aliases of aliases.
const MOST_REPETITIONS: usize = 100;

impl<'a> Walk<'a> {
    fn push(&mut self, code: &'static str, at: &Node, message: impl Into<String>) -> &mut Found {
        let (start, end) = (at.start, at.end);
        let message = message.into();
        self.found.push(Found { code, start, end, message, help: None, related: Vec::new() });
        let last = self.found.len() - 1;
        &mut self.found[last]
    }

    fn value(&mut self, node: &Node, schema: &'a Json, key: Option<&Node>, name: &str) -> Option<Json> {
        self.visited += 1;
        if self.visited > MOST_REPETITIONS * (self.nodes + 10) {
            if self.visited == MOST_REPETITIONS * (self.nodes + 10) + 1 {
                self.push(code::TOO_COMPLEX, node, "aliases repeat too much of the document");
            }
            return None;
        }
        let (schema, definition) = self.resolve(schema);
        if node.is_null() && allows_null(schema) {
            return Some(Json::Null);
        }
        if let Some(allowed) = allowed_texts(schema) {
            return self.one_of(node, &allowed, name);
        }
        let types = types(schema);
        match () {
            () if types.contains(&"object") => self.mapping(node, schema, key, name, definition),
            () if types.contains(&"array") => self.sequence(node, schema, name),
            () if types.contains(&"integer") => self.integer(node, schema, types.contains(&"string"), name),
            () if types.contains(&"boolean") => self.boolean(node, schema, name),
            () if types.contains(&"string") => self.text(node, schema, name),
            // Read over.
            () => Some(Json::Null),
        }
    }

    /// Follows references, and an optional value to the value.
    fn resolve(&self, schema: &'a Json) -> (&'a Json, &'a str) {
        let mut schema = schema;
        let mut definition = "";
        loop {
            if let Some(reference) = schema["$ref"].as_str() {
                definition = reference.rsplit('/').next().unwrap_or(reference);
                schema = &self.schema["$defs"][definition];
            } else if let Some(present) = optional(schema) {
                schema = present;
            } else {
                return (schema, definition);
            }
        }
    }

    fn wrong_type(&mut self, node: &Node, expected: &str, name: &str) {
        let found = node.describe();
        let text_of_key = match &*node.value {
            Value::Mapping(entries) if entries.len() == 1 => entries[0].0.text().filter(|key| key.ends_with(':')),
            _ => None,
        };
        let help = match text_of_key {
            // `- fd00::` is a mapping in YAML.
            Some(key) => Some(format!("quote it: \"{key}:\"")),
            None if node.is_null() => Some("write the value, or leave the field out".to_owned()),
            None => None,
        };
        self.push(code::INVALID_TYPE, node, format!("{name} must be {expected}, not {found}")).help = help;
    }

    fn one_of(&mut self, node: &Node, allowed: &[&str], name: &str) -> Option<Json> {
        let Some(text) = node.text() else {
            self.wrong_type(node, "a word", name);
            return None;
        };
        if allowed.contains(&text) {
            return Some(Json::String(text.to_owned()));
        }
        let help = match nearest(text, allowed.iter().copied()) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("it is one of {}", listed(allowed)),
        };
        let field = name.strip_prefix("an entry of ").unwrap_or(name);
        self.push(code::INVALID_VALUE, node, format!("`{text}` is not a value of {field}")).help = Some(help);
        None
    }

    fn boolean(&mut self, node: &Node, schema: &Json, name: &str) -> Option<Json> {
        let value = match node.plain() {
            Some("true" | "True" | "TRUE") => true,
            Some("false" | "False" | "FALSE") => false,
            _ => {
                self.wrong_type(node, "`true` or `false`", name);
                return None;
            }
        };
        if schema.get("const").is_some_and(|only| *only != Json::Bool(value)) {
            let message = format!("{name} means something only when it is `true`");
            self.push(code::INVALID_VALUE, node, message).help = Some("leave the field out otherwise".to_owned());
            return None;
        }
        Some(Json::Bool(value))
    }

    fn integer(&mut self, node: &Node, schema: &Json, or_text: bool, name: &str) -> Option<Json> {
        let Some(text) = node.text() else {
            self.wrong_type(node, if or_text { "a number or a name" } else { "a number" }, name);
            return None;
        };
        // Where text is as good, a quoted number is a number, too.
        let number = if or_text { Some(text) } else { node.plain() }.and_then(integer);
        let Some(number) = number else {
            if or_text && !text.is_empty() {
                return Some(Json::String(text.to_owned()));
            }
            self.wrong_type(node, "a number", name);
            return None;
        };
        let bits = schema["format"].as_str().and_then(|format| format.strip_prefix("uint")?.parse::<u32>().ok());
        let least = schema["minimum"].as_i64().map_or(0, i128::from);
        let most = schema["maximum"].as_i64().map(i128::from);
        let most = most.unwrap_or_else(|| bits.map_or(i128::from(u64::MAX), |bits| (1i128 << bits.min(64)) - 1));
        if !(least..=most).contains(&number) {
            self.push(code::INVALID_VALUE, node, format!("{name} must be a number from {least} to {most}"));
            return None;
        }
        u64::try_from(number).ok().map(|number| Json::Number(Number::from(number)))
    }

    fn text(&mut self, node: &Node, schema: &Json, name: &str) -> Option<Json> {
        let Some(text) = node.text() else {
            self.wrong_type(node, "text", name);
            return None;
        };
        match schema["format"].as_str() {
            Some("ip") if text.parse::<IpAddr>().is_err() => {
                let help = text.split_once('/').map(|(address, _)| format!("write the address alone: `{address}`"));
                self.push(code::INVALID_ADDRESS, node, format!("`{text}` is not an IP address")).help = help;
                None
            }
            Some("cidr") => match parse_prefix(text) {
                Ok(_) if !text.contains('/') => {
                    let bits = if text.contains(':') { 128 } else { 32 };
                    let found = self.push(code::INVALID_CIDR, node, format!("`{text}` has no prefix length"));
                    found.help = Some(format!("write `{text}/{bits}` for this one address"));
                    None
                }
                Ok(_) => Some(Json::String(text.to_owned())),
                Err(error) => {
                    self.push(error.code(), node, error.message(text)).help = error.help(text);
                    None
                }
            },
            Some("humantime") => match humantime::parse_duration(text) {
                Ok(_) => Some(Json::String(text.to_owned())),
                Err(error) => {
                    let message = format!("`{text}` is not a duration: {error}");
                    self.push(code::INVALID_DURATION, node, message).help =
                        Some("write for example `90s`, `2h 13m` or `1day`".to_owned());
                    None
                }
            },
            _ => Some(Json::String(text.to_owned())),
        }
    }

    fn sequence(&mut self, node: &Node, schema: &'a Json, name: &str) -> Option<Json> {
        let Value::Sequence(items) = &*node.value else {
            self.wrong_type(node, "a list", name);
            if let Some(found) = self.found.last_mut()
                && found.help.is_none()
            {
                found.help = Some("write it as a list: each entry on a line of its own, after `- `".to_owned());
            }
            return None;
        };
        let name = format!("an entry of {name}");
        let items: Vec<_> = items.iter().map(|item| self.value(item, &schema["items"], None, &name)).collect();
        // An entry that is gone would move the places of those behind it.
        items.into_iter().collect::<Option<Vec<_>>>().map(Json::Array)
    }

    fn mapping(
        &mut self,
        node: &Node,
        schema: &'a Json,
        own_key: Option<&Node>,
        name: &str,
        definition: &str,
    ) -> Option<Json> {
        let Value::Mapping(entries) = &*node.value else {
            self.wrong_type(node, "a mapping", name);
            return None;
        };
        let fields = schema["properties"].as_object();
        let mut seen: HashMap<&str, &Node> = HashMap::new();
        let mut tree = Map::new();
        // Fields that are not missing, but written in a way that was complained of already.
        let mut excused = Excused::default();
        for (key, value) in entries {
            let Some(field) = key.text() else {
                self.wrong_type(key, "text", "a key");
                continue;
            };
            if let Some(first) = seen.get(field) {
                let start = first.start;
                let found = self.push(code::DUPLICATE_KEY, key, format!("`{field}` stands here a second time"));
                found.related.push((start, "first here".to_owned()));
                found.help = Some("keep one of them".to_owned());
                continue;
            }
            seen.insert(field, key);
            let inner = match fields.and_then(|fields| fields.get(field)) {
                Some(inner) => inner,
                None if schema["additionalProperties"].is_object() => &schema["additionalProperties"],
                None if schema["additionalProperties"] == Json::Bool(false) => {
                    excused.add(self.unknown_field(key, field, fields, name));
                    continue;
                }
                None => continue,
            };
            if let Some(value) = self.value(value, inner, Some(key), &format!("`{field}`")) {
                tree.insert(field.to_owned(), value);
            }
        }
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str);
        let mut whole = true;
        for field in required {
            if !seen.contains_key(field) && !excused.covers(field) {
                let at = own_key.unwrap_or(node);
                self.push(code::MISSING_FIELD, at, format!("`{field}` is missing in {name}"));
            }
            whole &= tree.contains_key(field);
        }
        if !whole {
            return None;
        }
        let tree = Json::Object(tree);
        (definition != "IcmpField" || self.icmp(node, &tree)).then_some(tree)
    }

    fn unknown_field(
        &mut self,
        key: &Node,
        field: &str,
        fields: Option<&'a Map<String, Json>>,
        name: &str,
    ) -> Meant<'a> {
        if field == "<<" {
            let found = self.push(code::NOT_SUPPORTED, key, "merge keys (`<<`) are not supported");
            found.help = Some("an alias of a whole value (`*name`) is; write the fields out otherwise".to_owned());
            return Meant::Anything;
        }
        if let Some((_, what)) = REFUSED.iter().find(|(refused, _)| *refused == field) {
            let found = self.push(code::NOT_SUPPORTED, key, format!("`{field}`: {what} not supported yet"));
            found.help = Some("remove the field, or keep this policy out of the set".to_owned());
            return Meant::Anything;
        }
        let names: Vec<_> = fields.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let near = nearest(field, names.iter().copied());
        let help = match near {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None if names.is_empty() => None,
            None => Some(format!("the fields here are {}", listed(&names))),
        };
        self.push(code::UNKNOWN_FIELD, key, format!("{name} has no field `{field}`")).help = help;
        near.map_or(Meant::Nothing, Meant::Field)
    }

    /// The names of ICMP types depend on the family beside them.
    fn icmp(&mut self, node: &Node, tree: &Json) -> bool {
        let family = match tree["family"].as_str() {
            Some("IPv6") => IcmpFamily::IPv6,
            _ => IcmpFamily::IPv4,
        };
        let Some(name) = tree["type"].as_str() else { return true };
        if IcmpType::named(name, family).is_some() {
            return true;
        }
        let at = node.entry("type").map_or(node, |(_, value)| value);
        let help = match (nearest(name, icmp::names(family)), icmp::other_family_has(name, family)) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, Some(other)) => format!("it is a type of {other:?}: set `family: {other:?}`"),
            (None, None) => format!("the names are {}, or write the number", {
                let names: Vec<_> = icmp::names(family).collect();
                listed(&names)
            }),
        };
        let message = format!("`{name}` is not an ICMP type of {family:?}");
        self.push(code::INVALID_VALUE, at, message).help = Some(help);
        false
    }
}

/// What an unknown field stands for.
enum Meant<'a> {
    Nothing,
    Field(&'a str),
    Anything,
}

#[derive(Default)]
struct Excused<'a> {
    fields: Vec<&'a str>,
    all: bool,
}

impl<'a> Excused<'a> {
    fn add(&mut self, meant: Meant<'a>) {
        match meant {
            Meant::Nothing => {}
            Meant::Field(field) => self.fields.push(field),
            Meant::Anything => self.all = true,
        }
    }

    fn covers(&self, field: &str) -> bool {
        self.all || self.fields.contains(&field)
    }
}

impl Node {
    fn plain(&self) -> Option<&str> {
        match &*self.value {
            Value::Scalar { text, plain: true } => Some(text),
            _ => None,
        }
    }

    fn is_null(&self) -> bool {
        matches!(self.plain(), Some("" | "~" | "null" | "Null" | "NULL"))
    }

    fn describe(&self) -> String {
        match &*self.value {
            Value::Scalar { .. } if self.is_null() => "nothing".to_owned(),
            Value::Scalar { text, .. } if text.chars().count() <= 40 => format!("`{text}`"),
            Value::Scalar { .. } => "text".to_owned(),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

fn types(schema: &Json) -> Vec<&str> {
    match &schema["type"] {
        Json::String(one) => vec![one],
        Json::Array(several) => several.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

fn allows_null(schema: &Json) -> bool {
    types(schema).contains(&"null")
}

/// The value's schema in `anyOf: [value, null]`.
fn optional(schema: &Json) -> Option<&Json> {
    let choices = schema["anyOf"].as_array()?;
    choices.iter().find(|choice| types(choice) != ["null"])
}

/// The words that an enumeration has.
fn allowed_texts(schema: &Json) -> Option<Vec<&str>> {
    if let Some(words) = schema["enum"].as_array() {
        return Some(words.iter().filter_map(Json::as_str).collect());
    }
    if let Some(word) = schema["const"].as_str() {
        return Some(vec![word]);
    }
    let choices = schema["oneOf"].as_array()?;
    choices.iter().map(allowed_texts).collect::<Option<Vec<_>>>().map(|words| words.concat())
}

fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = match digits.get(..2) {
        Some("0x") => i128::from_str_radix(&digits[2..], 16),
        Some("0o") => i128::from_str_radix(&digits[2..], 8),
        _ if digits.bytes().all(|digit| digit.is_ascii_digit()) => digits.parse(),
        _ => return None,
    };
    value.ok().map(|value| if negative { -value } else { value })
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
