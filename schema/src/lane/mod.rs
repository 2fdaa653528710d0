//! A fast lane for plain documents, which machines write by the hundred thousand.
//!
//! It reads the part of YAML about which nobody can be in doubt: block mappings and lists with one indentation each,
//! flow collections on one line, plain words, quoted texts without escapes, comments. There it is several times as fast
//! as a whole parser, and its events go to the same types. On anything else (anchors, tags, texts of several lines,
//! tabs, escapes, nothing where a value should be, and everything that is wrong) it gives up without a word, and
//! serde_yaml reads the document from its beginning: so there is one source of errors.
mod events;
mod types;

use serde::de::DeserializeOwned;

/// `None`: this needs a real parser, be it only to say what is wrong.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Option<T> {
    let events = events::read(text)?;
    let mut reader = types::Reader::new(&events);
    let value = T::deserialize(&mut reader).ok()?;
    reader.is_at_end().then_some(value)
}

/// Whether a comment is one to every parser: no control characters, nothing that some take for a line break.
pub(crate) fn is_harmless(comment: &str) -> bool {
    // Without a way out in the middle, so that many bytes are looked at at once.
    let is_ascii = comment.bytes().fold(true, |all, byte| all & matches!(byte, b'\t' | b' '..=b'~'));
    let plain = |c: char| {
        matches!(c, '\t' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
            && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
    };
    is_ascii || comment.chars().all(plain)
}

#[cfg(test)]
mod tests;
