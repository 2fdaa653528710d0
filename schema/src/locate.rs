//! Places of values, looked up only when somebody wants to see them.
use std::{net::IpAddr, sync::Arc};

use crate::{
    File, Position, document, marked,
    place::{Place, byte_of},
    problem::parse_path,
};

/// Where the value at a spec path (`spec.ingress[0].toPorts[1].ports[0]`) stands.
///
/// `document` counts as [`crate::Origin::document`] does. Reads the file up to the place; `None` when there is no such
/// document or path.
pub fn locate(file: &File, document: usize, path: &str) -> Option<Position> {
    let steps = parse_path(path)?;
    let (text, skipped) = document::decode(&file.bytes).ok()?;
    let text = document::split(text, skipped).into_iter().nth(document)?;
    let (start, _) = marked::seek(text.text, &steps)?;
    Some(Place::new(&file.path, &file.bytes).position(text.offset + byte_of(text.text, start)))
}

/// Where, in a file that `fromFiles` names, the longest entry that covers `address` stands.
pub fn locate_list_entry(file: &File, address: IpAddr) -> Option<(Arc<str>, Position)> {
    let range = crate::cidr_list::longest_covering(&file.bytes, address)?;
    Some((Arc::clone(&file.path), Place::new(&file.path, &file.bytes).position(range.start)))
}
