//! One file: documents, strict deserialization, defaults, and the checks that need nothing but the object itself.
use std::{borrow::Cow, sync::Arc};

use serde::Deserialize;

use crate::{
    ContentHash, File, Metadata, Object, ObjectKey, Origin, Spec,
    cidr_list::ListFile,
    code,
    diagnostic::Diagnostic,
    document::{self, DocumentText, Header},
    kinds::{Draft, KINDS, Kind, Scope},
    meta::default_namespace,
    object::{object_hash, prefixes_digest},
    place::{Place, byte_of},
};

/// How to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Skip the objects of other systems' groups, with a warning, instead of refusing them.
    pub ignore_foreign: bool,
}

/// What one file holds. Depends on its path and bytes and the options alone, so it may be kept by (path, hash).
#[derive(Debug)]
pub struct ParsedFile {
    pub(crate) path: Arc<str>,
    pub(crate) hash: ContentHash,
    pub(crate) content: Content,
    pub(crate) errors: Vec<Diagnostic>,
    pub(crate) warnings: Vec<Diagnostic>,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// The objects that were right, in order. A `CidrFilter` lacks its `fromFiles` lists: they are other files.
    Manifests(Vec<Arc<Object>>),
    /// Not a manifest.
    Data(ListFile),
}

impl ParsedFile {
    /// The path that it was parsed under.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// The hash of the bytes that it was parsed from.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }
}

/// Whether a path names a manifest: `*.yaml`, `*.yml`, or `-` for standard input. Everything else is data.
pub fn is_manifest(path: &str) -> bool {
    path == "-" || path.ends_with(".yaml") || path.ends_with(".yml")
}

/// Reads one file. Errors are kept in the result.
pub fn parse_file(file: &File, options: &Options) -> ParsedFile {
    let mut reader = FileReader {
        file,
        options,
        place: Place::new(&file.path, &file.bytes),
        objects: Vec::new(),
        next_document: 0,
        errors: Vec::new(),
        warnings: Vec::new(),
    };
    let content = if is_manifest(&file.path) {
        reader.manifests();
        Content::Manifests(reader.objects)
    } else {
        Content::Data(ListFile::default())
    };
    ParsedFile {
        path: Arc::clone(&file.path),
        hash: file.hash,
        content,
        errors: reader.errors,
        warnings: reader.warnings,
    }
}

struct FileReader<'a> {
    file: &'a File,
    options: &'a Options,
    place: Place<'a>,
    objects: Vec<Arc<Object>>,
    next_document: usize,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl FileReader<'_> {
    fn manifests(&mut self) {
        let file = self.file;
        match document::decode(&file.bytes) {
            Ok((text, skipped)) => {
                for document in document::split(text, skipped) {
                    self.document(document);
                }
            }
            Err(at) => {
                let mut error = self.place.diagnostic(code::NOT_UTF8, at..at + 1, "the file is not UTF-8 text");
                error.help = Some("save it as UTF-8".to_owned());
                self.errors.push(error);
            }
        }
    }

    fn document(&mut self, document: DocumentText<'_>) {
        let header = match header_of(document.text) {
            Ok(header) => header,
            Err(error) => return self.yaml_error(document, &error),
        };
        let Some(kind) = find(&header) else {
            return self.errors.push(self.place.diagnostic(
                code::UNKNOWN_KIND,
                document.offset..document.offset + 1,
                "?",
            ));
        };
        match (kind.read)(document.text) {
            Ok(draft) => self.draft(document, kind, draft),
            Err(error) => self.yaml_error(document, &error),
        }
    }

    fn yaml_error(&mut self, document: DocumentText<'_>, error: &serde_yaml::Error) {
        let at = document.offset + error.location().map_or(0, |location| byte_of(document.text, location.index()));
        self.errors.push(self.place.diagnostic(code::YAML_SYNTAX, at..at + 1, error.to_string()));
    }

    fn draft(&mut self, document: DocumentText<'_>, kind: &Kind, draft: Draft) {
        let Draft { metadata, spec, .. } = draft;
        let namespace = match kind.scope {
            Scope::Namespaced => metadata.namespace.unwrap_or_else(default_namespace),
            Scope::Cluster => String::new(),
        };
        let metadata =
            Metadata { name: metadata.name, namespace, labels: metadata.labels, annotations: metadata.annotations };
        let key = ObjectKey {
            group: kind.group().into(),
            kind: kind.kind.into(),
            namespace: metadata.namespace.as_str().into(),
            name: metadata.name.as_str().into(),
        };
        let lists: Vec<_> = match &spec {
            Spec::CidrFilter(filter) => filter.lists.iter().map(|list| prefixes_digest(&list.prefixes)).collect(),
            _ => Vec::new(),
        };
        let hash = object_hash(&key, &metadata, &spec, &lists);
        let line = self.place.position(document.offset).line;
        let origin =
            Origin { path: Arc::clone(&self.file.path), file: self.file.hash, document: self.next_document, line };
        self.next_document += 1;
        let object = Object { key, api_version: kind.api_version.into(), metadata, spec, origin, hash };
        self.objects.push(Arc::new(object));
    }
}

fn header_of(text: &str) -> Result<Header<'_>, serde_yaml::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Loose {
        api_version: Option<String>,
        kind: Option<String>,
    }
    if let Some(header) = document::scan_header(text) {
        return Ok(header);
    }
    let loose: Loose = serde_yaml::from_str(text)?;
    Ok(Header { api_version: loose.api_version.map(Cow::Owned), kind: loose.kind.map(Cow::Owned) })
}

fn find(header: &Header<'_>) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| {
        header.api_version.as_deref() == Some(kind.api_version) && header.kind.as_deref() == Some(kind.kind)
    })
}
