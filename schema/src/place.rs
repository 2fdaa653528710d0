//! From byte offsets to lines and columns.
use std::{ops::Range, sync::Arc};

use crate::diagnostic::Diagnostic;

/// A place in a file, both counted from 1; columns are characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// Longer lines are not shown: they are data, or JSON without a break.
const LONGEST_LINE: usize = 300;

/// A file whose places are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    path: &'a Arc<str>,
    bytes: &'a [u8],
}

impl<'a> Place<'a> {
    pub fn new(path: &'a Arc<str>, bytes: &'a [u8]) -> Self {
        Self { path, bytes }
    }

    /// Without its line break; bytes of the line before `at` counted in characters.
    fn line_at(&self, at: usize) -> (Range<usize>, Position) {
        let at = at.min(self.bytes.len());
        let before = &self.bytes[..at];
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let end = self.bytes[at..].iter().position(|byte| *byte == b'\n').map_or(self.bytes.len(), |end| at + end);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        // A byte order mark is no character of the line.
        let start = if start == 0 && self.bytes.starts_with(b"\xef\xbb\xbf") { 3.min(at) } else { start };
        let column = String::from_utf8_lossy(&self.bytes[start..at]).chars().count() + 1;
        (start..end, Position { line, column })
    }

    pub fn position(&self, at: usize) -> Position {
        self.line_at(at).1
    }

    /// A diagnostic at a byte range; what reaches over its first line is underlined to that line's end.
    pub fn diagnostic(&self, code: &'static str, range: Range<usize>, message: impl Into<String>) -> Diagnostic {
        let (line, position) = self.line_at(range.start);
        let text = std::str::from_utf8(&self.bytes[line.clone()]).ok().map(|text| text.trim_end_matches('\r'));
        let end = range.end.clamp(range.start, line.end.max(range.start)).min(self.bytes.len());
        let start = range.start.min(end);
        let span = String::from_utf8_lossy(&self.bytes[start..end]);
        let visible = |c: char| !c.is_control() || c == '\t';
        Diagnostic {
            code,
            path: Arc::clone(self.path),
            line: position.line,
            column: position.column,
            span_len: span.trim_end().chars().count().max(1),
            source_line: text
                .filter(|text| text.chars().all(visible) && text.chars().nth(LONGEST_LINE).is_none())
                .map(str::to_owned),
            message: message.into(),
            help: None,
            related: Vec::new(),
        }
    }

    /// A diagnostic about the file as a whole.
    pub fn whole(&self, code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code,
            path: Arc::clone(self.path),
            line: 0,
            column: 0,
            span_len: 1,
            source_line: None,
            message: message.into(),
            help: None,
            related: Vec::new(),
        }
    }
}

/// The byte offset of a character's index in `text`.
pub(crate) fn byte_of(text: &str, character: usize) -> usize {
    text.char_indices().nth(character).map_or(text.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_lines_and_characters() {
        let path: Arc<str> = "f".into();
        let bytes = "\u{feff}é: 1\r\nb: ü!\n".as_bytes();
        let place = Place::new(&path, bytes);
        assert_eq!(place.position(3), Position { line: 1, column: 1 });
        assert_eq!(place.position(bytes.len()), Position { line: 3, column: 1 });
        let found = place.diagnostic("c", 13..16, "m");
        assert_eq!((found.line, found.column, found.span_len), (2, 4, 2));
        assert_eq!(found.source_line.as_deref(), Some("b: ü!"));
        let over = place.diagnostic("c", 3..15, "m");
        assert_eq!((over.line, over.column, over.span_len), (1, 1, 4));
    }
}
