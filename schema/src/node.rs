use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    code,
    prefix::unusable_address,
    problem::{Path, Problems},
};

/// A machine of the fleet; `metadata.name` is what `--node` names, its labels are what `nodeSelector` selects by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSpec {
    /// The machine's own addresses, IPv4 and IPv6.
    #[serde(default)]
    #[schemars(schema_with = "crate::json_schema::addresses")]
    pub addresses: Vec<IpAddr>,
    /// The ranges that this node's endpoints are addressed from (for `dropUnknownDestinations`).
    #[serde(default, rename = "endpointCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::json_schema::cidrs")]
    pub endpoint_cidrs: Vec<IpNet>,
    /// Those of `addresses` that Weir gives to the router of this node's endpoints, one of each family: the gateway
    /// that endpoints in network namespaces have, and what the host itself speaks to them from. What is addressed
    /// inside `endpointCIDRs` and to no endpoint ends there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::json_schema::addresses")]
    pub router_addresses: Vec<IpAddr>,
}

impl NodeSpec {
    pub(crate) fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        check_addresses(&self.addresses, &at.field("addresses"), problems);
        let ranges = at.field("endpointCIDRs");
        for (index, range) in self.endpoint_cidrs.iter().enumerate() {
            if *range != range.trunc() {
                problems
                    .push(
                        code::HOST_BITS,
                        &ranges.index(index),
                        format!("`{range}` has bits set behind its prefix length"),
                    )
                    .help(format!("write `{}`", range.trunc()));
            }
        }
        let routers = at.field("routerAddresses");
        check_addresses(&self.router_addresses, &routers, problems);
        for (index, address) in self.router_addresses.iter().enumerate() {
            let at = routers.index(index);
            if !self.addresses.contains(address) {
                problems
                    .push(code::INVALID_ADDRESS, &at, format!("`{address}` is not an address of this node"))
                    .help("add it to `addresses`: it is the host's own");
            }
            let of_family = |other: &&IpAddr| other.is_ipv4() == address.is_ipv4() && *other != address;
            if self.router_addresses[..index].iter().any(|other| of_family(&other)) {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                problems.push(code::INVALID_ADDRESS, &at, format!("a router has one {family} address"));
            }
        }
    }
}

/// The addresses of a node or an endpoint.
pub(crate) fn check_addresses(addresses: &[IpAddr], at: &Path<'_>, problems: &mut Problems) {
    for (index, address) in addresses.iter().enumerate() {
        if let Some(what) = unusable_address(*address) {
            let message = format!("`{address}` is {what}: nobody can have it");
            problems.push(code::INVALID_ADDRESS, &at.index(index), message);
        }
        if let Some(first) = addresses[..index].iter().position(|earlier| earlier == address) {
            problems
                .push(code::DUPLICATE_ADDRESS, &at.index(index), format!("`{address}` stands here a second time"))
                .related(&at.index(first), "first here");
        }
    }
}
