use std::{fmt, path::PathBuf, str::FromStr};

use crate::{DirSource, SourceError, git::GitSpec};

/// What `--source` and `-f` name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    /// `dir:/etc/weir`, or a bare path of a directory or a file.
    Dir(PathBuf),
    /// `-`
    Stdin,
    /// `git+https://…`, `git+ssh://…`, `git+file://…`
    Git(String),
    /// `etcd://host:2379/prefix`
    Etcd(String),
}

impl SourceSpec {
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        if let Some(path) = text.strip_prefix("dir:") {
            return if path.is_empty() { Err(SourceError::Unnamed) } else { Ok(Self::Dir(path.into())) };
        }
        match text {
            "" => Err(SourceError::Unnamed),
            "-" => Ok(Self::Stdin),
            _ if text.starts_with("git+") => {
                GitSpec::parse(text)?;
                Ok(Self::Git(text.to_owned()))
            }
            _ if text.starts_with("etcd://") || text.starts_with("etcds://") => Ok(Self::Etcd(text.to_owned())),
            _ if text.contains("://") => Err(SourceError::UnknownScheme { spec: text.to_owned() }),
            _ => Ok(Self::Dir(text.into())),
        }
    }

    /// The directories and files that `specs` name; an error for another kind.
    pub fn directories(specs: &[Self]) -> Result<DirSource, SourceError> {
        let mut roots = Vec::new();
        for spec in specs {
            match spec {
                Self::Dir(path) => roots.push(path.clone()),
                Self::Stdin => {
                    return Err(SourceError::NotSupported { spec: "-".to_owned(), what: "mixed or followed stdin" });
                }
                Self::Git(text) | Self::Etcd(text) => return Err(SourceError::Mixed { spec: text.clone() }),
            }
        }
        if roots.is_empty() { Err(SourceError::Unnamed) } else { Ok(DirSource::new(&roots)) }
    }
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(path) => write!(f, "dir:{}", path.display()),
            Self::Stdin => f.write_str("-"),
            Self::Git(text) | Self::Etcd(text) => f.write_str(text),
        }
    }
}

impl FromStr for SourceSpec {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sources() {
        let dir = |path: &str| SourceSpec::Dir(path.into());
        assert_eq!(SourceSpec::parse("dir:/etc/weir").unwrap(), dir("/etc/weir"));
        assert_eq!(SourceSpec::parse("/etc/weir").unwrap(), dir("/etc/weir"));
        assert_eq!(SourceSpec::parse("a:b").unwrap(), dir("a:b"));
        assert_eq!(SourceSpec::parse("dir:-").unwrap(), dir("-"));
        assert_eq!(SourceSpec::parse("-").unwrap(), SourceSpec::Stdin);
        for text in ["", "dir:"] {
            assert_eq!(SourceSpec::parse(text).unwrap_err().code(), "source-unknown");
        }
        assert!(matches!(SourceSpec::parse("s3://x"), Err(SourceError::UnknownScheme { .. })));
        assert_eq!(SourceSpec::parse("/etc/weir").unwrap().to_string(), "dir:/etc/weir");
    }

    #[test]
    fn git_and_etcd_stand_alone() {
        for text in ["git+https://example.org/x.git#main", "etcd://10.0.0.1:2379/weir/"] {
            let spec = SourceSpec::parse(text).unwrap();
            assert_eq!(spec.to_string(), text);
            let error = SourceSpec::directories(&[spec, SourceSpec::Dir("/etc/weir".into())]).unwrap_err();
            assert_eq!(error.code(), "source-mixed");
        }
    }
}
