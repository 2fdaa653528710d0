//! A pushed set: proven against its digest, or not delivered.
use std::{collections::HashMap, sync::Arc};

use etcd_client::{GetOptions, Txn, TxnOp, TxnOpResponse};

use super::{
    EtcdError,
    layout::{Keys, after, check_path, is_digest},
    link::Session,
    read::{Pager, Want, range},
};
use crate::{
    Revision, SourceError, SourceFile,
    revision::{digest, hexadecimal},
};

/// Files of one transaction: half of the operations that etcd takes, as an answer of so many large files is large.
const BATCH: usize = 64;
/// A piece of an index, well below what etcd takes as a value.
const PIECE: usize = 1 << 20;

/// What a set holds: a path and the SHA-256 of its content, sorted by path.
pub(super) type Index = Vec<(Arc<str>, [u8; 32])>;

pub(super) fn index_of(files: &[SourceFile]) -> Index {
    files.iter().map(|file| (file.path.clone(), file.hash)).collect()
}

pub(super) fn digest_of(index: &Index) -> String {
    hexadecimal(&digest(index.iter().map(|(path, hash)| (&**path, hash))))
}

/// As sha256sum(1) prints it, in pieces that end with a line.
pub(super) fn write_index(index: &Index) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for (path, hash) in index {
        let line = format!("{}  {path}\n", hexadecimal(hash));
        match pieces.last_mut() {
            Some(piece) if piece.len() + line.len() <= PIECE => piece.push_str(&line),
            _ => pieces.push(line),
        }
    }
    pieces
}

/// The name of an index's piece.
pub(super) fn piece_key(keys: &Keys, digest: &str, piece: usize) -> String {
    format!("{}{piece:04}", keys.index(digest))
}

fn read_index(text: &str) -> Option<Index> {
    let line = |line: &str| {
        let (hash, path) = line.split_once("  ")?;
        Some((Arc::from(path), unhexadecimal(hash)?))
    };
    text.lines().map(line).collect()
}

fn unhexadecimal(text: &str) -> Option<[u8; 32]> {
    if !is_digest(text) {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

/// The set that `value`, at `<prefix>revision`, names. Only files that `last` does not hold are fetched.
pub(super) async fn load(
    session: &Session,
    keys: &Keys,
    pager: &mut Pager,
    value: &[u8],
    last: Option<&Revision>,
) -> Result<Revision, SourceError> {
    let name = std::str::from_utf8(value).map(str::trim).unwrap_or_default();
    if !is_digest(name) {
        let value = String::from_utf8_lossy(value).chars().take(80).collect();
        return Err(EtcdError::Pointer { spec: session.spec.to_string(), value }.into());
    }
    let incomplete =
        |why: String| EtcdError::Incomplete { spec: session.spec.to_string(), digest: name.to_owned(), why };
    let files = match index(session, keys, name).await? {
        Some(text) => {
            let index = read_index(&text).filter(|index| digest_of(index) == name);
            let index = index.ok_or_else(|| incomplete("its index is another set's".to_owned()))?;
            fetch(session, keys, name, index, last).await?
        }
        None => list(session, keys, pager, name).await?,
    };
    let index = index_of(&files);
    if digest_of(&index) != name {
        let why = if files.is_empty() { "it has no file" } else { "its files have another digest" };
        return Err(incomplete(why.to_owned()).into());
    }
    for (path, _) in &index {
        if let Err(why) = check_path(path) {
            let spec = session.spec.to_string();
            return Err(EtcdError::Key { spec, key: path.to_string(), why }.into());
        }
    }
    let revision = Revision::named(name, None, files);
    if revision.manifests().next().is_none() {
        return Err(EtcdError::Empty { spec: session.spec.to_string() }.into());
    }
    Ok(revision)
}

/// `None`: whoever pushed it by hand wrote none.
///
/// Not linearizable, here and below: this server has told us of the digest, so it has what was written before; and what
/// it has is proven.
async fn index(session: &Session, keys: &Keys, name: &str) -> Result<Option<String>, EtcdError> {
    let prefix = keys.index(name);
    let options = GetOptions::new().with_range(after(&prefix)).with_serializable();
    let mut answer = session.get(prefix, options).await?;
    let pieces = answer.take_kvs();
    if pieces.is_empty() {
        return Ok(None);
    }
    let bytes: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.into_key_value().1).collect();
    // What is not UTF-8 is no index either.
    Ok(Some(String::from_utf8(bytes).unwrap_or_default()))
}

async fn fetch(
    session: &Session,
    keys: &Keys,
    name: &str,
    index: Index,
    last: Option<&Revision>,
) -> Result<Vec<SourceFile>, EtcdError> {
    let known: HashMap<&[u8; 32], &Arc<[u8]>> =
        last.iter().flat_map(|last| &last.files).map(|file| (&file.hash, &file.bytes)).collect();
    let (mut files, mut missing) = (Vec::with_capacity(index.len()), Vec::new());
    for (path, hash) in index {
        match known.get(&hash) {
            Some(bytes) => files.push(SourceFile { path, bytes: (*bytes).clone(), hash }),
            None => missing.push((path, hash)),
        }
    }
    let set = keys.set(name);
    for batch in missing.chunks(BATCH) {
        let get = |path: &str| TxnOp::get(format!("{set}{path}"), Some(GetOptions::new().with_serializable()));
        let operations: Vec<TxnOp> = batch.iter().map(|(path, _)| get(path)).collect();
        let answer = session.txn(Txn::new().and_then(operations)).await?;
        for ((path, hash), answer) in batch.iter().zip(answer.op_responses()) {
            let TxnOpResponse::Get(mut answer) = answer else { continue };
            let value = answer.take_kvs().pop().map(|found| found.into_key_value().1);
            let file = value.map(|value| SourceFile::new(path.clone(), value)).filter(|file| file.hash == *hash);
            files.push(file.ok_or_else(|| EtcdError::Incomplete {
                spec: session.spec.to_string(),
                digest: name.to_owned(),
                why: format!("{path} is missing, or is not what was pushed"),
            })?);
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// All that is below the digest.
pub(super) async fn list(
    session: &Session,
    keys: &Keys,
    pager: &mut Pager,
    name: &str,
) -> Result<Vec<SourceFile>, EtcdError> {
    let set = keys.set(name);
    let mut files = Vec::new();
    let mut refused = None;
    range(session, pager, (set.clone().into_bytes(), after(&set)), Want::Values, |found| {
        for found in found {
            let (key, value) = found.into_key_value();
            match std::str::from_utf8(&key[set.len()..]) {
                Ok(path) => files.push(SourceFile::new(path, value)),
                Err(_) => refused = Some(key),
            }
        }
        None
    })
    .await?;
    match refused {
        Some(key) => {
            let key = String::from_utf8_lossy(&key).into_owned();
            Err(EtcdError::Key { spec: session.spec.to_string(), key, why: "is not UTF-8" })
        }
        None => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_comes_back_as_it_was() {
        let files: Vec<SourceFile> =
            (0..20_000).map(|n| SourceFile::new(format!("{n:05}/a  file.yaml"), [n as u8])).collect();
        let index = index_of(&files);
        let pieces = write_index(&index);
        assert_eq!(pieces.len(), 2);
        assert!(pieces.iter().all(|piece| piece.len() <= PIECE && piece.ends_with('\n')));
        assert_eq!(read_index(&pieces.concat()).unwrap(), index);
        assert_eq!(read_index("0123  a\n"), None);
        assert_eq!(read_index("no index at all"), None);
    }

    #[test]
    fn the_digest_is_the_whole_of_what_the_id_is_a_part_of() {
        let files = vec![SourceFile::new("a.yaml", *b"x"), SourceFile::new("b.yaml", *b"y")];
        let digest = digest_of(&index_of(&files));
        assert!(is_digest(&digest));
        assert!(digest.starts_with(&Revision::new(files).id));
    }
}
