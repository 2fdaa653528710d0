//! A single file as the source: which files beside it belong to it.
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    SourceError,
    revision::is_manifest,
    stamp::Stamp,
    walk::{Found, Listing, resolve, unreadable},
};

/// With `-f filter.yaml` the files that the manifest mentions by a relative path must be delivered, too, and nothing
/// else of its directory. A source knows no kinds, so a word of the file counts as a path when the directory has an
/// entry by the name of its first component. Names with blanks are not found: name the directory instead.
pub(crate) fn list(file: &Path, bytes: &[u8], prefix: &str, listing: &mut Listing) -> Result<(), SourceError> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let root = fs::canonicalize(directory).map_err(|cause| unreadable(directory, cause))?;
    let words = words(bytes, &names(&root)?);
    for word in words {
        let path = root.join(&word);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => continue,
            Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(cause) => return Err(SourceError::Unreadable { path, cause }),
        };
        let real = resolve(&path, &root)?;
        listing.watch_name(&path);
        listing.watch_name(&real);
        let stamp = Stamp::of(&metadata);
        listing.saw(&stamp);
        let path = if prefix.is_empty() { word } else { format!("{prefix}/{word}") };
        listing.files.push(Found { path, real, stamp });
    }
    Ok(())
}

/// Visible names in a directory.
fn names(directory: &Path) -> Result<BTreeSet<Vec<u8>>, SourceError> {
    let failed = |cause| unreadable(directory, cause);
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().into_encoded_bytes();
        if !name.starts_with(b".") {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Words that are relative paths to something other than a manifest, cleaned of `./`.
fn words(bytes: &[u8], names: &BTreeSet<Vec<u8>>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for word in bytes.split(|byte| byte.is_ascii_whitespace() || b"\"',[]{}".contains(byte)) {
        let first = word.strip_prefix(b"./").unwrap_or(word);
        let first = first.split(|byte| *byte == b'/').next().unwrap_or(first);
        if first.is_empty() || !names.contains(first) {
            continue;
        }
        let Ok(word) = std::str::from_utf8(word) else { continue };
        let clean: PathBuf = Path::new(word).components().filter(|part| part.as_os_str() != ".").collect();
        let hidden = |part: &std::ffi::OsStr| part.as_encoded_bytes().starts_with(b".");
        if clean.iter().any(hidden) || is_manifest(word) {
            continue;
        }
        found.extend(clean.to_str().map(str::to_owned));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_and_no_manifest() {
        let names = ["drop.txt", "lists", "other.yaml", "10.0.0.0"].map(|name| name.as_bytes().to_vec()).into();
        let manifest =
            b"spec:\n  fromFiles: [drop.txt, './lists/a.txt', \"lists//b.txt\"]\n  x: other.yaml\n  y: ../up\n  \
            cidrs:\n  - 10.0.0.0/8\n  - lists/../../etc/passwd\n  - lists/.hidden\n";
        let words: Vec<String> = words(manifest, &names).into_iter().collect();
        assert_eq!(words, ["10.0.0.0/8", "drop.txt", "lists/a.txt", "lists/b.txt"]);
    }
}
