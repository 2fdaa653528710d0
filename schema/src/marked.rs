//! Where values stand: a second reading of a document by a marked event parser, made only when somebody asks.
use std::{collections::HashMap, rc::Rc};

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::problem::Step;

/// Deeper than any manifest, and than serde_yaml goes.
const MAX_DEPTH: usize = 128;

/// A value with its place, in characters of the document's text.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub value: Rc<Value>,
    pub start: usize,
    pub end: usize,
}

#[derive(Debug)]
pub(crate) enum Value {
    Scalar { text: String, plain: bool },
    Sequence(Vec<Node>),
    Mapping(Vec<(Node, Node)>),
}

/// Why a document could not be read.
#[derive(Debug)]
pub(crate) struct MarkedError {
    pub index: usize,
    pub message: String,
    pub too_deep: bool,
}

type Events<'a> = Parser<'a, saphyr_parser::StrInput<'a>>;

/// The document as a tree; an alias shares the value of its anchor.
pub(crate) fn read(text: &str) -> Result<Node, MarkedError> {
    let mut reader = Reader { events: Parser::new_from_str(text), anchors: HashMap::new() };
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
            Event::StreamEnd | Event::DocumentEnd => return Err(error(&span, "there is no document", false)),
            event => return reader.node(event, span, 0),
        }
    }
}

fn error(span: &Span, message: &str, too_deep: bool) -> MarkedError {
    MarkedError { index: span.start.index(), message: message.to_owned(), too_deep }
}

struct Reader<'a> {
    events: Events<'a>,
    anchors: HashMap<usize, Rc<Value>>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), MarkedError> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                Err(MarkedError { index: error.marker().index(), message: error.info().to_owned(), too_deep: false })
            }
            None => Err(MarkedError { index: 0, message: "the document ends too early".to_owned(), too_deep: false }),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, MarkedError> {
        if depth > MAX_DEPTH {
            return Err(error(&span, "nested too deeply", true));
        }
        let (start, mut end) = (span.start.index(), span.end.index());
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => {
                (Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }, anchor)
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, span) => break end = span.end.index(),
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                (Value::Sequence(items), anchor)
            }
            Event::MappingStart(anchor, _) => {
                let mut entries = Vec::new();
                loop {
                    let key = match self.next()? {
                        (Event::MappingEnd, span) => break end = span.end.index(),
                        (event, span) => self.node(event, span, depth + 1)?,
                    };
                    let (event, span) = self.next()?;
                    entries.push((key, self.node(event, span, depth + 1)?));
                }
                (Value::Mapping(entries), anchor)
            }
            Event::Alias(anchor) => {
                let Some(value) = self.anchors.get(&anchor) else {
                    return Err(error(&span, "an alias inside its own anchor", false));
                };
                return Ok(Node { value: Rc::clone(value), start, end });
            }
            _ => return Err(error(&span, "a value was expected here", false)),
        };
        let value = Rc::new(value);
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&value));
        }
        Ok(Node { value, start, end })
    }
}

impl Node {
    /// The entry of a mapping: key and value.
    pub fn entry(&self, name: &str) -> Option<(&Node, &Node)> {
        let Value::Mapping(entries) = &*self.value else { return None };
        entries.iter().find(|(key, _)| key.text() == Some(name)).map(|(key, value)| (key, value))
    }

    pub fn text(&self) -> Option<&str> {
        match &*self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The deepest node on the way along `steps` that exists, its key if it is an entry, and whether it is the end.
    pub fn descend<'a>(&'a self, steps: &[Step]) -> (&'a Node, Option<&'a Node>, bool) {
        let (mut node, mut key) = (self, None);
        for step in steps {
            let next = match (step, &*node.value) {
                (Step::Field(name), _) => node.entry(name).map(|(key, value)| (value, Some(key))),
                (Step::Index(index), Value::Sequence(items)) => items.get(*index).map(|item| (item, None)),
                _ => None,
            };
            match next {
                Some(found) => (node, key) = found,
                None => return (node, key, false),
            }
        }
        (node, key, true)
    }
}

/// The place of the value at `steps`, found while reading, without keeping a tree: `(start, end)` in characters.
/// Reads no further than the place. What stands behind an alias has the alias's place.
pub(crate) fn seek(text: &str, steps: &[Step]) -> Option<(usize, usize)> {
    let mut reader = Reader { events: Parser::new_from_str(text), anchors: HashMap::new() };
    let (event, span) = reader.first()?;
    let (_, span) = reader.seek(event, span, steps)?;
    Some((span.start.index(), span.end.index()))
}

/// Calls `entry` with each text of the list at `steps` and where it starts, in characters.
pub(crate) fn each_text(text: &str, steps: &[Step], mut entry: impl FnMut(&str, usize)) -> Option<()> {
    let mut reader = Reader { events: Parser::new_from_str(text), anchors: HashMap::new() };
    let (event, span) = reader.first()?;
    let (Event::SequenceStart(..), _) = reader.seek(event, span, steps)? else { return None };
    loop {
        match reader.next().ok()? {
            (Event::SequenceEnd, _) => return Some(()),
            (Event::Scalar(text, ..), span) => entry(&text, span.start.index()),
            (event, _) => reader.skip(&event)?,
        }
    }
}

impl<'a> Reader<'a> {
    /// The event that begins the document's root.
    fn first(&mut self) -> Option<(Event<'a>, Span)> {
        loop {
            match self.next().ok()? {
                (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
                (Event::StreamEnd | Event::DocumentEnd, _) => return None,
                root => return Some(root),
            }
        }
    }

    fn seek(&mut self, event: Event<'a>, span: Span, steps: &[Step]) -> Option<(Event<'a>, Span)> {
        let (mut event, mut span) = (event, span);
        for step in steps {
            (event, span) = match (step, event) {
                (_, alias @ Event::Alias(_)) => return Some((alias, span)),
                (Step::Index(index), Event::SequenceStart(..)) => {
                    for _ in 0..*index {
                        let (event, _) = self.next().ok()?;
                        if event == Event::SequenceEnd {
                            return None;
                        }
                        self.skip(&event)?;
                    }
                    match self.next().ok()? {
                        (Event::SequenceEnd, _) => return None,
                        item => item,
                    }
                }
                (Step::Field(name), Event::MappingStart(..)) => loop {
                    let (key, _) = self.next().ok()?;
                    if key == Event::MappingEnd {
                        return None;
                    }
                    let found = matches!(&key, Event::Scalar(text, ..) if text == name);
                    self.skip(&key)?;
                    let value = self.next().ok()?;
                    if found {
                        break value;
                    }
                    self.skip(&value.0)?;
                },
                _ => return None,
            };
        }
        Some((event, span))
    }

    /// Reads to the end of the node that `event` began.
    fn skip(&mut self, event: &Event<'a>) -> Option<()> {
        let mut depth = usize::from(opens(event));
        while depth > 0 {
            let (event, _) = self.next().ok()?;
            match event {
                Event::SequenceEnd | Event::MappingEnd => depth -= 1,
                event => depth += usize::from(opens(&event)),
            }
        }
        Some(())
    }
}

fn opens(event: &Event<'_>) -> bool {
    matches!(event, Event::SequenceStart(..) | Event::MappingStart(..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::parse_path;

    const TEXT: &str = "a:\n  - x: 1\n    é: [2, three]\n  - &n {y: 4}\nb: *n\n";

    #[test]
    fn seek_and_descend_agree() {
        let tree = read(TEXT).unwrap();
        for path in ["a", "a[0]", "a[0].x", "a[0].é[1]", "a[1].y", "b"] {
            let steps = parse_path(path).unwrap();
            let (node, _, whole) = tree.descend(&steps);
            assert!(whole, "{path}");
            assert_eq!(seek(TEXT, &steps).map(|(start, _)| start), Some(node.start), "{path}");
        }
        for path in ["c", "a[2]", "a.x", "a[0].é[2]", "a[0].x.z"] {
            assert_eq!(seek(TEXT, &parse_path(path).unwrap()), None, "{path}");
        }
    }

    #[test]
    fn an_alias_shares_its_anchor() {
        let tree = read(TEXT).unwrap();
        let (node, _, whole) = tree.descend(&parse_path("b.y").unwrap());
        assert!(whole);
        assert_eq!(node.text(), Some("4"));
    }

    #[test]
    fn depth_is_limited() {
        let text = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        assert!(read(&text).unwrap_err().too_deep);
    }
}
