//! The data files that `fromFiles` names: published drop lists, taken as they are.
use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use ipnet::IpNet;

use crate::{
    ContentHash,
    diagnostic::Diagnostic,
    object::prefixes_digest,
    place::Place,
    prefix::{PrefixError, parse_prefix},
    prefixes::Collector,
};

/// More bad lines than this are counted, not listed: the file is no list.
const MOST_ERRORS: usize = 100;

/// A list file; parsed once, when something first refers to it.
#[derive(Debug, Default)]
pub(crate) struct ListFile(OnceLock<ParsedList>);

#[derive(Debug)]
pub(crate) struct ParsedList {
    pub prefixes: Arc<[IpNet]>,
    /// Of the prefixes: comments and order do not count.
    pub digest: ContentHash,
    pub diagnostics: Vec<Diagnostic>,
}

impl ListFile {
    pub fn parsed(&self, path: &Arc<str>, bytes: &[u8]) -> &ParsedList {
        self.0.get_or_init(|| parse(path, bytes))
    }
}

fn parse(path: &Arc<str>, bytes: &[u8]) -> ParsedList {
    let mut entries = Collector::default();
    let mut diagnostics = Vec::new();
    let mut errors = 0;
    let place = Place::new(path, bytes);
    for entry in entries_of(bytes) {
        match entry.parse() {
            Ok(net) => entries.push(net),
            Err((text, error)) => {
                errors += 1;
                if errors <= MOST_ERRORS {
                    let mut found = place.diagnostic(
                        error.code(),
                        entry.start..entry.start + entry.text.len(),
                        error.message(&text),
                    );
                    found.help = error.help(&text);
                    diagnostics.push(found);
                }
            }
        }
    }
    if errors > MOST_ERRORS
        && let Some(last) = diagnostics.last_mut()
    {
        last.message += &format!(" (and {} more lines like it)", errors - MOST_ERRORS);
    }
    let prefixes = entries.finish().shared();
    let digest = prefixes_digest(&prefixes);
    ParsedList { prefixes, digest, diagnostics }
}

/// What one line holds, comment and blanks taken away.
struct Entry<'a> {
    text: &'a [u8],
    /// Byte offset in the file.
    start: usize,
}

impl Entry<'_> {
    fn parse(&self) -> Result<IpNet, (String, PrefixError)> {
        let text = std::str::from_utf8(self.text).map_err(|_| PrefixError::Syntax);
        text.and_then(parse_prefix).map_err(|error| (String::from_utf8_lossy(self.text).into_owned(), error))
    }
}

/// Comments may hold any bytes: published lists do.
fn entries_of(bytes: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    let mut at = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    bytes[at..].split_inclusive(|byte| *byte == b'\n').filter_map(move |line| {
        let start = at;
        at += line.len();
        let end = line.iter().position(|byte| matches!(byte, b';' | b'#')).unwrap_or(line.len());
        let text = line[..end].trim_ascii();
        let lead = line[..end].len() - line[..end].trim_ascii_start().len();
        (!text.is_empty()).then_some(Entry { text, start: start + lead })
    })
}

/// Byte range of the entry with the longest prefix that covers `address`.
pub(crate) fn longest_covering(bytes: &[u8], address: IpAddr) -> Option<std::ops::Range<usize>> {
    entries_of(bytes)
        .filter_map(|entry| {
            let net = entry.parse().ok()?;
            net.contains(&address).then_some((net.prefix_len(), entry.start..entry.start + entry.text.len()))
        })
        // The first of equal ones.
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, range)| range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_published_lists_unchanged() {
        let text =
            b"\xef\xbb\xbf; Spamhaus DROP\r\n192.0.2.0/24 ; SBL1\r\n\r\n# caf\xe9\n  2001:db8::/32\n192.0.2.0/24\n\
                     192.0.2.7#x\n10.0.0.0/8";
        let list = parse(&"drop.txt".into(), text);
        assert_eq!(list.diagnostics, []);
        let texts: Vec<_> = list.prefixes.iter().map(|net| net.to_string()).collect();
        assert_eq!(texts, ["10.0.0.0/8", "192.0.2.0/24", "192.0.2.7/32", "2001:db8::/32"]);
        let range = longest_covering(text, "192.0.2.7".parse().unwrap()).unwrap();
        assert_eq!(&text[range], b"192.0.2.7");
    }

    #[test]
    fn bad_lines_have_their_place() {
        let list = parse(&"l".into(), b"10.0.0.1/8\n\n \t192.0.2.0/24 x\n");
        let places: Vec<_> = list.diagnostics.iter().map(|d| (d.code, d.line, d.column, d.span_len)).collect();
        assert_eq!(places, [("host-bits", 1, 1, 10), ("invalid-cidr", 3, 3, 14)]);
    }

    #[test]
    fn a_file_that_is_no_list_gives_few_errors() {
        let list = parse(&"l".into(), "junk\n".repeat(1000).as_bytes());
        assert_eq!(list.diagnostics.len(), 100);
        assert!(list.diagnostics[99].message.ends_with("(and 900 more lines like it)"));
    }
}
