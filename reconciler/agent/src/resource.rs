use serde::{Deserialize, Serialize};

/// What `get` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    Endpoints,
    Services,
    Backends,
    Identities,
    Policies,
    Filters,
    Rules,
    Tables,
    Metrics,
}

impl Resource {
    pub const ALL: [Self; 9] = [
        Self::Endpoints,
        Self::Services,
        Self::Backends,
        Self::Identities,
        Self::Policies,
        Self::Filters,
        Self::Rules,
        Self::Tables,
        Self::Metrics,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::Services => "services",
            Self::Backends => "backends",
            Self::Identities => "identities",
            Self::Policies => "policies",
            Self::Filters => "filters",
            Self::Rules => "rules",
            Self::Tables => "tables",
            Self::Metrics => "metrics",
        }
    }

    /// It takes a walk through conntrack, which may take a while.
    pub(crate) const fn counts_flows(self) -> bool {
        matches!(self, Self::Services | Self::Backends)
    }
}
