//! From text to objects, by the real parser.
use std::sync::Arc;

use sha2::{Digest, Sha256};
use weir_schema::{ContentHash, File, Inventory, Options, parse};

use super::generate::Generated;

/// The set's files, as a source would deliver them.
pub fn files(set: &Generated) -> Vec<File> {
    let file = |(path, text): &(String, String)| File {
        path: path.as_str().into(),
        bytes: Arc::from(text.as_bytes()),
        hash: ContentHash(Sha256::digest(text.as_bytes()).into()),
    };
    set.files.iter().map(file).collect()
}

/// Parsed and checked.
pub fn try_objects(set: &Generated) -> Result<Inventory, String> {
    parse(&files(set), &Options::default()).map_err(|errors| format!("{errors}"))
}

/// Parsed and checked. A generated set is valid: an error is a bug of the generator or of the parser.
pub fn objects(set: &Generated) -> Inventory {
    try_objects(set).unwrap_or_else(|errors| panic!("set {:#x} is refused: {errors}", set.seed))
}
