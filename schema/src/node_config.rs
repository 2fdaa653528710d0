use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::LabelSelector;

/// Settings of the nodes that `nodeSelector` selects. Unset fields mean "not said here": two objects may set different
/// fields of one node; setting one field differently is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfigSpec {
    /// Selects by the labels of `Node`; empty selects every node.
    #[serde(default)]
    pub node_selector: LabelSelector,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_mode: Option<AttachMode>,
    /// Globs of the network devices: host policy and, by default, the prefilter hold there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<String>>,
    #[serde(default)]
    pub limits: TableLimits,
    #[serde(default)]
    pub timeouts: ConntrackTimeouts,
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
}

/// Lifetimes of conntrack entries (humantime); defaults as Cilium's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConntrackTimeouts {
    /// After the first SYN. Default 1m.
    #[serde(default, with = "crate::duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub tcp_syn: Option<Duration>,
    /// Default 2h 13m 20s.
    #[serde(default, with = "crate::duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub tcp_established: Option<Duration>,
    /// After FIN both ways or a reset. Default 10s.
    #[serde(default, with = "crate::duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub tcp_closing: Option<Duration>,
    /// UDP, ICMP and everything else. Default 1m.
    #[serde(default, with = "crate::duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub other: Option<Duration>,
}
