//! From text to events, line by line.
use super::is_harmless;

/// What a document is made of, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    Scalar {
        text: &'a str,
        plain: bool,
    },
    Mapping,
    Sequence,
    /// Of the mapping or sequence that began last.
    End,
}

/// No manifest is deeper.
const MAX_DEPTH: usize = 16;
/// A longer key needs a `?` in YAML; real ones are a tenth of that.
const MAX_KEY: usize = 256;

/// A document that is one block mapping; `None` when any of it is not plain.
pub(super) fn read(text: &str) -> Option<Vec<Event<'_>>> {
    let mut lexer = Lexer { text, next: 0, line: None, events: Vec::with_capacity(text.len() / 8) };
    if text.starts_with("---") {
        let end = text.find('\n').unwrap_or(text.len());
        ends(&text[3..end])?;
        lexer.next = (end + 1).min(text.len());
    }
    lexer.advance()?;
    let (0, content) = lexer.line? else { return None };
    key(content)?;
    lexer.mapping(0, 0)?;
    lexer.line.is_none().then_some(lexer.events)
}

struct Lexer<'a> {
    text: &'a str,
    /// Where the line after `line` begins.
    next: usize,
    /// Indentation, and what follows it, of a line that has content.
    line: Option<(usize, &'a str)>,
    events: Vec<Event<'a>>,
}

impl<'a> Lexer<'a> {
    /// To the next line that is more than a comment.
    fn advance(&mut self) -> Option<()> {
        loop {
            let rest = &self.text[self.next..];
            if rest.is_empty() {
                self.line = None;
                return Some(());
            }
            let end = memchr::memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
            let line = &rest[..end];
            self.next = (self.next + end + 1).min(self.text.len());
            let indent = line.bytes().take_while(|byte| *byte == b' ').count();
            let content = &line[indent..];
            match content.as_bytes() {
                [] => {}
                [b'#', ..] => is_harmless(content).then_some(())?,
                _ => {
                    self.line = Some((indent, content));
                    return Some(());
                }
            }
        }
    }

    /// The entries that are indented by `indent`, the first of which is the current line.
    fn mapping(&mut self, indent: usize, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.events.push(Event::Mapping);
        while let Some((_, content)) = self.line.filter(|(here, _)| *here == indent) {
            let Some((name, value)) = key(content) else { break };
            self.events.push(Event::Scalar { text: name, plain: true });
            let value = value.trim_start_matches(' ');
            if value.is_empty() || value.starts_with('#') {
                is_harmless(value).then_some(())?;
                self.advance()?;
                match self.line? {
                    (inner, content) if inner >= indent && content.starts_with("- ") => {
                        self.sequence(inner, depth + 1)?
                    }
                    (inner, _) if inner > indent => self.mapping_only(inner, depth + 1)?,
                    _ => return None,
                }
            } else {
                ends(self.inline(value, false, depth + 1)?)?;
                self.advance()?;
            }
        }
        self.close(indent)
    }

    fn mapping_only(&mut self, indent: usize, depth: usize) -> Option<()> {
        key(self.line?.1)?;
        self.mapping(indent, depth)
    }

    /// The items that are indented by `indent`, the first of which is the current line.
    fn sequence(&mut self, indent: usize, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.events.push(Event::Sequence);
        while let Some((_, content)) = self.line.filter(|(here, _)| *here == indent) {
            let Some(item) = content.strip_prefix("- ") else { break };
            let inner = item.trim_start_matches(' ');
            if key(inner).is_some() {
                // The item's first entry stands beside its `-`.
                let column = indent + 2 + item.len() - inner.len();
                self.line = Some((column, inner));
                self.mapping(column, depth + 1)?;
            } else {
                ends(self.inline(inner, false, depth + 1)?)?;
                self.advance()?;
            }
        }
        self.close(indent)
    }

    /// What follows must belong to something further out.
    fn close(&mut self, indent: usize) -> Option<()> {
        self.events.push(Event::End);
        self.line.is_none_or(|(next, _)| next <= indent).then_some(())
    }

    /// A value on one line; what follows it.
    fn inline(&mut self, text: &'a str, in_flow: bool, depth: usize) -> Option<&'a str> {
        if depth > MAX_DEPTH {
            return None;
        }
        match *text.as_bytes().first()? {
            quote @ (b'"' | b'\'') => {
                let end = 1 + text.bytes().skip(1).position(|byte| byte == quote)?;
                let quoted = &text[1..end];
                let simple = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'\\';
                quoted.bytes().all(simple).then_some(())?;
                // In single quotes, two of them are one.
                let rest = &text[end + 1..];
                if rest.starts_with('\'') {
                    return None;
                }
                self.events.push(Event::Scalar { text: quoted, plain: false });
                Some(rest)
            }
            b'[' => {
                self.events.push(Event::Sequence);
                let mut rest = blank(&text[1..]);
                if let Some(rest) = rest.strip_prefix(']') {
                    self.events.push(Event::End);
                    return Some(rest);
                }
                loop {
                    rest = blank(self.inline(rest, true, depth + 1)?);
                    match rest.as_bytes().first()? {
                        b',' => rest = blank(&rest[1..]),
                        b']' => break,
                        _ => return None,
                    }
                }
                self.events.push(Event::End);
                Some(&rest[1..])
            }
            b'{' => {
                self.events.push(Event::Mapping);
                let mut rest = blank(&text[1..]);
                if let Some(rest) = rest.strip_prefix('}') {
                    self.events.push(Event::End);
                    return Some(rest);
                }
                loop {
                    let (name, value) = key(rest)?;
                    self.events.push(Event::Scalar { text: name, plain: true });
                    rest = blank(self.inline(blank(value), true, depth + 1)?);
                    match rest.as_bytes().first()? {
                        b',' => rest = blank(&rest[1..]),
                        b'}' => break,
                        _ => return None,
                    }
                }
                self.events.push(Event::End);
                Some(&rest[1..])
            }
            _ => {
                let length = text.bytes().take_while(|byte| is_word(*byte)).count();
                let (word, rest) = text.split_at(length);
                let first = word.bytes().next()?;
                // In flow, only what cannot be a part of the word ends it.
                let ended = if in_flow {
                    rest.starts_with([' ', ',', ']', '}'])
                } else {
                    rest.is_empty() || rest.starts_with(' ')
                };
                let plain = (first.is_ascii_alphanumeric() || matches!(first, b'/' | b'_' | b'.'))
                    && !word.ends_with(':')
                    && ended;
                if !plain || matches!(word, "null" | "Null" | "NULL") {
                    return None;
                }
                self.events.push(Event::Scalar { text: word, plain: true });
                Some(rest)
            }
        }
    }
}

/// A plain key, and what follows its `:`.
fn key(text: &str) -> Option<(&str, &str)> {
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-');
    let length = text.as_bytes().iter().take_while(|byte| inside(byte)).count();
    let (name, rest) = text.split_at(length);
    let value = rest.strip_prefix(':')?;
    let first = name.bytes().next()?;
    let plain = first.is_ascii_alphanumeric() && length <= MAX_KEY && (value.is_empty() || value.starts_with(' '));
    plain.then_some((name, value))
}

fn is_word(byte: u8) -> bool {
    const WORD: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            let odd = matches!(byte as u8, b'.' | b'/' | b'_' | b'-' | b':' | b'+' | b'@' | b'=' | b'*' | b'~');
            table[byte] = odd || (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        table
    };
    WORD[usize::from(byte)]
}

/// Only blanks and a comment are left.
fn ends(rest: &str) -> Option<()> {
    let blanks = blank(rest);
    let comment = blanks.starts_with('#') && blanks.len() < rest.len() && is_harmless(blanks);
    (blanks.is_empty() || comment).then_some(())
}

fn blank(text: &str) -> &str {
    text.trim_start_matches(' ')
}
