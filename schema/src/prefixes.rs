//! A list of prefixes in a manifest, read straight into its compact form.
use std::{borrow::Cow, fmt, sync::Arc};

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::prefix::{PrefixError, parse_prefix};

/// CIDRs and bare addresses of one list: sorted, without duplicates, host bits zero. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Prefixes {
    entries: Arc<[IpNet]>,
    /// Entries that are none, by their index in the list; empty once the object has been checked.
    malformed: Vec<Malformed>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub index: usize,
    pub text: String,
    pub error: PrefixError,
}

impl Prefixes {
    pub(crate) fn malformed(&self) -> &[Malformed] {
        &self.malformed
    }

    /// The entries, shared.
    pub fn shared(&self) -> Arc<[IpNet]> {
        Arc::clone(&self.entries)
    }
}

impl std::ops::Deref for Prefixes {
    type Target = [IpNet];

    fn deref(&self) -> &[IpNet] {
        &self.entries
    }
}

impl FromIterator<IpNet> for Prefixes {
    fn from_iter<I: IntoIterator<Item = IpNet>>(entries: I) -> Self {
        Self { entries: sorted(entries.into_iter().map(|net| net.trunc()).collect()), malformed: Vec::new() }
    }
}

/// Sorted by family, address, length; duplicates removed.
pub(crate) fn sorted(mut entries: Vec<IpNet>) -> Arc<[IpNet]> {
    entries.sort_unstable();
    entries.dedup();
    entries.into()
}

impl fmt::Debug for Prefixes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} prefixes", self.entries.len())
    }
}

impl Serialize for Prefixes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.entries.iter())
    }
}

impl<'de> Deserialize<'de> for Prefixes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> de::Visitor<'de> for List {
            type Value = Prefixes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of CIDRs or IP addresses")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Prefixes, A::Error> {
                let mut entries = Vec::new();
                let mut malformed = Vec::new();
                let mut index = 0;
                while let Some(entry) = list.next_element_seed(Entry)? {
                    match entry {
                        Ok(net) => entries.push(net),
                        Err((text, error)) => malformed.push(Malformed { index, text, error }),
                    }
                    index += 1;
                }
                Ok(Prefixes { entries: sorted(entries), malformed })
            }
        }

        struct Entry;
        impl<'de> de::DeserializeSeed<'de> for Entry {
            type Value = Result<IpNet, (String, PrefixError)>;

            fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
                from.deserialize_str(self)
            }
        }
        impl de::Visitor<'_> for Entry {
            type Value = Result<IpNet, (String, PrefixError)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a CIDR or an IP address")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(parse_prefix(text).map_err(|error| (text.to_owned(), error)))
            }
        }

        from.deserialize_seq(List)
    }
}

impl JsonSchema for Prefixes {
    fn schema_name() -> Cow<'static, str> {
        "Prefixes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": { "type": "string" } })
    }
}
