//! What a key below the prefix stands for.
//!
//! ```text
//! <prefix>policies/web.yaml            a file, written by hand
//! <prefix>revision                     the digest of the pushed set that is in force; where it exists, files that were
//!                                      written by hand are not looked at
//! <prefix><digest>/policies/web.yaml   a file of a pushed set
//! <prefix>.weir/index/<digest>/0000    what the set holds, as sha256sum(1) prints it, in pieces
//! <prefix>.weir/published/<digest>     when it was last put in force; the order is that of the key's mod revision
//! <prefix>.weir/claim/<digest>         somebody is writing the set
//! ```
//!
//! A digest is the SHA-256 of the list of (path, SHA-256 of content) in 64 hexadecimal digits: an index proves itself
//! by it, and every file by the index.

pub(super) const REVISION: &str = "revision";
const INDEX: &str = ".weir/index/";
const PUBLISHED: &str = ".weir/published/";
const CLAIM: &str = ".weir/claim/";
const DIGEST_LENGTH: usize = 64;

/// A key, without the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Below<'a> {
    File(&'a str),
    Revision,
    /// Of a pushed set, whether or not it is in force.
    Pushed {
        digest: &'a str,
    },
    /// Hidden, as in a directory; or what tools leave in a directory's place.
    Nothing,
}

/// What `key` is, or why it cannot be a path.
pub(super) fn classify<'a>(key: &'a [u8], value: &[u8]) -> Result<Below<'a>, &'static str> {
    let Ok(text) = std::str::from_utf8(key) else { return Err("is not UTF-8") };
    if text == REVISION {
        return Ok(Below::Revision);
    }
    if let Some((digest, _)) = text.split_once('/')
        && is_digest(digest)
    {
        return Ok(Below::Pushed { digest });
    }
    if value.is_empty() && (text.is_empty() || text.ends_with('/')) {
        return Ok(Below::Nothing);
    }
    check_path(text)?;
    if text.split('/').any(|name| name.starts_with('.')) { Ok(Below::Nothing) } else { Ok(Below::File(text)) }
}

/// Whether it names a file below a root, and nothing else.
pub(super) fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("has no name");
    }
    if path.contains('\0') {
        return Err("has a NUL in it");
    }
    for name in path.split('/') {
        match name {
            "" => return Err("has an empty component"),
            "." | ".." => return Err("leads out of its directory"),
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn is_digest(text: &str) -> bool {
    text.len() == DIGEST_LENGTH && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Keys of one source.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub prefix: String,
}

impl Keys {
    pub fn below<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        key.strip_prefix(self.prefix.as_bytes())
    }

    pub fn revision(&self) -> String {
        format!("{}{REVISION}", self.prefix)
    }

    /// What the keys of a set's files begin with.
    pub fn set(&self, digest: &str) -> String {
        format!("{}{digest}/", self.prefix)
    }

    pub fn index(&self, digest: &str) -> String {
        format!("{}{INDEX}{digest}/", self.prefix)
    }

    pub fn published(&self, digest: &str) -> String {
        format!("{}{PUBLISHED}{digest}", self.prefix)
    }

    pub fn claim(&self, digest: &str) -> String {
        format!("{}{CLAIM}{digest}", self.prefix)
    }

    /// The digest that a key of Weir's own is about.
    pub fn digest_of<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        let below = std::str::from_utf8(self.below(key)?).ok()?;
        let rest = [INDEX, PUBLISHED, CLAIM].iter().find_map(|kind| below.strip_prefix(kind)).unwrap_or(below);
        let digest = rest.split('/').next()?;
        is_digest(digest).then_some(digest)
    }
}

/// The end of the range of keys that begin with `prefix`: none of ours ends in 0xff.
pub(super) fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        Some(last) => *last += 1,
        None => end.push(0),
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn keys_are_files_sets_or_nothing() {
        let of = |key: &'static str| classify(key.as_bytes(), b"x");
        assert_eq!(of("web.yaml"), Ok(Below::File("web.yaml")));
        assert_eq!(of("lists/drop.txt"), Ok(Below::File("lists/drop.txt")));
        assert_eq!(of("revision"), Ok(Below::Revision));
        assert_eq!(of("revision/a.yaml"), Ok(Below::File("revision/a.yaml")));
        assert_eq!(of(".hidden.yaml"), Ok(Below::Nothing));
        assert_eq!(of("a/.git/config"), Ok(Below::Nothing));
        assert_eq!(of(DIGEST), Ok(Below::File(DIGEST)));
        let pushed = format!("{DIGEST}/../x");
        assert_eq!(classify(pushed.as_bytes(), b""), Ok(Below::Pushed { digest: DIGEST }));
        for upper in [DIGEST.to_uppercase(), DIGEST[1..].to_owned()] {
            let key = format!("{upper}/a.yaml");
            assert_eq!(classify(key.as_bytes(), b""), Ok(Below::File(&key)));
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for key in ["../etc/passwd", "a/../../b.yaml", "a/..", "./a.yaml", "/a.yaml", "a//b.yaml", "a/", "", "a\0b"] {
            assert!(classify(key.as_bytes(), b"x").is_err(), "{key:?}");
        }
        assert!(classify(b"\xff.yaml", b"").is_err());
        for marker in ["", "lists/"] {
            assert_eq!(classify(marker.as_bytes(), b""), Ok(Below::Nothing), "a tool's directory");
        }
    }

    #[test]
    fn keys_of_a_set_are_found_again() {
        let keys = Keys { prefix: "/weir/manifests/".to_owned() };
        for key in [keys.set(DIGEST), keys.index(DIGEST) + "0000", keys.published(DIGEST), keys.claim(DIGEST)] {
            assert_eq!(keys.digest_of(key.as_bytes()), Some(DIGEST), "{key}");
        }
        assert_eq!(keys.digest_of(keys.revision().as_bytes()), None);
        assert_eq!(keys.digest_of(b"/weir/manifests/web.yaml"), None);
        assert_eq!(keys.digest_of(b"/elsewhere"), None);
        assert_eq!(after("/a/"), b"/a0");
    }
}
