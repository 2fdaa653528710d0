//! Long lists of prefixes, read by their lines.
//!
//! A YAML parser spends 600 ns and 150 bytes on each entry of a list, a line scanner 50 ns and none. So a block list
//! under `spec.cidrs` or `spec.allow` whose lines are all plain prefixes is lifted out of the text, one placeholder is
//! left in it, and the strict pass reads the rest. That the placeholder comes back as the only entry of that very list
//! proves that the lines were its entries. Whatever is not as simple as that is left to the parser.
use crate::{
    CidrFilterSpec,
    lane::is_harmless,
    prefix::parse_prefix,
    prefixes::{Collector, Prefixes},
};

/// Fewer lines than this are not worth it.
const LEAST_LINES: usize = 32;
const FIELDS: [(&str, &str); 2] = [("cidrs:", "weir-lifted-cidrs"), ("allow:", "weir-lifted-allow")];

/// A text without its long lists.
pub(crate) struct Lifted {
    pub rest: String,
    /// By the index of [`FIELDS`].
    lists: [Option<Prefixes>; 2],
}

/// `None`: nothing to lift.
pub(crate) fn lift(text: &str) -> Option<Lifted> {
    let spec = text.find("\nspec:")? + 1;
    let mut lists = [None, None];
    let mut rest = String::new();
    let mut copied = 0;
    let mut lines = Lines { text, at: spec };
    lines.next();
    let mut indent = None;
    while let Some((start, line)) = lines.next() {
        let Some(content) = content(line) else { continue };
        let depth = line.len() - line.trim_start_matches(' ').len();
        let indent = *indent.get_or_insert(depth);
        if indent == 0 {
            break;
        }
        let field = FIELDS.iter().position(|(key, _)| depth == indent && content == *key);
        let Some(field) = field else { continue };
        let begin = start + line.len();
        let Some((list, end)) = entries(text, begin, indent) else { continue };
        if lists[field].is_some() {
            return None;
        }
        lists[field] = Some(list);
        rest.push_str(&text[copied..begin]);
        rest.push_str(&" ".repeat(indent));
        rest.push_str("- ");
        rest.push_str(FIELDS[field].1);
        rest.push('\n');
        copied = end;
        lines.at = end;
    }
    if copied == 0 {
        return None;
    }
    rest.push_str(&text[copied..]);
    Some(Lifted { rest, lists })
}

impl Lifted {
    /// Puts the lists where their placeholders are; `None` when one is anywhere else.
    pub fn put_back(self, filter: &mut CidrFilterSpec) -> Option<()> {
        for ((list, (_, placeholder)), field) in
            self.lists.into_iter().zip(FIELDS).zip([&mut filter.cidrs, &mut filter.allow])
        {
            let Some(list) = list else { continue };
            match field.malformed() {
                [only] if field.is_empty() && only.text == placeholder => *field = list,
                _ => return None,
            }
        }
        Some(())
    }
}

/// The list that begins at `begin`, and where it ends: at a line that is a key of `spec` or of the document, or at the
/// end of the text.
fn entries(text: &str, begin: usize, indent: usize) -> Option<(Prefixes, usize)> {
    let mut list = Collector::default();
    let mut count = 0;
    let mut lines = Lines { text, at: begin };
    let mut own_indent = None;
    let end = loop {
        let Some((start, line)) = lines.next() else { break text.len() };
        if let Some((depth, entry)) = entry(line) {
            if depth < indent || *own_indent.get_or_insert(depth) != depth {
                return None;
            }
            list.push(parse_prefix(entry).ok()?);
            count += 1;
            continue;
        }
        let Some(content) = content(line) else {
            is_harmless(without_break(line)).then_some(())?;
            continue;
        };
        let depth = line.len() - line.trim_start_matches(' ').len();
        if (depth == indent || depth == 0) && content.starts_with(|c: char| c.is_ascii_alphabetic()) {
            break start;
        }
        return None;
    };
    (count >= LEAST_LINES).then(|| (list.finish(), end))
}

/// An entry's line: its indentation, and a text that is the same to a YAML parser.
fn entry(line: &str) -> Option<(usize, &str)> {
    let bytes = line.as_bytes();
    let depth = bytes.iter().take_while(|byte| **byte == b' ').count();
    let [b'-', b' ', entry @ ..] = &bytes[depth..] else { return None };
    let begin = depth + 2 + entry.iter().take_while(|byte| **byte == b' ').count();
    let (begin, quote) = match bytes.get(begin) {
        Some(quote @ (b'"' | b'\'')) => (begin + 1, Some(*quote)),
        _ => (begin, None),
    };
    let simple = |byte: &&u8| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':' | b'/');
    let end = begin + bytes[begin..].iter().take_while(simple).count();
    let text = &line[begin..end];
    let end = match quote {
        Some(quote) if bytes.get(end) == Some(&quote) => end + 1,
        Some(_) => return None,
        // `fd00::` without quotes is a mapping.
        None if text.ends_with(':') => return None,
        None => end,
    };
    let tail = without_break(&line[end..]);
    let comment = tail.trim_start_matches(' ');
    let ends = comment.is_empty() || comment.len() < tail.len() && comment.starts_with('#') && is_harmless(comment);
    ends.then_some((depth, text))
}

fn without_break(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

/// A line without indentation, comment and break; `None` when nothing is left.
fn content(line: &str) -> Option<&str> {
    let line = line.trim_start_matches(' ');
    let end = match line.as_bytes() {
        [b'#', ..] => 0,
        bytes => bytes.windows(2).position(|pair| pair == b" #").unwrap_or(line.len()),
    };
    let line = line[..end].trim_end_matches(['\n', '\r', ' ']);
    (!line.is_empty()).then_some(line)
}

/// Lines with their breaks, and where they start.
struct Lines<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<(usize, &'a str)> {
        let start = self.at;
        let rest = self.text.get(start..).filter(|rest| !rest.is_empty())?;
        let length = memchr::memchr(b'\n', rest.as_bytes()).map_or(rest.len(), |newline| newline + 1);
        self.at += length;
        Some((start, &rest[..length]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<CidrFilterSpec> {
        #[derive(serde::Deserialize)]
        struct Document {
            spec: CidrFilterSpec,
        }
        let lifted = lift(text)?;
        let mut filter = serde_yaml::from_str::<Document>(&lifted.rest).ok()?.spec;
        lifted.put_back(&mut filter)?;
        Some(filter)
    }

    fn long(indent: &str) -> String {
        (0..40).map(|n| format!("{indent}- 10.0.{n}.0/24 # {n}\r\n\n# note\n")).collect()
    }

    #[test]
    fn lists_of_both_fields_are_lifted() {
        for indent in ["  ", "    "] {
            let quoted: String = (0..33).map(|n| format!("{indent}- \"fd00:{n}::\"\n")).collect();
            let text = format!(
                "kind: x\nspec:\n  # c\n  mode: native\n  cidrs: # d\n{}  match: destination\n  allow:\n{quoted}status: 1\n",
                long(indent)
            );
            let filter = read(&text).unwrap();
            assert_eq!((filter.cidrs.len(), filter.allow.len()), (40, 33));
            assert_eq!(filter.matches, crate::FilterMatch::Destination);
        }
    }

    #[test]
    fn what_is_not_simple_is_left_to_the_parser() {
        let list = long("  ");
        for text in [
            format!("\nspec:\n  cidrs:\n{list}  - example.org\n"),
            format!("\nspec:\n  cidrs:\n{list}  - fd00::\n"),
            format!("\nspec:\n  cidrs:\n{list}  - [a]\n"),
            format!("\nspec:\n  cidrs:\n{list}    10.0.0.0/8\n"),
            format!("\nspec:\n  cidrs:\n{list}   - 10.0.0.0/8\n"),
            format!("\nspec:\n  cidrs:\n{list}  - *alias\n"),
            "\nspec:\n  cidrs:\n  - 10.0.0.0/8\n".to_owned(),
        ] {
            assert!(lift(&text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_list_inside_a_text_is_not_a_list() {
        for text in [
            format!("a: \"x\nspec:\n  cidrs:\n{}  y: \"\nspec:\n  interfaces: []\n", long("  ")),
            format!("\nspec:\n  interfaces:\n  - \"x\n  cidrs:\n{}  match: \"\n", long("  ")),
            format!("\nspec:\n  interfaces: ['\n  cidrs:\n{}  match: ']\n  cidrs: []\n", long("  ")),
        ] {
            assert!(lift(&text).is_some(), "the lines alone do not show it");
            assert!(read(&text).is_none(), "{text}");
        }
    }
}
