//! Manifests on the wire: one line of JSON that says what follows, then the files' bytes, one after the other. Drop
//! lists need not be UTF-8, and half a million lines need not be escaped.
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weir_source::{Authorship, Revision, SourceFile};

use crate::{Error, Manifests};

#[derive(Serialize, Deserialize)]
struct Header {
    source: String,
    revision: String,
    authorship: Option<(String, String)>,
    files: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    path: Arc<str>,
    size: usize,
}

pub(crate) fn encode(manifests: &Manifests) -> Vec<u8> {
    let entry = |file: &weir_schema::File| Entry { path: file.path.clone(), size: file.bytes.len() };
    let header = Header {
        source: manifests.source.to_string(),
        revision: manifests.revision.to_string(),
        authorship: manifests.authorship.clone().map(|by| (by.author, by.subject)),
        files: manifests.files.iter().map(entry).collect(),
    };
    // A struct of texts and numbers always serializes; an empty header is refused by the other end.
    let mut bytes = serde_json::to_vec(&header).unwrap_or_default();
    bytes.push(b'\n');
    manifests.files.iter().for_each(|file| bytes.extend_from_slice(&file.bytes));
    bytes
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Manifests, Error> {
    let refused = |what: &str| Error::Usage { what: format!("the body is no bundle of manifests: {what}") };
    let line = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| refused("no header"))?;
    let header: Header = serde_json::from_slice(&bytes[..line]).map_err(|error| refused(&error.to_string()))?;
    let mut rest = &bytes[line + 1..];
    let mut files = Vec::with_capacity(header.files.len());
    for Entry { path, size } in header.files {
        let (bytes, after) = rest.split_at_checked(size).ok_or_else(|| refused("it ends early"))?;
        files.push(SourceFile::new(path, bytes));
        rest = after;
    }
    if !rest.is_empty() {
        return Err(refused("something follows its last file"));
    }
    let authorship = header.authorship.map(|(author, subject)| Authorship { author, subject });
    Ok(Manifests::new(&header.source, &Revision::named(header.revision, authorship, files)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_comes_back_as_it_was() {
        let files = vec![SourceFile::new("a.yaml", *b"kind: x\n\n"), SourceFile::new("lists/b.txt", [0xff, b'\n', 0])];
        let manifests = Manifests::new("dir:/x", &Revision::new(files));
        let bytes = encode(&manifests);
        let back = decode(&bytes).unwrap();
        assert_eq!((&back.source, &back.revision), (&manifests.source, &manifests.revision));
        assert_eq!(back.files, manifests.files);
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(decode(&[bytes, vec![0]].concat()).is_err());
    }
}
