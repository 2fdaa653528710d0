//! Files in one text: `-- path --` begins each.
use std::sync::Arc;

use sha2::{Digest, Sha256};
use weir_schema::{ContentHash, File};

pub fn file(path: &str, bytes: &[u8]) -> File {
    let bytes: Arc<[u8]> = bytes.into();
    File { path: path.into(), hash: ContentHash(Sha256::digest(&bytes).into()), bytes }
}

/// The files of a story, in order.
#[allow(dead_code, reason = "not every test tells stories")]
pub fn files(story: &str) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = Vec::new();
    for line in story.split_inclusive('\n') {
        let header = line.trim_end().strip_prefix("-- ").and_then(|line| line.strip_suffix(" --"));
        match (header, files.last_mut()) {
            (Some(path), _) => files.push((path.to_owned(), String::new())),
            (None, Some((_, text))) => text.push_str(line),
            (None, None) => {}
        }
    }
    files
}
