//! ICMP and ICMPv6 types, by number or by Cilium's names for them.
use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// One type of ICMP message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IcmpField {
    /// Default: `IPv4`.
    #[serde(default)]
    pub family: IcmpFamily,
    /// A number, or a name of the family, such as `EchoRequest`.
    #[serde(rename = "type")]
    pub icmp_type: IcmpType,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IcmpFamily {
    #[default]
    IPv4,
    IPv6,
}

/// A type's number; names are resolved while parsing, by the family beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IcmpType(pub u8);

impl IcmpType {
    pub(crate) fn named(name: &str, family: IcmpFamily) -> Option<Self> {
        table(family).iter().find(|(known, _)| *known == name).map(|(_, number)| Self(*number))
    }
}

pub(crate) fn names(family: IcmpFamily) -> impl Iterator<Item = &'static str> {
    table(family).iter().map(|(name, _)| *name)
}

/// The other family, when the name is one of its types.
pub(crate) fn other_family_has(name: &str, family: IcmpFamily) -> Option<IcmpFamily> {
    let other = match family {
        IcmpFamily::IPv4 => IcmpFamily::IPv6,
        IcmpFamily::IPv6 => IcmpFamily::IPv4,
    };
    IcmpType::named(name, other).map(|_| other)
}

fn table(family: IcmpFamily) -> &'static [(&'static str, u8)] {
    match family {
        IcmpFamily::IPv4 => ICMP,
        IcmpFamily::IPv6 => ICMPV6,
    }
}

const ICMP: &[(&str, u8)] = &[
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

const ICMPV6: &[(&str, u8)] = &[
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];

impl<'de> Deserialize<'de> for IcmpField {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Written {
            #[serde(default)]
            family: IcmpFamily,
            #[serde(rename = "type")]
            icmp_type: NumberOrName,
        }
        let Written { family, icmp_type } = Written::deserialize(from)?;
        let icmp_type = match icmp_type {
            NumberOrName::Number(number) => IcmpType(number),
            NumberOrName::Name(name) => IcmpType::named(&name, family)
                .ok_or_else(|| de::Error::custom(format_args!("`{name}` is not an ICMP type of {family:?}")))?,
        };
        Ok(Self { family, icmp_type })
    }
}

enum NumberOrName {
    Number(u8),
    Name(String),
}

impl<'de> Deserialize<'de> for NumberOrName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = NumberOrName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an ICMP type: 0 to 255 or a name such as EchoRequest")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<NumberOrName, E> {
                u8::try_from(number)
                    .map(NumberOrName::Number)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<NumberOrName, E> {
                match text.parse::<u64>() {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Ok(NumberOrName::Name(text.to_owned())),
                }
            }
        }
        from.deserialize_any(Visitor)
    }
}

impl Serialize for IcmpType {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(self.0)
    }
}

impl JsonSchema for IcmpType {
    fn schema_name() -> Cow<'static, str> {
        "IcmpType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": 0, "maximum": 255 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_depend_on_the_family() {
        let read = |text: &str| serde_yaml::from_str::<IcmpField>(text).map(|field| field.icmp_type.0).ok();
        assert_eq!(read("type: EchoRequest"), Some(8));
        assert_eq!(read("{family: IPv6, type: EchoRequest}"), Some(128));
        assert_eq!(read("{type: EchoRequest, family: IPv6}"), Some(128));
        assert_eq!(read("{family: IPv6, type: '128'}"), Some(128));
        assert_eq!(read("{family: IPv4, type: PacketTooBig}"), None);
        assert_eq!(read("{type: 256}"), None);
    }
}
