use std::io;

/// A request that the kernel refused, or that could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("{doing}: {cause}")]
    Refused { doing: String, cause: io::Error },
    #[error("{doing}: the kernel's answer makes no sense: {cause}")]
    Garbled { doing: String, cause: String },
    #[error("the network namespace {netns} is not there")]
    NetnsMissing { netns: String },
    #[error("entering the network namespace {netns}: {cause}")]
    Enter { netns: String, cause: io::Error },
}

impl NetlinkError {
    /// The errno of a refusal.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { cause, .. } | Self::Enter { cause, .. } => cause.raw_os_error(),
            Self::Garbled { .. } | Self::NetnsMissing { .. } => None,
        }
    }
}
