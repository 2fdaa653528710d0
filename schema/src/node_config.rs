use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    LabelSelector, code,
    name::check_interface_glob,
    problem::{Path, Problems},
};

/// Settings of the nodes that `nodeSelector` selects. Unset fields mean "not said here": two objects may set different
/// fields of one node; setting one field differently is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfigSpec {
    /// Selects by the labels of `Node`; empty selects every node.
    #[serde(default)]
    pub node_selector: LabelSelector,
    /// How programs are attached at tc. Default: `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_mode: Option<AttachMode>,
    /// How what is for an endpoint of the node reaches it. Default: `redirect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_delivery: Option<LocalDelivery>,
    /// Globs of the network devices: host policy and, by default, the prefilter hold there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<String>>,
    /// Most entries of each table.
    #[serde(default)]
    pub limits: TableLimits,
    /// Lifetimes of conntrack entries.
    #[serde(default)]
    pub timeouts: ConntrackTimeouts,
    /// How endpoints reach the outside.
    #[serde(default)]
    pub masquerade: Masquerade,
    /// Whether sockets of the host reach services by themselves, before a packet is made; it needs cgroup2. Default
    /// true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_load_balancing: Option<bool>,
    /// How services reach backends on other machines.
    #[serde(default)]
    pub load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancer {
    /// Whether XDP sends on what clients outside and backends elsewhere say to each other, and how it is attached to
    /// network devices. Default: `disabled`, for what leaves by XDP is past the host's own firewall and queueing, and
    /// not every driver sends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceleration: Option<Acceleration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Acceleration {
    #[default]
    Disabled,
    /// Native where the driver can, generic otherwise.
    Auto,
    Native,
    Generic,
}

/// What endpoints send to nobody of the cluster leaves under the address of the network device that it leaves by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Masquerade {
    /// Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Networks that see the endpoints' own addresses, beside every node's addresses and endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::json_schema::cidrs")]
    pub exclude: Option<Vec<IpNet>>,
    /// The first port that the address is lent with, to endpoints and to clients of backends elsewhere. Default 61000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_port: Option<u16>,
    /// The last one. Default 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_port: Option<u16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// tcx where the kernel has it (6.6), clsact otherwise.
    #[default]
    Auto,
    Tcx,
    Clsact,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LocalDelivery {
    /// Past the stack once both ends allow the flow: no netfilter rule and no queueing discipline of the endpoint's device
    /// sees it.
    #[default]
    Redirect,
    /// By the kernel's forwarding, always.
    Stack,
}

/// Most entries each table may hold. The plan refuses what would not fit before anything is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TableLimits {
    /// Default 524288.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipcache: Option<u32>,
    /// Default 65536.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<u32>,
    /// Default 1048576; the kernel allocates it whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conntrack_tcp: Option<u32>,
    /// Default 262144; the kernel allocates it whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conntrack_other: Option<u32>,
    /// Entries of one subject identity. Default 16384.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_per_identity: Option<u32>,
    /// Default 1048576.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_total: Option<u32>,
    /// Default 4194304.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefilter: Option<u32>,
    /// Addresses with their ports, and addresses alone, that belong to services. Default 262144.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontends: Option<u32>,
    /// Default 65536.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<u32>,
    /// Default 1048576; a backend of two services counts twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backends: Option<u32>,
    /// Clients that are remembered for session affinity. Default 65536; the kernel allocates it whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<u32>,
    /// Ports that the node's addresses are lent with. Default 262144; the kernel allocates it whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<u32>,
    /// Sockets of the host that reach services, and unconnected ones twice. Default 65536; the kernel allocates it whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets: Option<u32>,
}

/// Lifetimes of conntrack entries (humantime); defaults as Cilium's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConntrackTimeouts {
    /// After the first SYN. Default 1m.
    #[serde(default, with = "crate::duration", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::json_schema::duration")]
    pub tcp_syn: Option<Duration>,
    /// Default 2h 13m 20s.
    #[serde(default, with = "crate::duration", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::json_schema::duration")]
    pub tcp_established: Option<Duration>,
    /// After FIN both ways or a reset. Default 10s.
    #[serde(default, with = "crate::duration", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::json_schema::duration")]
    pub tcp_closing: Option<Duration>,
    /// UDP, ICMP and everything else. Default 1m.
    #[serde(default, with = "crate::duration", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::json_schema::duration")]
    pub other: Option<Duration>,
}

/// No table is larger; the kernel would take more, no machine would.
const MOST_ENTRIES: u32 = 1 << 26;
/// Ten years: longer than a counter of seconds in 32 bits has to hold, shorter than a mistake.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86400);

impl NodeConfigSpec {
    pub(crate) fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        self.node_selector.check(&at.field("nodeSelector"), problems);
        let devices = at.field("devices");
        for (index, glob) in self.devices.iter().flatten().enumerate() {
            check_interface_glob(glob, &devices.index(index), problems);
        }
        self.masquerade.check(&at.field("masquerade"), problems);
        let limits = at.field("limits");
        for (name, limit) in self.limits.fields() {
            if limit.is_some_and(|limit| limit == 0 || limit > MOST_ENTRIES) {
                let message = format!("`{name}` must be from 1 to {MOST_ENTRIES}");
                problems.push(code::INVALID_VALUE, &limits.field(name), message);
            }
        }
        let timeouts = at.field("timeouts");
        for (name, timeout) in self.timeouts.fields() {
            let Some(timeout) = timeout else { continue };
            if timeout.subsec_nanos() != 0 || timeout.is_zero() || timeout > LONGEST {
                problems
                    .push(
                        code::INVALID_DURATION,
                        &timeouts.field(name),
                        format!("`{name}` must be whole seconds, from 1s to 10years"),
                    )
                    .help("write for example `90s` or `2h`");
            }
        }
    }
}

impl Masquerade {
    fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        let exclude = at.field("exclude");
        for (index, net) in self.exclude.iter().flatten().enumerate() {
            if *net != net.trunc() {
                problems
                    .push(
                        code::HOST_BITS,
                        &exclude.index(index),
                        format!("`{net}` has bits set behind its prefix length"),
                    )
                    .help(format!("write `{}`", net.trunc()));
            }
        }
        if let Some(first) = self.first_port
            && first < 1024
        {
            problems
                .push(code::INVALID_PORT, &at.field("firstPort"), format!("port {first} is below 1024"))
                .help("lend ports that nobody listens on, above the node's `net.ipv4.ip_local_port_range`");
        }
        if let (Some(first), Some(last)) = (self.first_port, self.last_port)
            && first > last
        {
            problems.push(
                code::INVALID_PORT,
                &at.field("lastPort"),
                format!("the last port, {last}, is below the first, {first}"),
            );
        }
    }

    /// Each field by its name in manifests, in a form that compares.
    pub(crate) fn fields(&self) -> [(&'static str, Option<String>); 4] {
        [
            ("enabled", self.enabled.map(|enabled| enabled.to_string())),
            ("exclude", self.exclude.as_ref().map(|exclude| format!("{exclude:?}"))),
            ("firstPort", self.first_port.map(|port| port.to_string())),
            ("lastPort", self.last_port.map(|port| port.to_string())),
        ]
    }
}

impl TableLimits {
    /// Each field by its name in manifests.
    pub(crate) fn fields(&self) -> [(&'static str, Option<u32>); 13] {
        [
            ("ipcache", self.ipcache),
            ("endpoints", self.endpoints),
            ("conntrackTcp", self.conntrack_tcp),
            ("conntrackOther", self.conntrack_other),
            ("policyPerIdentity", self.policy_per_identity),
            ("policyTotal", self.policy_total),
            ("prefilter", self.prefilter),
            ("frontends", self.frontends),
            ("services", self.services),
            ("backends", self.backends),
            ("affinity", self.affinity),
            ("nat", self.nat),
            ("sockets", self.sockets),
        ]
    }
}

impl ConntrackTimeouts {
    /// Each field by its name in manifests.
    pub(crate) fn fields(&self) -> [(&'static str, Option<Duration>); 4] {
        [
            ("tcpSyn", self.tcp_syn),
            ("tcpEstablished", self.tcp_established),
            ("tcpClosing", self.tcp_closing),
            ("other", self.other),
        ]
    }
}
