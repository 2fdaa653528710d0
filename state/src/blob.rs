//! A file's content as sled keeps it: in pieces, each compressed alone.
use std::{sync::Arc, thread};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::database::Trouble;

/// Uncompressed. Lists of addresses compress to a third, manifests to a tenth: values of 5 to 25 KiB, of which sled
/// keeps up to 16 in a page.
const PIECE: usize = 64 << 10;

const LEVEL: i32 = 1;

/// From here on a second thread pays: a cold apply of half a million entries waits for this.
const PARALLEL: usize = 1 << 20;

/// What is known of a stored content without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobInfo {
    pub length: u64,
    /// Compressed.
    pub stored: u64,
}

impl BlobInfo {
    pub const fn pieces(&self) -> u32 {
        (self.length.div_ceil(PIECE as u64)) as u32
    }
}

/// `hash`, then the number of the piece.
pub(crate) fn piece_key(hash: &[u8; 32], piece: u32) -> [u8; 36] {
    let mut key = [0; 36];
    key[..32].copy_from_slice(hash);
    key[32..].copy_from_slice(&piece.to_be_bytes());
    key
}

#[derive(Debug)]
pub(crate) struct Packed {
    pub hash: [u8; 32],
    pub info: BlobInfo,
    pub pieces: Vec<Vec<u8>>,
}

pub(crate) fn pack(blobs: &[([u8; 32], Arc<[u8]>)]) -> Result<Vec<Packed>, Trouble> {
    let pieces: Vec<&[u8]> = blobs.iter().flat_map(|(_, bytes)| bytes.chunks(PIECE)).collect();
    let total: usize = blobs.iter().map(|(_, bytes)| bytes.len()).sum();
    let compressed = if total < PARALLEL {
        compress(&pieces)?
    } else {
        let (left, right) = pieces.split_at(pieces.len() / 2);
        thread::scope(|scope| {
            let right = scope.spawn(|| compress(right));
            let mut all = compress(left)?;
            all.extend(right.join().map_err(|_| Trouble::Bug("compressing panicked".to_owned()))??);
            Ok::<_, Trouble>(all)
        })?
    };
    let mut compressed = compressed.into_iter();
    let packed = blobs.iter().map(|(hash, bytes)| {
        let pieces: Vec<Vec<u8>> = compressed.by_ref().take(bytes.chunks(PIECE).len()).collect();
        let stored = pieces.iter().map(|piece| piece.len() as u64).sum();
        Packed { hash: *hash, info: BlobInfo { length: bytes.len() as u64, stored }, pieces }
    });
    Ok(packed.collect())
}

fn compress(pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>, Trouble> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL).map_err(Trouble::Io)?;
    pieces.iter().map(|piece| compressor.compress(piece).map_err(Trouble::Io)).collect()
}

/// The content again, proven by its hash. `piece` gives the compressed pieces by number.
pub(crate) fn unpack(
    hash: &[u8; 32],
    info: &BlobInfo,
    piece: impl Fn(u32) -> Result<Option<sled::IVec>, Trouble>,
) -> Result<Vec<u8>, Trouble> {
    let damaged = |how: &str| Trouble::Damaged(format!("a file's content: {how}"));
    let mut decompressor = zstd::bulk::Decompressor::new().map_err(Trouble::Io)?;
    let mut bytes = Vec::with_capacity(usize::try_from(info.length.min(1 << 26)).unwrap_or(0));
    for number in 0..info.pieces() {
        let compressed = piece(number)?.ok_or_else(|| damaged("a piece is missing"))?;
        bytes.extend(decompressor.decompress(&compressed, PIECE).map_err(|cause| damaged(&cause.to_string()))?);
    }
    let found: [u8; 32] = Sha256::digest(&bytes).into();
    if found == *hash { Ok(bytes) } else { Err(damaged("its hash does not match")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again() {
        let lengths = [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, PARALLEL + 5];
        let blobs: Vec<([u8; 32], Arc<[u8]>)> = lengths
            .iter()
            .map(|length| {
                let bytes: Vec<u8> = (0..*length).map(|n| (n * n / 7) as u8).collect();
                (Sha256::digest(&bytes).into(), bytes.into())
            })
            .collect();
        for packed in
            [pack(&blobs).unwrap(), blobs.iter().flat_map(|blob| pack(std::slice::from_ref(blob)).unwrap()).collect()]
        {
            assert_eq!(packed.len(), blobs.len());
            for (packed, (hash, bytes)) in packed.iter().zip(&blobs) {
                assert_eq!(packed.info.pieces() as usize, packed.pieces.len());
                let piece = |n: u32| Ok(packed.pieces.get(n as usize).map(|piece| piece.as_slice().into()));
                assert_eq!(unpack(hash, &packed.info, piece).unwrap(), **bytes);
                let wrong = |n: u32| Ok(packed.pieces.get(n as usize + 1).map(|piece| piece.as_slice().into()));
                assert!(bytes.is_empty() || unpack(hash, &packed.info, wrong).is_err());
            }
        }
    }
}
