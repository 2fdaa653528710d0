use std::{fmt::Display, io};

use weir_plan::{DatapathError, InterfaceName};

use crate::{attach::AttachError, netlink::NetlinkError};

pub type Result<T, E = DatapathError> = std::result::Result<T, E>;

/// For an object that is no table entry.
pub fn failed(doing: &'static str, what: impl Display, cause: io::Error) -> DatapathError {
    if matches!(cause.raw_os_error(), Some(libc::EPERM | libc::EACCES)) {
        return DatapathError::NotPermitted { capability: "CAP_BPF and CAP_NET_ADMIN", cause: cause.to_string() };
    }
    DatapathError::Failed { doing, what: what.to_string(), cause: cause.to_string() }
}

/// For an entry of a table.
pub fn entry(doing: &'static str, table: &'static str, key: impl Display, cause: io::Error) -> DatapathError {
    if cause.raw_os_error() == Some(libc::EPERM) {
        return DatapathError::NotPermitted { capability: "CAP_BPF", cause: cause.to_string() };
    }
    DatapathError::Table { doing, table, key: key.to_string(), cause }
}

pub fn netlink(error: NetlinkError) -> DatapathError {
    match error {
        NetlinkError::NetnsMissing { netns } => DatapathError::NetnsMissing { netns },
        error if matches!(error.errno(), Some(libc::EPERM)) => {
            DatapathError::NotPermitted { capability: "CAP_NET_ADMIN", cause: error.to_string() }
        }
        NetlinkError::Refused { doing, cause } => {
            DatapathError::Failed { doing: "rtnetlink:", what: doing, cause: cause.to_string() }
        }
        error => DatapathError::Failed { doing: "rtnetlink:", what: String::new(), cause: error.to_string() },
    }
}

pub fn attach(error: AttachError) -> DatapathError {
    match error {
        AttachError::ForeignXdp { interface, program } => {
            DatapathError::ForeignXdp { interface: InterfaceName(interface.into()), program }
        }
        AttachError::Netlink(error) => netlink(error),
        AttachError::Attach { cause, .. } | AttachError::Pin { cause, .. }
            if cause.raw_os_error() == Some(libc::EPERM) =>
        {
            DatapathError::NotPermitted { capability: "CAP_BPF and CAP_NET_ADMIN", cause: cause.to_string() }
        }
        AttachError::NoCgroup { program } => DatapathError::Unsupported {
            what: format!("attaching {program}"),
            cause: "cgroup2 is not mounted; mount it with `mount -t cgroup2 none /sys/fs/cgroup`".to_owned(),
        },
        AttachError::Attach { program, interface, cause } => DatapathError::Failed {
            doing: "attaching",
            what: format!("{program} to {interface}"),
            cause: cause.to_string(),
        },
        AttachError::Pin { doing, path, cause } => {
            DatapathError::Failed { doing, what: path.display().to_string(), cause: cause.to_string() }
        }
    }
}
