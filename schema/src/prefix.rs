//! CIDRs and bare addresses, parsed by hand: half a million of them must cost milliseconds.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PrefixError {
    Syntax,
    /// The length is over 32 or 128.
    Length(u8),
    /// Bits behind the prefix length are set; the prefix that was probably meant.
    HostBits(IpNet),
    /// An IPv4 address dressed as IPv6; the IPv4 prefix that it means.
    Mapped(Option<IpNet>),
}

impl PrefixError {
    pub fn code(&self) -> &'static str {
        match self {
            Self::HostBits(_) => crate::code::HOST_BITS,
            _ => crate::code::INVALID_CIDR,
        }
    }

    pub fn message(&self, text: &str) -> String {
        match self {
            Self::Syntax if text.chars().count() > 80 => "this is neither a CIDR nor an IP address".to_owned(),
            Self::Syntax => format!("`{text}` is neither a CIDR nor an IP address"),
            Self::Length(max) => format!("the prefix length of `{text}` is not a number from 0 to {max}"),
            Self::HostBits(_) => format!("`{text}` has bits set behind its prefix length"),
            Self::Mapped(_) => format!("`{text}` is an IPv4 address written as IPv6"),
        }
    }

    pub fn help(&self, text: &str) -> Option<String> {
        match self {
            Self::Syntax => Some("write for example `192.0.2.0/24`, `2001:db8::/32` or `192.0.2.1`".to_owned()),
            Self::Length(_) => None,
            Self::HostBits(meant) => {
                let address = text.split('/').next().unwrap_or(text);
                Some(format!("write `{meant}` for the whole network, or `{address}` for this one address"))
            }
            Self::Mapped(Some(meant)) => Some(format!("write `{meant}`")),
            Self::Mapped(None) => Some("`::ffff:0:0/96` is IPv4's; write IPv4 prefixes instead".to_owned()),
        }
    }
}

/// A CIDR, or a bare address (/32, /128). Host bits must be zero.
pub(crate) fn parse_prefix(text: &str) -> Result<IpNet, PrefixError> {
    let bytes = text.as_bytes();
    if let Some((address, rest)) = parse_v4(bytes)
        && let Some(length) = match rest {
            [] => Some(32),
            [b'/', length @ ..] => short_length(length),
            _ => None,
        }
        && let Ok(net) = Ipv4Net::new(address, length)
        && net.network() == address
    {
        return Ok(IpNet::V4(net));
    }
    if bytes.iter().any(u8::is_ascii_whitespace) {
        return Err(PrefixError::Syntax);
    }
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    if address.contains(':') {
        let address: Ipv6Addr = address.parse().map_err(|_| PrefixError::Syntax)?;
        let length = length.map_or(Ok(128), |text| parse_length(text, 128))?;
        v6_net(address, length)
    } else {
        let Some((address, [])) = parse_v4(address.as_bytes()) else { return Err(PrefixError::Syntax) };
        let length = length.map_or(Ok(32), |text| parse_length(text, 32))?;
        let net = Ipv4Net::new(address, length).map_err(|_| PrefixError::Length(32))?;
        if net.network() == address { Ok(IpNet::V4(net)) } else { Err(PrefixError::HostBits(IpNet::V4(net.trunc()))) }
    }
}

fn v6_net(address: Ipv6Addr, length: u8) -> Result<IpNet, PrefixError> {
    let net = Ipv6Net::new(address, length).map_err(|_| PrefixError::Length(128))?;
    if let Some(v4) = address.to_ipv4_mapped()
        && length >= 96
    {
        let meant = Ipv4Net::new(v4, length - 96).ok().map(|net| IpNet::V4(net.trunc()));
        return Err(PrefixError::Mapped(meant));
    }
    if net.network() == address { Ok(IpNet::V6(net)) } else { Err(PrefixError::HostBits(IpNet::V6(net.trunc()))) }
}

fn parse_length(text: &str, max: u8) -> Result<u8, PrefixError> {
    let digits = !text.is_empty() && text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    match text.parse() {
        Ok(length) if digits && !padded && length <= max => Ok(length),
        _ => Err(PrefixError::Length(max)),
    }
}

/// One or two digits without a leading zero.
fn short_length(text: &[u8]) -> Option<u8> {
    match text {
        [a @ b'0'..=b'9'] => Some(a - b'0'),
        [a @ b'1'..=b'9', b @ b'0'..=b'9'] => Some((a - b'0') * 10 + (b - b'0')),
        _ => None,
    }
}

/// Four decimal octets without leading zeros (which some tools read as octal), and what follows them.
fn parse_v4(text: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let mut octets = [0u8; 4];
    let mut rest = text;
    for (index, octet) in octets.iter_mut().enumerate() {
        if index > 0 {
            rest = rest.strip_prefix(b".")?;
        }
        let (value, after) = match rest {
            [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', after @ ..] => {
                (u32::from(a - b'0') * 100 + u32::from(b - b'0') * 10 + u32::from(c - b'0'), after)
            }
            [a @ b'1'..=b'9', b @ b'0'..=b'9', after @ ..] => (u32::from(a - b'0') * 10 + u32::from(b - b'0'), after),
            [a @ b'0'..=b'9', after @ ..] => (u32::from(a - b'0'), after),
            _ => return None,
        };
        *octet = u8::try_from(value).ok()?;
        rest = after;
    }
    Some((Ipv4Addr::from(octets), rest))
}

/// An address that can be somebody's: no IPv4-mapped form, not unspecified, multicast or loopback.
pub(crate) fn unusable_address(address: IpAddr) -> Option<&'static str> {
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    match () {
        () if mapped => Some("an IPv4 address written as IPv6"),
        () if broadcast => Some("the broadcast address"),
        () if address.is_unspecified() => Some("the unspecified address"),
        () if address.is_multicast() => Some("a multicast address"),
        () if address.is_loopback() => Some("a loopback address"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_both_families_and_bare_addresses() {
        for (text, net) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("255.255.255.255", "255.255.255.255/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(parse_prefix(text).map(|net| net.to_string()), Ok(net.to_owned()), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_prefix() {
        for text in [
            "",
            "/",
            "/8",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.4/",
            "1.2.3.4/33",
            "1.2.3.4/-1",
            "1.2.3.4/+8",
            "1.2.3.4/08",
            "256.0.0.0",
            "01.2.3.4",
            "1.2.3.4 ",
            " 1.2.3.4",
            "1.2.3.4/8/8",
            "::/129",
            ":::/8",
            "fe80::1%eth0",
            "a.b.c.d",
            "::ffff:192.0.2.1",
            "::ffff:0:0/96",
            "1..2.3",
        ] {
            assert!(parse_prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn host_bits_name_the_network() {
        let error = parse_prefix("10.1.2.3/8").unwrap_err();
        assert_eq!(error, PrefixError::HostBits("10.0.0.0/8".parse().unwrap()));
        let help = error.help("10.1.2.3/8").unwrap();
        assert_eq!(help, "write `10.0.0.0/8` for the whole network, or `10.1.2.3` for this one address");
    }

    proptest! {
        #[test]
        fn agrees_with_ipnet(octets: [u8; 16], v4: bool, length in 0u8..=128) {
            let net = if v4 {
                let address = Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]);
                IpNet::new(address.into(), length % 33).unwrap()
            } else {
                // 2000::/3, so that it is never IPv4-mapped.
                let mut octets = octets;
                octets[0] = 0x20 | octets[0] & 0x1f;
                IpNet::new(Ipv6Addr::from(octets).into(), length.max(3)).unwrap()
            };
            prop_assert_eq!(parse_prefix(&net.trunc().to_string()), Ok(net.trunc()));
            if net != net.trunc() {
                prop_assert_eq!(parse_prefix(&net.to_string()), Err(PrefixError::HostBits(net.trunc())));
            }
        }

        #[test]
        fn never_panics(text in "[0-9a-f:./ ]{0,24}") {
            let _ = parse_prefix(&text);
        }
    }
}
