//! To etcd, and from there.
use std::path::Path;

use serde::Serialize;
use weir_agent::{Error, Exit, FORMAT_VERSION};
use weir_source::{EtcdSource, Revision, SourceFile};

use crate::{
    args::{EtcdArgs, Format, SourceArgs},
    context::{Context, Source},
    out,
    verbs::validate::{self, plural},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PushDocument {
    format_version: &'static str,
    /// `pushed` or `unchanged`.
    result: &'static str,
    digest: String,
    files: usize,
    bytes: u64,
    /// Keys.
    written: usize,
    removed: Vec<String>,
}

/// Puts a whole set in force, if it is valid.
pub fn push(context: &Context, args: &SourceArgs, to: &str) -> Result<Exit, Error> {
    let etcd = EtcdSource::new(to, &args.etcd.options())?;
    let manifests = Source::new(&context.global, args)?.read()?;
    validate::check(context, &manifests, args.ignore_foreign)?;
    let file =
        |file: &weir_schema::File| SourceFile { path: file.path.clone(), bytes: file.bytes.clone(), hash: file.hash.0 };
    let pushed = etcd.push(&Revision::new(manifests.files.iter().map(file).collect()))?;
    let result = if pushed.changed || pushed.written > 0 { "pushed" } else { "unchanged" };
    let document = PushDocument {
        format_version: FORMAT_VERSION,
        result,
        digest: pushed.digest,
        files: pushed.files,
        bytes: pushed.bytes,
        written: pushed.written,
        removed: pushed.removed,
    };
    if context.print(&document)? {
        return Ok(Exit::DONE);
    }
    out::print(|out| {
        if context.global.output == Format::Name {
            return writeln!(out, "{}", document.digest);
        }
        let files = plural(document.files, "file", "files");
        writeln!(out, "{result}: {files}, {} bytes", document.bytes)?;
        writeln!(out, "revision {}", document.digest)?;
        match document.removed.len() {
            0 => Ok(()),
            removed => writeln!(out, "{} removed", plural(removed, "former revision", "former revisions")),
        }
    })?;
    Ok(Exit::DONE)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PullDocument<'a> {
    format_version: &'static str,
    revision: &'a str,
    files: usize,
    bytes: u64,
}

/// Makes a directory what is in force.
pub fn pull(context: &Context, from: &str, directory: &Path, replace: bool, args: &EtcdArgs) -> Result<Exit, Error> {
    let revision = EtcdSource::new(from, &args.options())?.pull(directory, replace)?;
    let (files, bytes) = (revision.files.len(), revision.bytes());
    let document = PullDocument { format_version: FORMAT_VERSION, revision: &revision.id, files, bytes };
    if context.print(&document)? {
        return Ok(Exit::DONE);
    }
    out::print(|out| {
        if context.global.output == Format::Name {
            return writeln!(out, "{}", revision.id);
        }
        writeln!(out, "pulled: {}, {bytes} bytes, into {}", plural(files, "file", "files"), directory.display())?;
        writeln!(out, "revision {}", revision.id)
    })?;
    Ok(Exit::DONE)
}
