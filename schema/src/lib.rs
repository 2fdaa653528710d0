//! The manifest language of Weir: one file per kind.
//!
//! Bytes in, typed objects out, or every error of every file with its place. [`parse`] is the only way in: it splits
//! documents, picks the type by (apiVersion, kind), deserializes strictly, applies defaults, and checks what one object
//! and the whole set must hold. A set is valid or not as a whole.
//!
//! Pure: no file, socket, clock or thread. It knows nothing of tables, identities or the kernel, and nothing of where
//! the bytes came from beyond a path to show.
#![forbid(unsafe_code)]

mod annotation;
mod cached;
mod chunks;
mod cidr_filter;
mod cidr_list;
mod cilium_policy;
mod claims;
pub mod code;
mod diagnostic;
mod document;
mod documents;
mod duration;
mod endpoint;
mod flow_test;
mod from_files;
mod header;
mod icmp;
mod inventory;
mod json_schema;
mod kinds;
mod kubernetes;
mod kubernetes_service;
mod label;
mod lane;
mod lift;
mod locate;
mod marked;
mod meta;
mod name;
mod node;
mod node_config;
mod object;
mod packed;
mod parse;
mod place;
mod policy_check;
mod port;
mod prefix;
mod prefixes;
mod problem;
mod selector;
mod service;
mod set_check;
mod stored;
mod structure;
mod suggest;
mod update;

pub use cidr_filter::{CidrFilterSpec, CidrList, FilterMatch, XdpMode};
pub use cilium_policy::{
    CidrRule, EgressDenyRule, EgressRule, EnableDefaultDeny, Entity, IcmpRule, IngressDenyRule, IngressRule,
    PolicyRule, PortProtocol, PortRule, Protocol,
};
pub use diagnostic::{Diagnostic, Diagnostics};
pub use endpoint::{Attach, EndpointSpec, HostTrue, NamedPort};
pub use flow_test::{
    DenyReason, Expectation, ExpectedBackend, ExpectedVerdict, FlowEnd, FlowTestProtocol, FlowTestSpec,
};
pub use icmp::{IcmpFamily, IcmpField, IcmpType};
pub use inventory::{CheckedObjects, Inventory, assemble, check_whole, parse};
pub use json_schema::json_schemas;
pub use kubernetes::{
    IntOrString, IpBlock, KubernetesNetworkPolicySpec, NamespaceSpec, NetworkPolicyEgressRule,
    NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, PolicyType,
};
pub use kubernetes_service::{
    ClientIp, EndpointSliceSpec, KubernetesAffinity, KubernetesAffinityConfig, KubernetesFrontend,
    KubernetesServicePort, KubernetesServiceSpec, KubernetesServiceType, ReadOver, SliceAddressType, SliceConditions,
    SliceEndpoint, SlicePort,
};
pub use label::{LabelSource, split_prefix};
pub use locate::{locate, locate_list_entry};
pub use meta::{Metadata, ObjectKey};
pub use node::NodeSpec;
pub use node_config::{
    Acceleration, AttachMode, ConntrackTimeouts, LoadBalancer, LocalDelivery, Masquerade, NodeConfigSpec, TableLimits,
};
pub use object::{ContentHash, File, Object, Origin, Spec};
pub use parse::{Options, ParseCounts, ParsedFile, is_manifest, parse_file, parse_file_after};
pub use place::Position;
pub use port::PortNumber;
pub use prefixes::Prefixes;
pub use selector::{LabelSelector, Operator, Requirement};
pub use service::{
    Algorithm, Backend, BackendState, Frontend, FrontendType, NoBackends, ServiceProtocol, ServiceSpec,
    SessionAffinity, TrafficPolicy,
};
pub use update::Changes;
