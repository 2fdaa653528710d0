//! A list of prefixes in a manifest, read straight into its compact form.
use std::{
    borrow::Cow,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
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

    /// Of what another list held.
    pub(crate) fn of_sorted(entries: Vec<IpNet>) -> Self {
        Self { entries: entries.into(), malformed: Vec::new() }
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
        let mut collector = Collector::default();
        entries.into_iter().for_each(|net| collector.push(net.trunc()));
        collector.finish()
    }
}

/// Gathers prefixes in a form that sorts fast: half a million are a matter of milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    /// Address, then length.
    v4: Vec<u64>,
    v6: Vec<(u128, u8)>,
}

impl Collector {
    pub fn push(&mut self, net: IpNet) {
        match net {
            IpNet::V4(net) => self.v4.push(u64::from(net.addr().to_bits()) << 8 | u64::from(net.prefix_len())),
            IpNet::V6(net) => self.v6.push((net.addr().to_bits(), net.prefix_len())),
        }
    }

    /// Sorted by family, address, length; duplicates removed.
    pub fn finish(mut self) -> Prefixes {
        self.v4.sort_unstable();
        self.v4.dedup();
        self.v6.sort_unstable();
        self.v6.dedup();
        // The lengths were those of prefixes.
        let v4 = self.v4.iter().map(|key| {
            let address = Ipv4Addr::from_bits((key >> 8) as u32);
            IpNet::V4(Ipv4Net::new_assert(address, (key & 0xff) as u8))
        });
        let v6 =
            self.v6.iter().map(|(bits, length)| IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(*bits), *length)));
        let mut entries = Vec::with_capacity(self.v4.len() + self.v6.len());
        entries.extend(v4);
        entries.extend(v6);
        Prefixes { entries: entries.into(), malformed: Vec::new() }
    }
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
                let mut entries = Collector::default();
                let mut malformed = Vec::new();
                let mut index = 0;
                while let Some(entry) = list.next_element_seed(Entry)? {
                    match entry {
                        Ok(net) => entries.push(net),
                        Err((text, error)) => malformed.push(Malformed { index, text, error }),
                    }
                    index += 1;
                }
                Ok(Prefixes { malformed, ..entries.finish() })
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
