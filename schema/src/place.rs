//! From offsets to lines and columns.
use std::{cell::OnceCell, ops::Range, sync::Arc};

use crate::diagnostic::Diagnostic;

/// A place in a file, both counted from 1; columns are characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// Longer lines are not shown: they are data, or JSON without a break.
const LONGEST_LINE: usize = 300;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A file whose places are asked for; nothing is counted before the first question.
#[derive(Clone, Debug)]
pub(crate) struct Place<'a> {
    path: &'a Arc<str>,
    bytes: &'a [u8],
    /// Byte offset of each line's first character.
    lines: OnceCell<Vec<usize>>,
}

impl<'a> Place<'a> {
    pub fn new(path: &'a Arc<str>, bytes: &'a [u8]) -> Self {
        Self { path, bytes, lines: OnceCell::new() }
    }

    /// The line that holds `at`, without its line break, and the place of `at`.
    fn line_at(&self, at: usize) -> (Range<usize>, Position) {
        let lines = self.lines.get_or_init(|| {
            let first = if self.bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
            let breaks = self.bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            std::iter::once(first).chain(breaks.map(|(at, _)| at + 1)).collect()
        });
        let at = at.clamp(lines[0], self.bytes.len());
        // At least the first line begins at or before `at`.
        let index = lines.partition_point(|start| *start <= at) - 1;
        let start = lines[index];
        let end = lines.get(index + 1).map_or(self.bytes.len(), |next| next - 1);
        let column = String::from_utf8_lossy(&self.bytes[start..at]).chars().count() + 1;
        (start..end, Position { line: index + 1, column })
    }

    pub fn position(&self, at: usize) -> Position {
        self.line_at(at).1
    }

    /// A diagnostic at a byte range; what reaches over its first line is underlined to that line's end.
    pub fn diagnostic(&self, code: &'static str, range: Range<usize>, message: impl Into<String>) -> Diagnostic {
        let (line, position) = self.line_at(range.start);
        let text = std::str::from_utf8(&self.bytes[line.clone()]).ok().map(|text| text.trim_end_matches('\r'));
        let start = range.start.clamp(line.start, line.end);
        let span = String::from_utf8_lossy(&self.bytes[start..range.end.clamp(start, line.end)]);
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

    pub fn related(&self, at: usize, what: impl Into<String>) -> (Arc<str>, usize, usize, String) {
        let position = self.position(at);
        (Arc::clone(self.path), position.line, position.column, what.into())
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
        let empty: Arc<str> = "e".into();
        let beyond = Place::new(&empty, b"").diagnostic("c", 0..1, "m");
        assert_eq!((beyond.line, beyond.column, beyond.span_len), (1, 1, 1));
    }
}
