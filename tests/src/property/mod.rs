//! The property: for every set of manifests and every flow, what the kernel does is what the reference evaluator says.
//!
//! Sets are drawn from a seed that is printed, written as YAML, parsed by the real parser and compiled by the real
//! compiler. They are compared with the evaluator twice: in memory, by walking the compiled tables as the ABI says
//! that a program walks them, which is fast and finds what the compiler got wrong; and in the kernel, with the real
//! programs. Planted faults prove that a disagreement would be seen.
pub mod census;
pub mod check;
pub mod compiled;
pub mod faults;
mod filters;
pub mod flows;
pub mod generate;
pub mod kernel;
pub mod model;
pub mod objects;
mod peers;
mod policies;
mod ports;
pub mod programs;
pub mod random;
pub mod seeds;
pub mod services;
pub mod topology;

/// Everything that a set can make use of; each must appear in at least 2 % of the sets.
pub const FEATURES: &[&str] = &[
    "CiliumClusterwideNetworkPolicy",
    "CiliumNetworkPolicy",
    "NetworkPolicy",
    "networking.k8s.io NetworkPolicy",
    "CidrFilter",
    "Namespace",
    "endpoint of another node",
    "host endpoint",
    "nodeSelector",
    "specs",
    "ingress",
    "ingressDeny",
    "egress",
    "egressDeny",
    "empty section",
    "empty rule",
    "enableDefaultDeny: true",
    "enableDefaultDeny: false",
    "matchLabels",
    "label prefix",
    "In",
    "NotIn",
    "Exists",
    "DoesNotExist",
    "no peer field",
    "empty peer list",
    "empty peer selector",
    "namespace in a selector",
    "namespace labels in a selector",
    "reserved label",
    "from/toEndpoints",
    "from/toCIDR",
    "from/toCIDRSet",
    "except",
    "CIDR inside an exception",
    "from/toEntities",
    "all",
    "world",
    "world-ipv4",
    "world-ipv6",
    "cluster",
    "host",
    "remote-node",
    "entity that is nobody",
    "from/toNodes",
    "union of peer fields",
    "no port field",
    "toPorts without ports",
    "port",
    "port range",
    "port 0",
    "named port",
    "TCP",
    "UDP",
    "SCTP",
    "any protocol",
    "ICMP",
    "ICMPv6",
    "policyTypes",
    "podSelector as peer",
    "namespaceSelector",
    "namespaceSelector and podSelector",
    "ipBlock",
    "protocol without port",
    "allow",
    "match: destination",
    "interfaces",
    "dropUnknownDestinations",
];
