//! `CidrFilter`: what XDP drops before anything else looks at it.
use std::net::IpAddr;

use weir_schema::{CidrFilterSpec, FilterMatch, Object};

use crate::{RuleId, World};

impl World<'_> {
    /// The rule that drops a packet which arrives on `interface`, `None` when none does. Sources are looked at before
    /// destinations, lists before unknown destinations; then the smallest (object key, rule path). An address in `allow`
    /// is never dropped by its filter: neither as what the filter matches, nor as an unknown destination.
    pub fn prefilter(&self, interface: &str, source: IpAddr, destination: IpAddr) -> Option<RuleId> {
        let filters: Vec<(&Object, &CidrFilterSpec)> =
            self.filters().filter(|(_, filter)| self.watches(filter, interface)).collect();
        let by_list = |side: FilterMatch, address: IpAddr| {
            let matching = filters.iter().filter(|(_, filter)| filter.matches == side);
            matching.flat_map(|(object, filter)| listed(object, filter, address)).min()
        };
        by_list(FilterMatch::Source, source).or_else(|| by_list(FilterMatch::Destination, destination)).or_else(|| {
            let unknown = self.is_endpoint_range(destination) && !self.is_delivered_here(destination);
            let dropping = filters
                .iter()
                .filter(|(_, filter)| unknown && filter.drop_unknown_destinations && !excepted(filter, destination));
            dropping.map(|(object, _)| rule(object, "spec.dropUnknownDestinations")).min()
        })
    }

    /// Whether some filter looks at what arrives on `interface`.
    pub fn is_watched(&self, interface: &str) -> bool {
        self.filters().any(|(_, filter)| self.watches(filter, interface))
    }

    fn watches(&self, filter: &CidrFilterSpec, interface: &str) -> bool {
        let globs = if filter.interfaces.is_empty() { self.devices() } else { filter.interfaces.clone() };
        globs.iter().any(|glob| glob_matches(glob.as_bytes(), interface.as_bytes()))
    }
}

fn rule(object: &Object, path: &str) -> RuleId {
    RuleId { object: object.key.clone(), path: path.to_owned() }
}

fn excepted(filter: &CidrFilterSpec, address: IpAddr) -> bool {
    filter.exceptions.iter().any(|prefix| prefix.contains(&address))
}

fn listed(object: &Object, filter: &CidrFilterSpec, address: IpAddr) -> Vec<RuleId> {
    if excepted(filter, address) {
        return Vec::new();
    }
    let lists = filter.lists.iter().filter(|list| list.prefixes.iter().any(|prefix| prefix.contains(&address)));
    lists.map(|list| rule(object, &list.rule_path)).collect()
}

/// `*` is any run of characters, `?` any one.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    match (glob.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob_matches(rest, text) || text.split_first().is_some_and(|(_, tail)| glob_matches(glob, tail))
        }
        (Some((b'?', rest)), Some((_, tail))) => glob_matches(rest, tail),
        (Some((expected, rest)), Some((actual, tail))) => expected == actual && glob_matches(rest, tail),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::glob_matches;

    #[test]
    fn globs() {
        let matches = |glob: &str, text: &str| glob_matches(glob.as_bytes(), text.as_bytes());
        assert!(matches("eth*", "eth0") && matches("eth*", "eth") && matches("*", "") && matches("e?h0", "eth0"));
        assert!(!matches("eth", "eth0") && !matches("eth?", "eth") && !matches("*1", "eth0"));
        assert!(matches("*th*0", "eth10"));
    }
}
