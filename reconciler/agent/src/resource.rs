use serde::{Deserialize, Serialize};

/// What `get` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    Endpoints,
    Identities,
    Policies,
    Filters,
    Rules,
    Tables,
    Metrics,
}

impl Resource {
    pub const ALL: [Self; 7] =
        [Self::Endpoints, Self::Identities, Self::Policies, Self::Filters, Self::Rules, Self::Tables, Self::Metrics];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::Identities => "identities",
            Self::Policies => "policies",
            Self::Filters => "filters",
            Self::Rules => "rules",
            Self::Tables => "tables",
            Self::Metrics => "metrics",
        }
    }
}
