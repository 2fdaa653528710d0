//! A parsed file as bytes, for a cache that outlives the process: reading them back costs a tenth of parsing.
//!
//! Endpoints and lists of prefixes are written out; any other document is named by its place in the file, and parsed
//! again. Bytes of another version, of another file, or damaged ones, are nothing.
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};

use crate::{
    CidrFilterSpec, File, FilterMatch, Metadata, ObjectKey, Options, Origin, ParsedFile, Prefixes, Spec, XdpMode,
    document::{self, DocumentText},
    documents::{Document, TextHash},
    kinds::shared,
    packed::{Reader, Writer},
    parse::{Content, read_documents},
    stored::{PackedEndpoint, Stored},
};

/// Grows with every change of what the bytes mean.
const VERSION: u32 = 2;
const CHECKSUM: usize = 32;

const ENDPOINT: u8 = 0;
const FILTER: u8 = 1;
const TEXT: u8 = 2;

impl ParsedFile {
    /// For [`ParsedFile::decode`]. `None`: this file is better parsed again, because it is no manifest, has something
    /// wrong with it or to warn of, or holds objects that are not documents of their own.
    pub fn encode(&self, file: &File) -> Option<Vec<u8>> {
        let Content::Manifests(documents) = &self.content else { return None };
        let own = documents.all().iter().all(|document| document.text != TextHash::NONE);
        if !own || !self.errors.is_empty() || !self.warnings.is_empty() || file.hash != self.hash {
            return None;
        }
        let mut to = Writer::default();
        to.bytes(&VERSION.to_le_bytes());
        to.bytes(&self.hash.0);
        to.text(&self.path);
        to.count(self.counts().documents);
        to.count(documents.all().len());
        let mut texts = None;
        for document in documents.all() {
            to.bytes(&document.text.0);
            to.count(document.index as usize);
            to.count(document.line as usize);
            match &document.stored {
                Stored::Endpoint(packed) => {
                    to.bytes(&[ENDPOINT]);
                    to.count(packed.bytes().len());
                    to.bytes(packed.bytes());
                }
                Stored::Whole(object) => match &object.spec {
                    Spec::CidrFilter(filter) => {
                        to.bytes(&[FILTER]);
                        filter_to(&object.metadata, filter, &mut to);
                    }
                    _ => {
                        let texts = match &texts {
                            Some(texts) => texts,
                            None => texts.insert(split(file)?),
                        };
                        let text = texts.iter().find(|text| text.first_line == document.line as usize)?;
                        to.bytes(&[TEXT]);
                        to.count(text.offset);
                        to.count(text.text.len());
                    }
                },
            }
        }
        let mut bytes = to.finish();
        bytes.extend(Sha256::digest(&bytes));
        Some(bytes)
    }

    /// What [`crate::parse_file`] would give for `file`, from what [`ParsedFile::encode`] gave for it; `None` when the
    /// bytes are not that.
    pub fn decode(bytes: &[u8], file: &File) -> Option<Self> {
        let (bytes, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
        if Sha256::digest(bytes)[..] != *checksum {
            return None;
        }
        let mut from = Reader::new(bytes);
        let same = from.array() == VERSION.to_le_bytes() && from.array() == file.hash.0 && from.text() == &*file.path;
        if !same {
            return None;
        }
        let documents = from.number();
        let mut list = Vec::with_capacity(from.count());
        for _ in 0..list.capacity() {
            let text = TextHash(from.array());
            let (index, line) = (from.number(), from.number());
            let origin = || Origin { path: Arc::clone(&file.path), document: index, line };
            let stored = match from.byte() {
                ENDPOINT => {
                    let length = from.count();
                    Stored::Endpoint(PackedEndpoint::from_bytes(from.bytes(length)))
                }
                FILTER => filter_from(&mut from, origin())?,
                TEXT => {
                    let (offset, length) = (from.number(), from.number());
                    reread(file, offset, length, index, line)?
                }
                _ => return None,
            };
            list.push(Document { stored, text, index: index as u32, line: line as u32 });
        }
        from.is_right().then(|| Self::of_documents(file, list, documents))
    }
}

fn split(file: &File) -> Option<Vec<DocumentText<'_>>> {
    let (text, skipped) = document::decode(&file.bytes).ok()?;
    Some(document::split(text, skipped))
}

/// One document, from its text.
fn reread(file: &File, offset: usize, length: usize, index: usize, line: usize) -> Option<Stored> {
    let bytes = file.bytes.get(offset..offset.checked_add(length)?)?;
    let document = DocumentText { text: std::str::from_utf8(bytes).ok()?, offset, first_line: line };
    let stored = read_documents(file, &Options::default(), &[document], index);
    <[Document; 1]>::try_from(stored?).ok().map(|[document]| document.stored)
}

fn filter_to(metadata: &Metadata, filter: &CidrFilterSpec, to: &mut Writer) {
    let CidrFilterSpec {
        interfaces,
        matches,
        cidrs,
        allow,
        from_files,
        mode,
        drop_unknown_destinations,
        // Made from the others.
        lists: _,
        exceptions: _,
    } = filter;
    to.text(&metadata.name);
    to.text(&metadata.namespace);
    for map in [&metadata.labels, &metadata.annotations] {
        to.map(map);
    }
    for texts in [interfaces, from_files] {
        to.count(texts.len());
        texts.iter().for_each(|text| to.text(text));
    }
    to.bytes(&[*matches as u8, *mode as u8, u8::from(*drop_unknown_destinations)]);
    for list in [cidrs, allow] {
        to.count(list.len());
        for net in list.iter() {
            to.address(net.addr());
            to.bytes(&[net.prefix_len()]);
        }
    }
}

fn filter_from(from: &mut Reader<'_>, origin: Origin) -> Option<Stored> {
    let (name, namespace) = (from.text().to_owned(), from.text().to_owned());
    let (labels, annotations) = (from.map(), from.map());
    let mut texts = || -> Vec<String> { (0..from.count()).map(|_| from.text().to_owned()).collect() };
    let (interfaces, from_files) = (texts(), texts());
    let matches = match from.byte() {
        0 => FilterMatch::Source,
        1 => FilterMatch::Destination,
        _ => return None,
    };
    let mode = match from.byte() {
        0 => XdpMode::Auto,
        1 => XdpMode::Native,
        2 => XdpMode::Generic,
        _ => return None,
    };
    let drop_unknown_destinations = from.byte() != 0;
    let (cidrs, allow) = (prefixes(from)?, prefixes(from)?);
    let filter = CidrFilterSpec {
        interfaces,
        matches,
        cidrs,
        allow,
        from_files,
        mode,
        drop_unknown_destinations,
        lists: Vec::new(),
        exceptions: Vec::new(),
    };
    let key = ObjectKey {
        group: shared("weir"),
        kind: shared("CidrFilter"),
        namespace: shared(&namespace),
        name: name.as_str().into(),
    };
    let metadata = Metadata { name, namespace, labels, annotations };
    Some(Stored::new(key, shared("weir/v1alpha1"), metadata, filter.into(), origin))
}

fn prefixes(from: &mut Reader<'_>) -> Option<Prefixes> {
    let mut list = Vec::with_capacity(from.count());
    for _ in 0..list.capacity() {
        let (address, length) = (from.address(), from.byte());
        list.push(match address {
            std::net::IpAddr::V4(address) => IpNet::V4(Ipv4Net::new(address, length).ok()?),
            std::net::IpAddr::V6(address) => IpNet::V6(Ipv6Net::new(address, length).ok()?),
        });
    }
    Some(Prefixes::of_sorted(list))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;
    use crate::{ContentHash, parse_file};

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), hash: ContentHash(Sha256::digest(text).into()), bytes: text.as_bytes().into() }
    }

    fn assert_same(a: &ParsedFile, b: &ParsedFile) {
        assert_eq!((a.path(), a.hash(), a.counts().documents), (b.path(), b.hash(), b.counts().documents));
        assert_eq!(a.documents().len(), b.documents().len());
        for (one, other) in a.documents().iter().zip(b.documents()) {
            assert_eq!((one.text, one.index, one.line), (other.text, other.index, other.line));
            let object = |file: &ParsedFile, document: &Document| document.stored.object(|| file.origin(document));
            assert_eq!(object(a, one), object(b, other));
            assert!(one.stored.means_as(&other.stored));
        }
    }

    fn texts() -> Vec<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut texts = Vec::new();
        for folder in ["../examples/quickstart", "../examples/policies", "../examples/services", "tests/diagnostics"] {
            for entry in fs::read_dir(root.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    texts.push(fs::read_to_string(path).unwrap());
                }
            }
        }
        let stories = texts.clone();
        texts.extend(
            stories
                .iter()
                .flat_map(|story| story.split("\n-- "))
                .map(|part| part.split_once(" --\n").map_or(part, |(_, text)| text).to_owned()),
        );
        let valid: Vec<_> = texts
            .iter()
            .filter(|text| parse_file(&file("a.yaml", text), &Options::default()).errors.is_empty())
            .cloned()
            .collect();
        texts.push(valid.join("---\n"));
        texts
    }

    #[test]
    fn what_is_read_back_is_what_was_parsed() {
        let mut encoded = 0;
        for text in texts() {
            let file = file("d/a.yaml", &text);
            let parsed = parse_file(&file, &Options::default());
            let Some(bytes) = parsed.encode(&file) else { continue };
            assert_same(&parsed, &ParsedFile::decode(&bytes, &file).unwrap());
            encoded += usize::from(!parsed.documents().is_empty());
            let elsewhere = File { path: "b.yaml".into(), ..file.clone() };
            assert!(ParsedFile::decode(&bytes, &elsewhere).is_none());
            let other = File { hash: ContentHash([0; 32]), ..file };
            assert!(ParsedFile::decode(&bytes, &other).is_none());
        }
        assert!(encoded >= 20, "{encoded}");
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_nothing(which: prop::sample::Index, at: prop::sample::Index, byte: u8, cut: bool) {
            let texts = texts();
            let file = file("a.yaml", &texts[which.index(texts.len())]);
            let parsed = parse_file(&file, &Options::default());
            if let Some(mut bytes) = parsed.encode(&file) {
                let at = at.index(bytes.len());
                if cut {
                    bytes.truncate(at);
                } else {
                    bytes[at] ^= byte;
                }
                prop_assert_eq!(ParsedFile::decode(&bytes, &file).is_some(), !cut && byte == 0);
            }
        }

        /// Behind a right checksum, too: bytes that somebody made.
        #[test]
        fn made_up_bytes_do_no_harm(which: prop::sample::Index, edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            let texts = texts();
            let file = file("a.yaml", &texts[which.index(texts.len())]);
            let parsed = parse_file(&file, &Options::default());
            if let Some(mut bytes) = parsed.encode(&file) {
                bytes.truncate(bytes.len() - CHECKSUM);
                let head = 40 + file.path.len();
                for (at, byte) in edits {
                    let at = head + at.index(bytes.len() - head);
                    bytes[at] = byte;
                }
                bytes.extend(Sha256::digest(&bytes));
                if let Some(read) = ParsedFile::decode(&bytes, &file) {
                    read.documents().iter().for_each(|document| { document.stored.object(|| read.origin(document)); });
                }
            }
        }
    }
}
