use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A machine of the fleet; `metadata.name` is what `--node` names, its labels are what `nodeSelector` selects by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSpec {
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub addresses: Vec<IpAddr>,
    /// The ranges that this node's endpoints are addressed from (for `dropUnknownDestinations`).
    #[serde(default, rename = "endpointCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub endpoint_cidrs: Vec<IpNet>,
}
