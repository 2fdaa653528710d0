//! Identities of the prefixes that policies mention.
use ipnet::IpNet;
use weir_abi::identity;
use weir_plan::{Numbering, OutOfNumbers, Prefix4, Prefix6, Space};

use crate::policy::CidrSelector;

/// One identity per prefix, holes included: an address has that of the longest prefix that covers it.
#[derive(Debug, Default)]
pub(crate) struct CidrIdentities {
    /// Sorted by prefix, so that what lies inside a prefix is one range.
    pub v4: Vec<(Prefix4, u32)>,
    pub v6: Vec<(Prefix6, u32)>,
}

impl CidrIdentities {
    pub fn new<'p>(
        selectors: impl Iterator<Item = &'p CidrSelector>,
        numbering: &mut Numbering,
        sequence: u64,
    ) -> Result<Self, OutOfNumbers> {
        let mut nets: Vec<IpNet> = Vec::new();
        for selector in selectors {
            nets.push(selector.net);
            nets.extend(&selector.except);
        }
        nets.sort_unstable();
        nets.dedup();
        let mut this = Self::default();
        for net in nets {
            let number = match reserved(&net) {
                Some(number) => number,
                None => numbering.assign(Space::Identity, &key(&net), sequence)?,
            };
            match net {
                IpNet::V4(net) => this.v4.push((net.into(), number)),
                IpNet::V6(net) => this.v6.push((net.into(), number)),
            }
        }
        Ok(this)
    }

    pub fn all(&self) -> impl Iterator<Item = u32> {
        self.v4.iter().map(|(_, number)| *number).chain(self.v6.iter().map(|(_, number)| *number))
    }

    /// Every identity whose prefix lies inside the selector and in none of its holes.
    pub fn select(&self, selector: &CidrSelector, to: &mut Vec<u32>) {
        match selector.net {
            IpNet::V4(net) => {
                let holes = selector.except.iter().filter_map(|net| match net {
                    IpNet::V4(net) => Some(Prefix4::from(*net)),
                    IpNet::V6(_) => None,
                });
                inside(&self.v4, net.into(), holes, Prefix4::covers, to);
            }
            IpNet::V6(net) => {
                let holes = selector.except.iter().filter_map(|net| match net {
                    IpNet::V6(net) => Some(Prefix6::from(*net)),
                    IpNet::V4(_) => None,
                });
                inside(&self.v6, net.into(), holes, Prefix6::covers, to);
            }
        }
    }
}

/// Every address of a family is the world of that family: reserved, as in Cilium.
pub(crate) fn reserved(net: &IpNet) -> Option<u32> {
    match net {
        _ if net.prefix_len() != 0 => None,
        IpNet::V4(_) => Some(identity::WORLD_IPV4),
        IpNet::V6(_) => Some(identity::WORLD_IPV6),
    }
}

/// What the identity of a prefix is numbered by.
pub(crate) fn key(net: &IpNet) -> String {
    format!("cidr {net}")
}

/// In sorted order a prefix stands right before everything that it covers, so the inside is one range, and each hole
/// a range of it.
fn inside<P: Ord + Copy>(
    list: &[(P, u32)],
    net: P,
    holes: impl Iterator<Item = P>,
    covers: fn(&P, &P) -> bool,
    to: &mut Vec<u32>,
) {
    let range = |net: P| {
        let start = list.partition_point(|(prefix, _)| *prefix < net);
        let length = list[start..].partition_point(|(prefix, _)| covers(&net, prefix));
        start..start + length
    };
    let whole = range(net);
    let mut holes: Vec<_> = holes.map(range).collect();
    holes.sort_unstable_by_key(|range| range.start);
    let mut at = whole.start;
    let mut take = |from: usize, until: usize| {
        if from < until {
            to.extend(list[from..until].iter().map(|(_, number)| *number));
        }
    };
    for hole in holes {
        take(at, hole.start.min(whole.end));
        at = at.max(hole.end);
    }
    take(at, whole.end);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net() -> impl Strategy<Value = IpNet> {
        (any::<u8>(), 24u8..=32, any::<bool>()).prop_map(|(low, length, v4)| {
            let net = if v4 {
                IpNet::new(std::net::Ipv4Addr::new(10, 0, 0, low).into(), length)
            } else {
                let address = std::net::Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(low));
                IpNet::new(address.into(), length + 96)
            };
            net.unwrap().trunc()
        })
    }

    proptest! {
        #[test]
        fn a_selector_takes_what_lies_inside_it_and_in_no_hole(
            mentioned in proptest::collection::vec(net(), 0..40),
            cidr in net(),
            except in proptest::collection::vec(net(), 0..5),
        ) {
            let selectors: Vec<_> =
                mentioned.iter().map(|net| CidrSelector { net: *net, except: Vec::new() }).collect();
            let selector = CidrSelector { net: cidr, except };
            let all = selectors.iter().chain([&selector]);
            let identities = CidrIdentities::new(all, &mut Numbering::default(), 1).unwrap();
            let mut selected = Vec::new();
            identities.select(&selector, &mut selected);
            selected.sort_unstable();
            let v4 = identities.v4.iter().map(|(prefix, number)| (prefix.to_ip_net(), *number));
            let v6 = identities.v6.iter().map(|(prefix, number)| (prefix.to_ip_net(), *number));
            let mut expected: Vec<u32> = v4
                .chain(v6)
                .filter(|(net, _)| cidr.contains(net) && !selector.except.iter().any(|hole| hole.contains(net)))
                .map(|(_, number)| number)
                .collect();
            expected.sort_unstable();
            prop_assert_eq!(selected, expected);
        }
    }
}
