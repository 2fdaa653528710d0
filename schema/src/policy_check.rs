//! What the rules of policies must hold beyond their types.
use ipnet::IpNet;

use crate::{
    CidrRule, EgressDenyRule, EgressRule, EnableDefaultDeny, IcmpRule, IngressDenyRule, IngressRule, LabelSelector,
    PolicyRule, PortNumber, PortRule, code,
    port::is_port_name,
    prefix::parse_prefix,
    problem::{Path, Problems},
};

/// Whether `nodeSelector` may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PolicyScope {
    Namespaced,
    Clusterwide,
}

impl PolicyRule {
    pub(crate) fn check(&self, scope: PolicyScope, at: &Path<'_>, problems: &mut Problems) {
        match (&self.endpoint_selector, &self.node_selector) {
            (Some(_), Some(_)) => {
                problems
                    .push(code::SELECTOR_FORM, &at.field("nodeSelector"), "a rule selects endpoints or nodes, not both")
                    .at_key()
                    .related(&at.field("endpointSelector"), "the other selector")
                    .help("write two rules");
            }
            (None, None) => {
                problems
                    .push(code::SELECTOR_FORM, at, "a rule needs `endpointSelector` or `nodeSelector`")
                    .at_key()
                    .help("`endpointSelector: {}` selects every endpoint of the namespace");
            }
            (None, Some(_)) if scope == PolicyScope::Namespaced => {
                problems
                    .push(code::SELECTOR_FORM, &at.field("nodeSelector"), "nodes are in no namespace")
                    .at_key()
                    .help("use `nodeSelector` in a `cilium.io/v2` CiliumClusterwideNetworkPolicy");
            }
            _ => {}
        }
        for (name, selector) in [("endpointSelector", &self.endpoint_selector), ("nodeSelector", &self.node_selector)] {
            if let Some(selector) = selector {
                selector.check(&at.field(name), problems);
            }
        }
        let sections =
            [self.ingress.is_some(), self.ingress_deny.is_some(), self.egress.is_some(), self.egress_deny.is_some()];
        if !sections.contains(&true) && self.enable_default_deny == EnableDefaultDeny::default() {
            problems
                .push(code::EMPTY_RULE, at, "a rule needs `ingress`, `ingressDeny`, `egress` or `egressDeny`")
                .at_key()
                .help("`ingress: [{}]` allows nobody in, `egress: [{}]` lets nobody out");
        }
        check_items(self.ingress.as_deref(), &at.field("ingress"), problems);
        check_items(self.ingress_deny.as_deref(), &at.field("ingressDeny"), problems);
        check_items(self.egress.as_deref(), &at.field("egress"), problems);
        check_items(self.egress_deny.as_deref(), &at.field("egressDeny"), problems);
    }
}

/// One item of a section, the same for all four.
struct Item<'a> {
    names: &'static Names,
    endpoints: Option<&'a [LabelSelector]>,
    cidr: Option<&'a [String]>,
    cidr_set: Option<&'a [CidrRule]>,
    entities: bool,
    nodes: Option<&'a [LabelSelector]>,
    to_ports: Option<&'a [PortRule]>,
    icmps: Option<&'a [IcmpRule]>,
}

struct Names {
    endpoints: &'static str,
    cidr: &'static str,
    cidr_set: &'static str,
    entities: &'static str,
    nodes: &'static str,
}

const FROM: Names = Names {
    endpoints: "fromEndpoints",
    cidr: "fromCIDR",
    cidr_set: "fromCIDRSet",
    entities: "fromEntities",
    nodes: "fromNodes",
};
const TO: Names =
    Names { endpoints: "toEndpoints", cidr: "toCIDR", cidr_set: "toCIDRSet", entities: "toEntities", nodes: "toNodes" };

trait AsItem {
    fn as_item(&self) -> Item<'_>;
}

macro_rules! as_item {
    ($($rule:ty: $names:ident, $endpoints:ident, $cidr:ident, $cidr_set:ident, $entities:ident, $nodes:ident;)*) => {
        $(impl AsItem for $rule {
            fn as_item(&self) -> Item<'_> {
                Item {
                    names: &$names,
                    endpoints: self.$endpoints.as_deref(),
                    cidr: self.$cidr.as_deref(),
                    cidr_set: self.$cidr_set.as_deref(),
                    entities: self.$entities.is_some(),
                    nodes: self.$nodes.as_deref(),
                    to_ports: self.to_ports.as_deref(),
                    icmps: self.icmps.as_deref(),
                }
            }
        })*
    };
}

as_item! {
    IngressRule: FROM, from_endpoints, from_cidr, from_cidr_set, from_entities, from_nodes;
    IngressDenyRule: FROM, from_endpoints, from_cidr, from_cidr_set, from_entities, from_nodes;
    EgressRule: TO, to_endpoints, to_cidr, to_cidr_set, to_entities, to_nodes;
    EgressDenyRule: TO, to_endpoints, to_cidr, to_cidr_set, to_entities, to_nodes;
}

fn check_items<T: AsItem>(items: Option<&[T]>, at: &Path<'_>, problems: &mut Problems) {
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        item.as_item().check(&at.index(index), problems);
    }
}

impl Item<'_> {
    fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        self.check_form(at, problems);
        for (name, selectors) in [(self.names.endpoints, self.endpoints), (self.names.nodes, self.nodes)] {
            let at = at.field(name);
            for (index, selector) in selectors.unwrap_or_default().iter().enumerate() {
                selector.check(&at.index(index), problems);
            }
        }
        let cidrs = at.field(self.names.cidr);
        for (index, cidr) in self.cidr.unwrap_or_default().iter().enumerate() {
            check_cidr(cidr, &cidrs.index(index), problems);
        }
        let sets = at.field(self.names.cidr_set);
        for (index, set) in self.cidr_set.unwrap_or_default().iter().enumerate() {
            check_cidr_with_holes(&set.cidr, &set.except, &sets.index(index), problems);
        }
        let to_ports = at.field("toPorts");
        for (index, rule) in self.to_ports.unwrap_or_default().iter().enumerate() {
            let at = to_ports.index(index);
            let ports = at.field("ports");
            for (index, port) in rule.ports.iter().enumerate() {
                check_port(Some(&port.port), port.end_port, &ports.index(index), problems);
            }
        }
    }

    /// Which fields go together, as in Cilium.
    fn check_form(&self, at: &Path<'_>, problems: &mut Problems) {
        let names = self.names;
        let prefixes = [
            (names.cidr, self.cidr.is_some()),
            (names.cidr_set, self.cidr_set.is_some()),
            (names.entities, self.entities),
        ];
        let by_prefix = prefixes.iter().find(|(_, there)| *there).map(|(name, _)| *name);
        let kinds = [self.endpoints.map(|_| names.endpoints), self.nodes.map(|_| names.nodes), by_prefix];
        let mut there = kinds.into_iter().flatten();
        if let (Some(first), Some(second)) = (there.next(), there.next()) {
            problems
                .push(
                    code::RULE_FORM,
                    &at.field(second),
                    format!("`{second}` and `{first}` exclude each other in a rule"),
                )
                .at_key()
                .related(&at.field(first), "the other one")
                .help("write two rules");
        }
        let some = |there: Option<bool>| there == Some(false);
        if some(self.to_ports.map(<[_]>::is_empty)) && some(self.icmps.map(<[_]>::is_empty)) {
            problems
                .push(code::RULE_FORM, &at.field("icmps"), "`icmps` and `toPorts` exclude each other in a rule")
                .at_key()
                .related(&at.field("toPorts"), "the other one")
                .help("write two rules");
        }
    }
}

fn check_cidr(text: &str, at: &Path<'_>, problems: &mut Problems) -> Option<IpNet> {
    match parse_prefix(text) {
        Ok(net) => Some(net),
        Err(error) => {
            problems.push(error.code(), at, error.message(text)).help = error.help(text);
            None
        }
    }
}

/// A `cidr` with `except`, each inside it.
pub(crate) fn check_cidr_with_holes(cidr: &str, except: &[String], at: &Path<'_>, problems: &mut Problems) {
    let whole = check_cidr(cidr, &at.field("cidr"), problems);
    let holes = at.field("except");
    for (index, hole) in except.iter().enumerate() {
        let at_hole = holes.index(index);
        let (Some(hole), Some(whole)) = (check_cidr(hole, &at_hole, problems), whole) else { continue };
        if !whole.contains(&hole) {
            problems
                .push(code::EXCEPT_OUTSIDE, &at_hole, format!("`{hole}` is not inside `{whole}`"))
                .related(&at.field("cidr"), "the prefix that it should be inside of");
        }
    }
}

/// A port and the end of its range.
pub(crate) fn check_port(port: Option<&PortNumber>, end: Option<u16>, at: &Path<'_>, problems: &mut Problems) {
    match (port, end) {
        (Some(PortNumber::Name(name)), end) => {
            if !is_port_name(name) {
                problems
                    .push(
                        code::INVALID_PORT,
                        &at.field("port"),
                        format!("`{name}` is neither a port number nor a port's name"),
                    )
                    .help("write a number from 0 to 65535, or a name of at most 15 letters, digits and `-`");
            }
            if end.is_some() {
                problems
                    .push(code::INVALID_PORT, &at.field("endPort"), "a named port has no range")
                    .at_key()
                    .help("write the first port as a number, or leave `endPort` out");
            }
        }
        (Some(PortNumber::Number(first)), Some(last)) if last < *first => {
            problems
                .push(
                    code::INVERTED_RANGE,
                    &at.field("endPort"),
                    format!("the range ends at {last}, before its start {first}"),
                )
                .related(&at.field("port"), "its start")
                .help(format!("for the ports between, write `port: {last}` and `endPort: {first}`"));
        }
        (None, Some(_)) => {
            problems.push(code::INVALID_PORT, &at.field("endPort"), "`endPort` needs `port`").at_key();
        }
        _ => {}
    }
}
