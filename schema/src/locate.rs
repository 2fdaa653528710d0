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
pub(crate) fn span(file: &File, document: usize, path: &str) -> Option<Range<usize>> {
    let (text, steps) = find(file, document, parse_path(path)?)?;
    let (start, end) = marked::seek(text.text, &steps)?;
    Some(text.offset + byte_of(text.text, start)..text.offset + byte_of(text.text, end))
}

/// The text that holds an object, and the path in it: an object may be an item of a `List`.
fn find(file: &File, document: usize, steps: Vec<Step>) -> Option<(DocumentText<'_>, Vec<Step>)> {
    let (text, skipped) = document::decode(&file.bytes).ok()?;
    let mut left = document;
    for text in document::split(text, skipped) {
        let items = items_of_list(text.text).unwrap_or(1);
        if left >= items {
            left -= items;
            continue;
        }
        let mut steps = steps;
        if items_of_list(text.text).is_some() {
            steps.splice(0..0, [Step::Field("items".to_owned()), Step::Index(left)]);
        }
        return Some((text, steps));
    }
    None
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
