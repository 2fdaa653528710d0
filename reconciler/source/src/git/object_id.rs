use std::fmt;

use sha1_checked::Sha1;
use sha2::Sha256;

/// SHA-1 or SHA-256, as the repository has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ObjectId {
    bytes: [u8; 32],
    length: u8,
}

impl ObjectId {
    /// `None`: neither 20 nor 32 bytes.
    pub fn new(raw: &[u8]) -> Option<Self> {
        if !matches!(raw.len(), 20 | 32) {
            return None;
        }
        let mut bytes = [0; 32];
        bytes[..raw.len()].copy_from_slice(raw);
        Some(Self { bytes, length: raw.len() as u8 })
    }

    pub fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
        let raw: Option<Vec<u8>> =
            text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect();
        Self::new(&raw?)
    }

    /// Whether this is the name of an object with these bytes. Bytes made to collide have no name.
    pub fn names(&self, kind: &str, bytes: &[u8]) -> bool {
        let header = format!("{kind} {}\0", bytes.len());
        if self.length == 32 {
            use sha2::Digest as _;
            let mut hash = Sha256::new();
            hash.update(header.as_bytes());
            hash.update(bytes);
            return hash.finalize()[..] == *self.raw();
        }
        use sha1_checked::Digest as _;
        let mut hash = Sha1::new();
        hash.update(header.as_bytes());
        hash.update(bytes);
        let result = hash.try_finalize();
        !result.has_collision() && result.hash()[..] == *self.raw()
    }

    pub fn raw(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_kind_and_bytes() {
        // `printf x | git hash-object --stdin`, and the same in a repository in SHA-256.
        let sha1 = ObjectId::parse("c1b0730e0133449f4b4f5c4ac4b0c1d7a7c9a1d2");
        assert!(sha1.is_some_and(|id| !id.names("blob", b"x")));
        let empty = ObjectId::parse("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391").unwrap();
        assert!(empty.names("blob", b"") && !empty.names("tree", b"") && !empty.names("blob", b"x"));
        let empty = ObjectId::parse("473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813").unwrap();
        assert!(empty.names("blob", b"") && !empty.names("tree", b"") && !empty.names("blob", b"x"));
    }

    #[test]
    fn text_and_back() {
        for text in ["0123456789abcdef0123456789abcdef01234567".to_owned(), "0f".repeat(32)] {
            assert_eq!(ObjectId::parse(&text).unwrap().to_string(), text);
        }
        for text in ["", "0", "01", "zz23456789abcdef0123456789abcdef01234567"] {
            assert!(ObjectId::parse(text).is_none());
        }
    }
}
