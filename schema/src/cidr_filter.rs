use std::sync::Arc;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Prefixes, code,
    name::check_interface_glob,
    problem::{Path, Problems},
};

/// The prefilter: drops packets at XDP by source or destination prefix. An address in `allow` is never dropped by this
/// filter; another filter may still drop it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CidrFilterSpec {
    /// Globs of network device names; empty means the node's `devices`.
    #[serde(default)]
    pub interfaces: Vec<String>,
    /// Which address of a packet is compared. Default: `source`.
    #[serde(default, rename = "match")]
    pub matches: FilterMatch,
    /// CIDRs or bare addresses.
    #[serde(default)]
    pub cidrs: Prefixes,
    /// Exceptions: CIDRs or bare addresses that this filter never drops.
    #[serde(default)]
    pub allow: Prefixes,
    /// Published drop lists, by path relative to the manifest: one CIDR or address a line, `;` or `#` starts a comment.
    #[serde(default)]
    pub from_files: Vec<String>,
    /// Where the filter runs. Default: `auto`.
    #[serde(default)]
    pub mode: XdpMode,
    /// Also drop what is addressed inside the node's endpoint ranges and to no endpoint.
    #[serde(default)]
    pub drop_unknown_destinations: bool,
    /// Every list parsed, in the order `cidrs`, `fromFiles[0..]`; filled by the parser.
    #[serde(skip)]
    pub lists: Vec<CidrList>,
    /// `allow` parsed; filled by the parser.
    #[serde(skip)]
    pub exceptions: Vec<IpNet>,
}

impl CidrFilterSpec {
    pub(crate) const CIDRS: &str = "spec.cidrs";

    pub(crate) fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        for (name, list) in [("cidrs", &self.cidrs), ("allow", &self.allow)] {
            let at = at.field(name);
            for entry in list.malformed() {
                let problem =
                    problems.push(entry.error.code(), &at.index(entry.index), entry.error.message(&entry.text));
                problem.help = entry.error.help(&entry.text);
            }
        }
        let interfaces = at.field("interfaces");
        for (index, glob) in self.interfaces.iter().enumerate() {
            check_interface_glob(glob, &interfaces.index(index), problems);
        }
        let files = at.field("fromFiles");
        for (index, name) in self.from_files.iter().enumerate() {
            if name.is_empty() || name.contains('\0') {
                problems.push(code::INVALID_VALUE, &files.index(index), "this is no file name");
            }
        }
    }

    /// With `lists` and `exceptions` filled from the document itself.
    pub(crate) fn with_own_lists(mut self) -> Self {
        self.lists.clear();
        if !self.cidrs.is_empty() {
            self.lists.push(CidrList { rule_path: Self::CIDRS.to_owned(), prefixes: self.cidrs.shared() });
        }
        self.exceptions = self.allow.to_vec();
        self
    }
}

/// One list of prefixes under one rule path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CidrList {
    /// `spec.cidrs` or `spec.fromFiles[n]`: the rule that an entry of this list is counted under.
    pub rule_path: String,
    /// Sorted and without duplicates, host bits zero.
    pub prefixes: Arc<[IpNet]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FilterMatch {
    #[default]
    Source,
    Destination,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native where the driver has it, generic otherwise.
    #[default]
    Auto,
    Native,
    Generic,
}
