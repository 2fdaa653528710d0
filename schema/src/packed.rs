//! Fields one after the other, in as few bytes as they need.
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Seven bits a byte, the lowest first.
    pub fn count(&mut self, count: usize) {
        let mut rest = count;
        while rest >= 0x80 {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
    }

    pub fn text(&mut self, text: &str) {
        self.count(text.len());
        self.bytes(text.as_bytes());
    }

    pub fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.0.push(4);
                self.bytes(&address.octets());
            }
            IpAddr::V6(address) => {
                self.0.push(6);
                self.bytes(&address.octets());
            }
        }
    }

    pub fn map(&mut self, map: &BTreeMap<String, String>) {
        self.count(map.len());
        for (key, value) in map {
            self.text(key);
            self.text(value);
        }
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads what a [`Writer`] wrote. Of anything else it reads nonsense, but never beyond the end, and knows that it did.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    wrong: bool,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, wrong: false }
    }

    /// Everything was there, and nothing more.
    pub fn is_right(&self) -> bool {
        !self.wrong && self.rest.is_empty()
    }

    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        match self.rest.split_at_checked(length) {
            Some((bytes, rest)) => {
                self.rest = rest;
                bytes
            }
            None => {
                self.wrong = true;
                self.rest = &[];
                &[]
            }
        }
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        self.bytes(N).try_into().unwrap_or([0; N])
    }

    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// A number of things that each take at least one byte.
    pub fn count(&mut self) -> usize {
        let number = self.number();
        if number > self.rest.len() {
            self.wrong = true;
            return 0;
        }
        number
    }

    pub fn number(&mut self) -> usize {
        let mut number = 0usize;
        for shift in (0..usize::BITS - 7).step_by(7) {
            let byte = self.byte();
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return number;
            }
        }
        self.wrong = true;
        0
    }

    pub fn text_bytes(&mut self) -> &'a [u8] {
        let length = self.number();
        self.bytes(length)
    }

    pub fn text(&mut self) -> &'a str {
        std::str::from_utf8(self.text_bytes()).unwrap_or_else(|_| {
            self.wrong = true;
            ""
        })
    }

    pub fn map(&mut self) -> BTreeMap<String, String> {
        // Not collected: a map of one or two is made faster one by one.
        let mut map = BTreeMap::new();
        for _ in 0..self.count() {
            map.insert(self.text().to_owned(), self.text().to_owned());
        }
        map
    }

    pub fn address(&mut self) -> IpAddr {
        match self.byte() {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>())),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>())),
            _ => {
                self.wrong = true;
                IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(count: u32, text: String, addresses: Vec<IpAddr>) {
            let mut to = Writer::default();
            to.count(count as usize);
            to.text(&text);
            to.count(addresses.len());
            addresses.iter().for_each(|address| to.address(*address));
            let bytes = to.finish();
            let mut from = Reader::new(&bytes);
            prop_assert_eq!(from.number(), count as usize);
            prop_assert_eq!(from.text(), text);
            let read: Vec<_> = (0..from.count()).map(|_| from.address()).collect();
            prop_assert_eq!(read, addresses);
            prop_assert!(from.is_right());
        }

        #[test]
        fn anything_else_is_noticed_at_the_end(bytes: Vec<u8>) {
            let mut from = Reader::new(&bytes);
            while !from.rest.is_empty() {
                from.text();
                from.address();
            }
            from.byte();
            prop_assert!(!from.is_right());
        }
    }
}
