use std::fmt;

use weir_plan::{ObjectRef, OutOfNumbers};

/// Why a set that parses cannot become tables. Codes are stable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    pub code: &'static str,
    pub object: Option<ObjectRef>,
    /// Path of the field inside the object.
    pub path: Option<String>,
    pub message: String,
    pub help: Option<String>,
}

/// The stable codes of [`CompileError`] and of [`weir_plan::Pending`].
pub mod code {
    /// A table would hold more entries than its limit.
    pub const TABLE_FULL: &str = "table-full";
    /// More different sets of filters than a prefilter class has columns.
    pub const TOO_MANY_GROUPS: &str = "too-many-interface-groups";
    /// Two filters ask for different XDP modes on one device.
    pub const XDP_MODE_CONFLICT: &str = "xdp-mode-conflict";
    /// A pattern for device names that is none.
    pub const INVALID_GLOB: &str = "invalid-glob";
    /// A number space is used up.
    pub const OUT_OF_NUMBERS: &str = "out-of-numbers";
    /// Pending: no device has this name, or matches this pattern.
    pub const INTERFACE_MISSING: &str = "interface-missing";
    /// Pending: there is no such network namespace.
    pub const NETNS_MISSING: &str = "netns-missing";
    /// Pending: the host's sockets cannot reach services.
    pub const CGROUP_MISSING: &str = "cgroup-missing";
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if let Some(path) = &self.path {
            write!(f, "{path}: ")?;
        }
        write!(f, "{} [{}]", self.message, self.code)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CompileError {}

impl From<OutOfNumbers> for CompileError {
    fn from(error: OutOfNumbers) -> Self {
        Self { code: code::OUT_OF_NUMBERS, object: None, path: None, message: error.to_string(), help: None }
    }
}
