//! What `git+…` names.
use std::path::PathBuf;

use crate::SourceError;

/// A repository, and what to read in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GitSpec {
    pub place: Place,
    pub reference: Reference,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// `git+file://`: a work tree or a bare repository. Read where it stands, never cloned.
    Local(PathBuf),
    /// As git is told.
    Remote(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    /// What the repository's HEAD names.
    Head,
    /// A branch or else a tag; or a whole name, `refs/…`.
    Name(String),
    /// A full commit id.
    Commit(String),
}

impl GitSpec {
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let malformed = |what| SourceError::Malformed { spec: without_password(text), what };
        let url = text.strip_prefix("git+").ok_or_else(|| malformed("does not begin with `git+`"))?;
        let (url, fragment) = url.rsplit_once('#').map_or((url, None), |(url, fragment)| (url, Some(fragment)));
        if url.contains(char::is_control) {
            return Err(malformed("has a control character in it"));
        }
        let reference = match fragment {
            None | Some("HEAD") => Reference::Head,
            Some(id) if is_object_id(id) => Reference::Commit(id.to_ascii_lowercase()),
            Some(name) if is_reference_name(name) => Reference::Name(name.to_owned()),
            Some(_) => return Err(malformed("names no branch, tag or commit after `#`")),
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| malformed("has no `://`"))?;
        let place = match scheme {
            "file" if rest.starts_with('/') => Place::Local(rest.into()),
            "file" => return Err(malformed("must name an absolute path: `git+file:///srv/repository.git`")),
            "http" | "https" | "ssh" => {
                let authority = rest.split('/').next().unwrap_or_default();
                let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
                if user.contains(':') {
                    return Err(malformed("has a password in it; leave that to a git credential helper"));
                }
                // A host or a user that begins with a dash would be an option of ssh's.
                if host.is_empty() || host.starts_with('-') || user.starts_with('-') {
                    return Err(malformed("names no host"));
                }
                Place::Remote(url.to_owned())
            }
            _ => return Err(malformed("must be git+file, git+https, git+ssh or git+http")),
        };
        Ok(Self { place, reference })
    }
}

impl Reference {
    /// As a person would say it.
    pub fn name(&self) -> &str {
        match self {
            Self::Head => "HEAD",
            Self::Name(name) | Self::Commit(name) => name,
        }
    }

    /// The names that git is asked for, first one first.
    pub fn candidates(&self) -> Vec<String> {
        match self {
            Self::Head => vec!["HEAD".to_owned()],
            Self::Name(name) if name.starts_with("refs/") => vec![name.clone()],
            Self::Name(name) => vec![format!("refs/heads/{name}"), format!("refs/tags/{name}")],
            Self::Commit(id) => vec![id.clone()],
        }
    }
}

/// In SHA-1 or SHA-256.
pub(crate) fn is_object_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The rules of git-check-ref-format(1).
fn is_reference_name(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    !name.is_empty()
        && name != "@"
        && !name.starts_with('-')
        && !name.ends_with('.')
        && !name.contains("..")
        && !name.contains("@{")
        && !name.contains(|c: char| c.is_control() || " ~^:?*[\\\u{7f}".contains(c))
        && name.split('/').all(part)
}

/// For messages: a password is not repeated, not even to whoever just wrote it.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    match authority.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:…@{host}/{path}")
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> GitSpec {
        GitSpec::parse(text).unwrap()
    }

    #[test]
    fn places_and_references() {
        let spec = parse("git+file:///srv/x.git");
        assert_eq!(spec, GitSpec { place: Place::Local("/srv/x.git".into()), reference: Reference::Head });
        let spec = parse("git+https://example.org/a/b.git#release/1.x");
        assert_eq!(spec.place, Place::Remote("https://example.org/a/b.git".to_owned()));
        assert_eq!(spec.reference.candidates(), ["refs/heads/release/1.x", "refs/tags/release/1.x"]);
        assert_eq!(parse("git+ssh://git@host:2222/~/x#refs/notes/a").reference.candidates(), ["refs/notes/a"]);
        let id = "0123456789abcdef0123456789ABCDEF01234567";
        assert_eq!(parse(&format!("git+file:///x#{id}")).reference, Reference::Commit(id.to_ascii_lowercase()));
        assert_eq!(parse("git+file:///x#HEAD").reference, Reference::Head);
        assert_eq!(parse("git+file:///a#b#main").place, Place::Local("/a#b".into()));
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "git+file://relative/x",
            "git+x.git",
            "git+ext::sh -c x",
            "git+ext://sh",
            "git+git://host/x",
            "git+https://",
            "git+ssh://-oProxyCommand=x/y",
            "git+ssh://-oProxyCommand=x@host/y",
            "git+file:///x#",
            "git+file:///x#a..b",
            "git+file:///x#a b",
            "git+file:///x#-x",
            "git+file:///x#a@{1}",
            "git+file:///x#a/.b",
            "git+file:///x#a.lock",
            "git+file:///x\n#main",
        ] {
            let error = GitSpec::parse(text).unwrap_err();
            assert_eq!(error.code(), "source-unknown", "{text}");
        }
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        for text in ["git+https://me:secret@host/x#main", "git+https://me:sec@ret@host/x"] {
            let error = GitSpec::parse(text).unwrap_err().to_string();
            assert!(error.contains("password") && !error.contains("sec") && !error.contains("ret@"), "{error}");
        }
    }
}
