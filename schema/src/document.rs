//! From bytes to documents: encoding, the split at `---`, and a first look at the header.

/// One YAML document of a file, as a slice of its text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DocumentText<'a> {
    pub text: &'a str,
    /// Byte offset of `text` in the file.
    pub offset: usize,
    /// Line in the file, from 1, of the first line with content.
    pub first_line: usize,
}

/// The text of a manifest without its byte order mark, and how many bytes that took away; or where UTF-8 ends.
pub(crate) fn decode(bytes: &[u8]) -> Result<(&str, usize), usize> {
    let (bytes, skipped) = match bytes.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => (rest, 3),
        None => (bytes, 0),
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok((text, skipped)),
        Err(error) => Err(error.valid_up_to() + skipped),
    }
}

/// The documents that are not empty. `---` and `...` at the start of a line always end a document in YAML, even inside
/// a scalar, so lines are enough to find them; each document can then be parsed, and fail, alone.
pub(crate) fn split(text: &str, base: usize) -> Vec<DocumentText<'_>> {
    let mut documents = Vec::new();
    let mut start = 0;
    // Lines before `counted`.
    let (mut lines, mut counted) = (0, 0);
    for at in candidates(text) {
        let line = &text[at..];
        let next = match () {
            () if is_marker(line, "---") => at,
            () if is_marker(line, "...") => line.find('\n').map_or(text.len(), |end| at + end + 1),
            () => continue,
        };
        lines += breaks(&text[counted..start]);
        counted = start;
        push(&mut documents, text, (start, lines + 1), at, base);
        start = next;
    }
    lines += breaks(&text[counted..start]);
    push(&mut documents, text, (start, lines + 1), text.len(), base);
    documents
}

/// Where lines start that may be markers.
fn candidates(text: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let found = |marker| memchr::memmem::find_iter(bytes, marker).map(|at| at + 1);
    let mut list = vec![0];
    list.extend(found("\n---"));
    list.extend(found("\n..."));
    list.sort_unstable();
    list
}

fn breaks(text: &str) -> usize {
    memchr::memchr_iter(b'\n', text.as_bytes()).count()
}

fn is_marker(line: &str, marker: &str) -> bool {
    let rest = line.strip_prefix(marker);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

/// `start`: byte offset and line number.
fn push<'a>(documents: &mut Vec<DocumentText<'a>>, text: &'a str, start: (usize, usize), end: usize, base: usize) {
    let (start, number) = start;
    let text = &text[start..end];
    let content = text.lines().position(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        !(line.is_empty() || line.starts_with('#') || line.starts_with('%'))
    });
    if let Some(lines) = content {
        documents.push(DocumentText { text, offset: base + start, first_line: number + lines });
    }
}

/// More brackets inside each other than any manifest has. libyaml's time grows with their square.
pub(crate) const MOST_BRACKETS: usize = 1000;

/// Byte offset of the bracket that is one too many, whether it stands in a text, a comment or not.
pub(crate) fn one_bracket_too_many(text: &str) -> Option<usize> {
    if memchr::memchr2_iter(b'[', b'{', text.as_bytes()).count() <= MOST_BRACKETS {
        return None;
    }
    let mut open = 0usize;
    text.bytes().position(|byte| {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        open > MOST_BRACKETS
    })
}

/// Byte offset of a character that is a line break in YAML 1.1 and none in YAML 1.2: parsers disagree about the text.
pub(crate) fn disputed_break(text: &str) -> Option<usize> {
    if text.is_ascii() { None } else { text.find(['\u{85}', '\u{2028}', '\u{2029}']) }
}

/// `apiVersion` and `kind` of a document in block style, by its lines alone, without parsing what may be half a million
/// entries below them. `None`: this needs a real parser. The strict pass compares the answer with what it read itself.
pub(crate) fn scan_header(text: &str) -> Option<(&str, &str)> {
    let (mut api_version, mut kind) = (None, None);
    for line in text.lines() {
        let (slot, rest) = if let Some(rest) = line.strip_prefix("apiVersion:") {
            (&mut api_version, rest)
        } else if let Some(rest) = line.strip_prefix("kind:") {
            (&mut kind, rest)
        } else {
            continue;
        };
        if slot.is_some() || !rest.starts_with(' ') {
            return None;
        }
        let value = rest.split(" #").next().unwrap_or(rest).trim();
        let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/' | b'-'));
        if value.is_empty() || !plain {
            return None;
        }
        *slot = Some(value);
        if let (Some(api_version), Some(kind)) = (api_version, kind) {
            return Some((api_version, kind));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<&str> {
        split(text, 0).into_iter().map(|document| document.text).collect()
    }

    #[test]
    fn splits_at_markers_and_skips_empty_documents() {
        assert_eq!(texts("a: 1\n---\nb: 2\n"), ["a: 1\n", "---\nb: 2\n"]);
        assert_eq!(texts("---\n# only a comment\n---\n\n--- # x\na: 1\n...\n"), ["--- # x\na: 1\n"]);
        assert_eq!(texts("%YAML 1.2\n---\na: 1\n"), ["---\na: 1\n"]);
        assert_eq!(texts("a: |\n  ---\n"), ["a: |\n  ---\n"]);
        assert_eq!(texts("a: 1\r\n---\r\nb: 2"), ["a: 1\r\n", "---\r\nb: 2"]);
        assert_eq!(texts("---x: 1\n"), ["---x: 1\n"]);
        assert!(texts("").is_empty());
    }

    #[test]
    fn offsets_are_in_the_file() {
        let (text, skipped) = decode(b"\xef\xbb\xbfa: 1\n---\nb: 2\n").unwrap();
        let second = split(text, skipped)[1];
        assert_eq!((second.offset, second.first_line), (8, 3));
        assert_eq!(decode(b"a: \xff"), Err(3));
    }

    #[test]
    fn scans_only_what_is_plain() {
        let text = "# x\nkind: Node # y\r\napiVersion: weir/v1alpha1\nspec: {}\n";
        assert_eq!(scan_header(text), Some(("weir/v1alpha1", "Node")));
        assert_eq!(scan_header("{kind: Node, apiVersion: v1}"), None);
        assert_eq!(scan_header("kind: \"Node\"\napiVersion: v1\n"), None);
        assert_eq!(scan_header("kind: Node\n  kind: x\n"), None);
    }
}
