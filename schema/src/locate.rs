//! Places of values, looked up only when somebody wants to see them.
use std::{net::IpAddr, ops::Range, sync::Arc};

use crate::{
    CidrFilterSpec, File, Object, Position, Spec,
    cidr_list::longest_covering,
    document::{self, DocumentText},
    from_files::relative_to,
    header::{Header, Target, target},
    marked::{self, Value},
    place::{Place, byte_of},
    prefix::parse_prefix,
    problem::{Step, parse_path},
};

/// Where the value at a spec path (`spec.ingress[0].toPorts[1].ports[0]`) stands.
///
/// `document` counts as [`crate::Origin::document`] does. Reads the file up to the place; `None` when there is no such
/// document or path.
pub fn locate(file: &File, document: usize, path: &str) -> Option<Position> {
    let range = span(file, document, path)?;
    Some(Place::new(&file.path, &file.bytes).position(range.start))
}

/// The bytes of the value at `path`; of a mapping or list, its first character at least.
fn span(file: &File, document: usize, path: &str) -> Option<Range<usize>> {
    let (text, steps) = find(file, document, parse_path(path)?)?;
    seek(text, &steps)
}

fn seek(text: DocumentText<'_>, steps: &[Step]) -> Option<Range<usize>> {
    let (start, end) = marked::seek(text.text, steps)?;
    Some(text.offset + byte_of(text.text, start)..text.offset + byte_of(text.text, end))
}

/// A text that holds objects.
#[derive(Clone, Copy, Debug)]
struct Holder<'a> {
    /// The first of them, as [`crate::Origin::document`] counts.
    first: usize,
    /// How many follow each other as a `List`'s items; `None` when it is no `List`.
    items: Option<usize>,
    text: DocumentText<'a>,
}

impl<'a> Holder<'a> {
    fn of(file: &'a File) -> impl Iterator<Item = Self> {
        let texts = document::decode(&file.bytes).map(|(text, skipped)| document::split(text, skipped));
        texts.unwrap_or_default().into_iter().scan(0, |next, text| {
            let (first, items) = (*next, items_of_list(text.text));
            *next += items.unwrap_or(1);
            Some(Self { first, items, text })
        })
    }

    fn holds(&self, document: usize) -> bool {
        document - self.first < self.items.unwrap_or(1)
    }

    /// The path in the text, of a path in the object.
    fn path(&self, document: usize, mut steps: Vec<Step>) -> Vec<Step> {
        if self.items.is_some() {
            steps.splice(0..0, [Step::Field("items".to_owned()), Step::Index(document - self.first)]);
        }
        steps
    }
}

/// The text that holds an object, and the path in it: an object may be an item of a `List`.
fn find(file: &File, document: usize, steps: Vec<Step>) -> Option<(DocumentText<'_>, Vec<Step>)> {
    let holder = Holder::of(file).find(|holder| holder.holds(document))?;
    Some((holder.text, holder.path(document, steps)))
}

/// A file in which many values are looked up: it is split once, and its lines are counted once.
#[derive(Debug)]
pub(crate) struct Values<'a> {
    pub place: Place<'a>,
    holders: Vec<Holder<'a>>,
}

impl<'a> Values<'a> {
    pub fn new(file: &'a File) -> Self {
        Self { place: Place::new(&file.path, &file.bytes), holders: Holder::of(file).collect() }
    }

    /// As [`span`].
    pub fn span(&self, document: usize, path: &str) -> Option<Range<usize>> {
        let at = self.holders.partition_point(|holder| holder.first <= document).checked_sub(1)?;
        let holder = self.holders.get(at).filter(|holder| holder.holds(document))?;
        seek(holder.text, &holder.path(document, parse_path(path)?))
    }

    /// As [`locate`].
    pub fn locate(&self, document: usize, path: &str) -> Option<Position> {
        Some(self.place.position(self.span(document, path)?.start))
    }
}

/// How many objects a document holds, when it is a `List`.
fn items_of_list(text: &str) -> Option<usize> {
    let header = Header::of_text(text)?;
    let Target::List = target(&header) else { return None };
    let tree = marked::read(text).ok()?;
    match &*tree.entry("items")?.1.value {
        Value::Sequence(items) => Some(items.len()),
        _ => None,
    }
}

/// For an address that a rule of a `CidrFilter` covers: where the longest covering entry of that rule's list stands.
///
/// `rule_path` is a [`crate::CidrList::rule_path`]; `file_of` gives the files of the set by path. Scans the list.
pub fn locate_list_entry<'a>(
    object: &Object,
    rule_path: &str,
    address: IpAddr,
    file_of: impl Fn(&str) -> Option<&'a File>,
) -> Option<(Arc<str>, Position)> {
    let Spec::CidrFilter(filter) = &object.spec else { return None };
    if rule_path == CidrFilterSpec::CIDRS {
        let file = file_of(&object.origin.path)?;
        let (text, steps) = find(file, object.origin.document, parse_path(rule_path)?)?;
        let mut best: Option<(u8, usize)> = None;
        marked::each_text(text.text, &steps, |entry, start| {
            if let Ok(net) = parse_prefix(entry)
                && net.contains(&address)
                && best.is_none_or(|(length, _)| length < net.prefix_len())
            {
                best = Some((net.prefix_len(), start));
            }
        })?;
        let at = text.offset + byte_of(text.text, best?.1);
        return Some((Arc::clone(&file.path), Place::new(&file.path, &file.bytes).position(at)));
    }
    let index = filter.lists.iter().find(|list| list.rule_path == rule_path).and_then(|list| {
        let index = list.rule_path.strip_prefix("spec.fromFiles[")?.strip_suffix(']')?;
        index.parse::<usize>().ok()
    })?;
    let file = file_of(&relative_to(&object.origin.path, filter.from_files.get(index)?)?)?;
    let range = longest_covering(&file.bytes, address)?;
    Some((Arc::clone(&file.path), Place::new(&file.path, &file.bytes).position(range.start)))
}
