//! How a value is written: format, checksum, postcard.
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::database::Trouble;

/// Raised when anything that is stored changes its shape. Another format is moved aside and the store begins anew: it
/// is a cache.
pub(crate) const FORMAT: u8 = 3;

const HEADER: usize = 9;

pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Trouble> {
    let header = vec![FORMAT, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut bytes =
        postcard::to_extend(value, header).map_err(|error| Trouble::Bug(format!("cannot encode a record: {error}")))?;
    let sum = checksum(&bytes[HEADER..]);
    bytes[1..HEADER].copy_from_slice(&sum);
    Ok(bytes)
}

pub(crate) fn decode<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, Trouble> {
    let damaged = |how: &str| Trouble::Damaged(format!("{what}: {how}"));
    let (header, body) = bytes.split_at_checked(HEADER).ok_or_else(|| damaged("too short"))?;
    if header[1..] != checksum(body) {
        return Err(damaged("the checksum does not match"));
    }
    if header[0] != FORMAT {
        return Err(Trouble::Format(format!("{what}: format {} instead of {FORMAT}", header[0])));
    }
    postcard::from_bytes(body).map_err(|error| damaged(&error.to_string()))
}

fn checksum(body: &[u8]) -> [u8; 8] {
    let digest: [u8; 32] = Sha256::digest(body).into();
    let mut sum = [0; 8];
    sum.copy_from_slice(&digest[..8]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let value = ("a commit".to_owned(), 7u64, vec![1u32, 2, 3]);
        let bytes = encode(&value).unwrap();
        assert_eq!(decode::<(String, u64, Vec<u32>)>("value", &bytes).unwrap(), value);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<(String, u64, Vec<u32>)>("value", &damaged).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(decode::<(String, u64, Vec<u32>)>("value", &bytes[..length]).is_err());
        }
    }
}
