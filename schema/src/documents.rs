//! The documents of a file, kept so that the next version of the file costs what changed in it.
use std::{collections::HashMap, sync::OnceLock};

use sha2::{Digest, Sha256};

use crate::stored::Stored;

/// One object, and the text that it was read from.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub stored: Stored,
    pub text: TextHash,
    /// As [`crate::Origin::document`].
    pub index: u32,
    /// As [`crate::Origin::line`].
    pub line: u32,
}

/// Half a SHA-256 of a document's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TextHash(pub [u8; 16]);

impl TextHash {
    /// Of what is more than one object, or less.
    pub const NONE: Self = Self([0; 16]);

    pub fn of(text: &str) -> Self {
        let whole: [u8; 32] = Sha256::digest(text).into();
        let mut half = [0; 16];
        half.copy_from_slice(&whole[..16]);
        Self(half)
    }
}

/// A file's objects, in order.
#[derive(Debug)]
pub(crate) struct Documents {
    all: Box<[Document]>,
    /// Lower half of the address, and the place in `all`; sorted.
    by_address: OnceLock<Box<[(u32, u32)]>>,
}

/// In fewer documents than this, looking at each is faster.
const FEW: usize = 32;

impl Documents {
    pub fn new(all: Vec<Document>) -> Self {
        Self { all: all.into(), by_address: OnceLock::new() }
    }

    pub fn all(&self) -> &[Document] {
        &self.all
    }

    pub fn find(&self, stored: &Stored) -> Option<&Document> {
        if self.all.len() < FEW {
            return self.all.iter().find(|document| document.stored.is(stored));
        }
        let address = |stored: &Stored| (stored.address() >> 4) as u32;
        let by_address = self.by_address.get_or_init(|| {
            let mut list: Vec<_> = (0..).zip(&self.all).map(|(at, document)| (address(&document.stored), at)).collect();
            list.sort_unstable();
            list.into()
        });
        let wanted = address(stored);
        let first = by_address.partition_point(|(address, _)| *address < wanted);
        let alike = by_address[first..].iter().take_while(|(address, _)| *address == wanted);
        alike.map(|(_, at)| &self.all[*at as usize]).find(|document| document.stored.is(stored))
    }
}

/// The documents of a file's former version, to be found by their text.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    documents: &'a [Document],
    /// Where the next one is, as long as nothing was moved.
    next: usize,
    by_text: OnceLock<HashMap<TextHash, usize>>,
}

impl<'a> Known<'a> {
    pub fn new(documents: &'a [Document]) -> Self {
        Self { documents, next: 0, by_text: OnceLock::new() }
    }

    pub fn find(&mut self, text: TextHash) -> Option<&'a Document> {
        let expected = self.documents.get(self.next).filter(|document| document.text == text);
        if expected.is_some() {
            self.next += 1;
            return expected;
        }
        let by_text = self.by_text.get_or_init(|| {
            let known = self.documents.iter().enumerate().filter(|(_, document)| document.text != TextHash::NONE);
            known.map(|(at, document)| (document.text, at)).collect()
        });
        let at = *by_text.get(&text)?;
        self.next = at + 1;
        self.documents.get(at)
    }
}
