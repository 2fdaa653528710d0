//! One file: documents, strict deserialization, defaults, and the checks that need nothing but the object itself.
use std::sync::Arc;

use crate::{
    ContentHash, File, Metadata, Object, ObjectKey, Origin, Spec,
    annotation::check_annotations,
    cidr_list::ListFile,
    code,
    diagnostic::Diagnostic,
    document::{self, DocumentText},
    documents::{Document, Documents, Known, TextHash},
    header::{self, Header, Target},
    json_schema,
    kinds::{Draft, Kind, Scope, shared},
    label::check_labels,
    marked::{self, Node, Value},
    meta::default_namespace,
    name::NameRule,
    place::{Place, byte_of},
    problem::{Path, Problem, Problems, parse_path},
    stored::Stored,
    structure,
};

/// How to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Skip the objects of other systems, with a warning, instead of refusing them.
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
    counts: ParseCounts,
}

/// What reading a file took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParseCounts {
    /// Documents that are not empty.
    pub documents: usize,
    /// Those that were parsed; the others were known.
    pub parsed: usize,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// The objects that were right. A `CidrFilter` lacks its `fromFiles` lists: they are other files.
    Manifests(Documents),
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

    pub fn counts(&self) -> ParseCounts {
        self.counts
    }

    /// A file that has nothing wrong with it, and that was not parsed.
    pub(crate) fn of_documents(file: &File, list: Vec<Document>, documents: usize) -> Self {
        Self {
            path: Arc::clone(&file.path),
            hash: file.hash,
            content: Content::Manifests(Documents::new(list)),
            errors: Vec::new(),
            warnings: Vec::new(),
            counts: ParseCounts { documents, parsed: 0 },
        }
    }

    pub(crate) fn documents(&self) -> &[Document] {
        match &self.content {
            Content::Manifests(documents) => documents.all(),
            Content::Data(_) => &[],
        }
    }

    /// Where one of its own documents stands.
    pub(crate) fn origin(&self, document: &Document) -> Origin {
        Origin { path: Arc::clone(&self.path), document: document.index as usize, line: document.line as usize }
    }

    /// Where an object stands, if it is one of this file.
    pub(crate) fn origin_of(&self, stored: &Stored) -> Option<Origin> {
        let Content::Manifests(documents) = &self.content else { return None };
        documents.find(stored).map(|document| self.origin(document))
    }
}

/// Whether a path names a manifest: `*.yaml`, `*.yml`, or `-` for standard input. Everything else is data.
pub fn is_manifest(path: &str) -> bool {
    path == "-" || path.ends_with(".yaml") || path.ends_with(".yml")
}

/// Reads one file. Errors are kept in the result.
pub fn parse_file(file: &File, options: &Options) -> ParsedFile {
    parse_file_after(file, options, None)
}

/// The same as [`parse_file`], at the cost of the documents that `former` (what this path held before) does not have:
/// an object whose text is unchanged is taken over, wherever in the file it stands now.
pub fn parse_file_after(file: &File, options: &Options, former: Option<&ParsedFile>) -> ParsedFile {
    let former = former.filter(|former| former.path == file.path).map_or(&[][..], ParsedFile::documents);
    let mut reader = FileReader::new(file, options);
    let content = if is_manifest(&file.path) {
        reader.manifests(&mut Known::new(former));
        Content::Manifests(Documents::new(reader.documents))
    } else {
        Content::Data(ListFile::default())
    };
    ParsedFile {
        path: Arc::clone(&file.path),
        hash: file.hash,
        content,
        errors: reader.errors,
        warnings: reader.warnings,
        counts: reader.counts,
    }
}

/// The objects of some of a file's documents, the first of which is its `index`th; `None` when any is not right.
pub(crate) fn read_documents(
    file: &File,
    options: &Options,
    documents: &[DocumentText<'_>],
    index: usize,
) -> Option<Vec<Document>> {
    let mut reader = FileReader { next_document: index, ..FileReader::new(file, options) };
    documents.iter().for_each(|document| reader.document(document, TextHash::NONE));
    (reader.errors.is_empty() && reader.warnings.is_empty()).then_some(reader.documents)
}

struct FileReader<'a> {
    file: &'a File,
    options: &'a Options,
    place: Place<'a>,
    documents: Vec<Document>,
    next_document: usize,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    counts: ParseCounts,
}

impl<'a> FileReader<'a> {
    fn new(file: &'a File, options: &'a Options) -> Self {
        Self {
            file,
            options,
            place: Place::new(&file.path, &file.bytes),
            documents: Vec::new(),
            next_document: 0,
            errors: Vec::new(),
            warnings: Vec::new(),
            counts: ParseCounts::default(),
        }
    }

    fn manifests(&mut self, known: &mut Known<'_>) {
        let file = self.file;
        match document::decode(&file.bytes) {
            Ok((text, skipped)) => {
                for document in document::split(text, skipped) {
                    self.counts.documents += 1;
                    let text = TextHash::of(document.text);
                    match known.find(text) {
                        Some(former) => self.take_over(former, &document),
                        None => {
                            self.counts.parsed += 1;
                            self.document(&document, text);
                        }
                    }
                }
            }
            Err(at) => {
                let mut error = self.place.diagnostic(code::NOT_UTF8, at..at + 1, "the file is not UTF-8 text");
                error.help = Some("save it as UTF-8".to_owned());
                self.errors.push(error);
            }
        }
    }

    /// A document that was read before, perhaps in another place of the file.
    fn take_over(&mut self, former: &Document, document: &DocumentText<'_>) {
        let (index, line) = (self.next_document as u32, document.first_line as u32);
        self.next_document += 1;
        let stored = match &former.stored {
            Stored::Whole(object) if (former.index, former.line) != (index, line) => {
                let origin =
                    Origin { document: self.next_document - 1, line: document.first_line, ..object.origin.clone() };
                Stored::Whole(Arc::new(Object { origin, ..Object::clone(object) }))
            }
            stored => stored.clone(),
        };
        self.documents.push(Document { stored, text: former.text, index, line });
    }

    /// The way of a document that is right: header, strict pass, checks.
    fn document(&mut self, document: &DocumentText<'_>, text: TextHash) {
        if let Some(at) = document::one_bracket_too_many(document.text) {
            self.next_document += 1;
            let at = document.offset + at;
            let message = format!("more than {} brackets are open here", document::MOST_BRACKETS);
            return self.errors.push(self.place.diagnostic(code::TOO_COMPLEX, at..at + 1, message));
        }
        if let Some(at) = document::disputed_break(document.text) {
            self.next_document += 1;
            let at = document.offset + at;
            let message = "this character is a line break to some YAML parsers, and none to others";
            let mut error = self.place.diagnostic(code::YAML_SYNTAX, at..at + 1, message);
            error.help = Some("remove it, or escape it in a quoted text: \"\\u2028\"".to_owned());
            return self.errors.push(error);
        }
        let header = Header::of_text(document.text);
        let Some(Target::Kind(kind)) = header.as_ref().map(header::target) else {
            return self.slowly(document, None);
        };
        match kind.read(document.text) {
            Ok(draft) if draft.api_version == kind.api_version && draft.kind == kind.kind => {
                let problems = check(kind, &draft);
                if problems.0.is_empty() {
                    self.accept(kind, draft, document.first_line, text);
                } else {
                    let root = marked::read(document.text).ok();
                    self.problems(document, root.as_ref(), &problems);
                    self.next_document += 1;
                }
            }
            Ok(_) => self.slowly(document, None),
            Err(error) => self.slowly(document, Some(error)),
        }
    }

    /// The way of every other document: as a tree with places. `error`: what the strict pass found.
    fn slowly(&mut self, document: &DocumentText<'_>, error: Option<serde_yaml::Error>) {
        if let Err(error) = serde_yaml::from_str::<serde::de::IgnoredAny>(document.text) {
            self.next_document += 1;
            return self.syntax_error(document, &error);
        }
        let root = match marked::read(document.text) {
            Ok(root) => root,
            Err(error) => {
                let code = if error.too_deep { code::TOO_COMPLEX } else { code::YAML_SYNTAX };
                self.next_document += 1;
                return self.push(document, code, error.index, error.index + 1, error.message, None);
            }
        };
        let before = self.errors.len();
        self.node(document, &root, document.first_line, true);
        // The tree had nothing to say: the strict pass's own words.
        if let Some(error) = error
            && self.errors.len() == before
        {
            self.documents.pop();
            let at = error.location().map_or(0, |location| location.index());
            let message = without_location(&error.to_string());
            self.push(document, code::INVALID_VALUE, at, at + 1, message, None);
        }
    }

    fn syntax_error(&mut self, document: &DocumentText<'_>, error: &serde_yaml::Error) {
        let text = error.to_string();
        let code = if text.contains("limit exceeded") { code::TOO_COMPLEX } else { code::YAML_SYNTAX };
        let at = error.location().map_or(0, |location| location.index());
        let (what, while_doing) = text.split_once(", while ").unwrap_or((&text, ""));
        let what = without_location(what);
        let line = byte_of(document.text, at);
        let indent = document.text[..line].rsplit('\n').next().unwrap_or_default();
        let tab = indent.trim().is_empty() && document.text[line..].starts_with('\t') || indent.contains('\t');
        let help = (code == code::YAML_SYNTAX).then(|| syntax_help(&what, while_doing, tab).to_owned());
        match self.context(document, while_doing) {
            // The end of the text says nothing: show what was not closed.
            Some((begin, doing)) if document.text[line..].trim().is_empty() => {
                let mut error = self.place.diagnostic(code, begin..begin + 1, format!("{what}, while {doing}"));
                error.help = help;
                self.errors.push(error);
            }
            Some((begin, doing)) => {
                let related = self.place.related(begin, format!("while {doing} that begins here"));
                self.push(document, code, at, at + 1, what, help);
                if let Some(error) = self.errors.last_mut() {
                    error.related.push(related);
                }
            }
            None => self.push(document, code, at, at + 1, what, help),
        }
    }

    /// Where the thing began that libyaml was reading: `parsing a flow mapping at line 3 column 11`.
    fn context<'t>(&self, document: &DocumentText<'_>, doing: &'t str) -> Option<(usize, &'t str)> {
        let (doing, place) = doing.rsplit_once(" at line ")?;
        let (line, column) = place.split_once(" column ")?;
        let (line, column): (usize, usize) = (line.parse().ok()?, column.parse().ok()?);
        let start: usize = document.text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
        Some((document.offset + start + byte_of(&document.text[start..], column.checked_sub(1)?), doing))
    }

    /// A document's root, or an item of a `List`.
    fn node(&mut self, document: &DocumentText<'_>, root: &Node, line: usize, whole: bool) {
        if !matches!(&*root.value, Value::Mapping(_)) {
            self.next_document += 1;
            let message = "a manifest is a mapping that begins with `apiVersion` and `kind`";
            return self.push(document, code::MISSING_HEADER, root.start, root.end, message, None);
        }
        let header = Header::of_tree(root);
        match header::target(&header) {
            Target::Kind(kind) => self.tree(document, kind, root, line),
            Target::List if whole => self.list(document, root),
            target => {
                self.next_document += 1;
                self.no_kind(document, root, &header, target);
            }
        }
    }

    fn list(&mut self, document: &DocumentText<'_>, root: &Node) {
        match root.entry("items").map(|(_, items)| items) {
            Some(items) => match &*items.value {
                Value::Sequence(items) => {
                    for item in items {
                        let at = document.offset + byte_of(document.text, item.start);
                        let line = self.place.position(at).line;
                        self.node(document, item, line, false);
                    }
                }
                _ => {
                    let message = "`items` must be a list";
                    self.push(document, code::INVALID_TYPE, items.start, items.end, message, None);
                }
            },
            None => {
                self.push(document, code::MISSING_FIELD, root.start, root.end, "`items` is missing in the List", None);
            }
        }
    }

    /// A document of a known kind that the strict pass did not take, or that has no text of its own.
    fn tree(&mut self, document: &DocumentText<'_>, kind: &'static Kind, root: &Node, line: usize) {
        let (found, tree) = structure::compare(root, &json_schema::of(kind));
        let right = found.is_empty();
        let wrong: Vec<_> = found.iter().map(|found| found.start).collect();
        for found in found {
            let mut error = self.diagnostic(document, found.code, found.start, found.end, found.message);
            error.help = found.help;
            error.related = found
                .related
                .into_iter()
                .map(|(at, what)| self.place.related(document.offset + byte_of(document.text, at), what))
                .collect();
            self.errors.push(error);
        }
        match tree.map(kind.read_tree) {
            Some(Ok(draft)) => {
                let mut problems = check(kind, &draft);
                // What holds something wrong was checked without it: that would be a second error for the same thing.
                problems.0.retain(|problem| {
                    let (start, end) = place_in(Some(root), &problem.path, false);
                    !wrong.iter().any(|at| (start..end).contains(at))
                });
                self.problems(document, Some(root), &problems);
                if right && problems.0.is_empty() {
                    return self.accept(kind, draft, line, TextHash::NONE);
                }
            }
            Some(Err(error)) if right => {
                self.push(
                    document,
                    code::INVALID_VALUE,
                    root.start,
                    root.end,
                    without_location(&error.to_string()),
                    None,
                );
            }
            _ => {}
        }
        self.next_document += 1;
    }

    /// A document of no kind that is read.
    fn no_kind(&mut self, document: &DocumentText<'_>, root: &Node, header: &Header<'_>, target: Target) {
        let refusal = header::refuse(header, target);
        let field = root.entry(refusal.field).map_or(root, |(_, value)| value);
        let mut found = self.diagnostic(document, refusal.code, field.start, field.end, refusal.message);
        found.help = refusal.help;
        if refusal.foreign && self.options.ignore_foreign {
            found.code = code::SKIPPED_OBJECT;
            found.help = None;
            self.warnings.push(found);
        } else {
            self.errors.push(found);
        }
    }

    /// `text`: of a document that is this object and nothing else.
    fn accept(&mut self, kind: &Kind, draft: Draft, line: usize, text: TextHash) {
        let Draft { metadata, spec, .. } = draft;
        let namespace = match kind.scope {
            Scope::Namespaced => metadata.namespace.unwrap_or_else(default_namespace),
            // Kubernetes' own API server drops it, too.
            Scope::Cluster => String::new(),
        };
        let metadata =
            Metadata { name: metadata.name, namespace, labels: metadata.labels, annotations: metadata.annotations };
        let key = ObjectKey {
            group: shared(kind.group()),
            kind: shared(kind.kind),
            namespace: shared(&metadata.namespace),
            name: metadata.name.as_str().into(),
        };
        let origin = Origin { path: Arc::clone(&self.file.path), document: self.next_document, line };
        self.next_document += 1;
        let index = origin.document as u32;
        let stored = Stored::new(key, shared(kind.api_version), metadata, spec, origin);
        self.documents.push(Document { stored, text, index, line: line as u32 });
    }

    /// Gives problems their places in `root`, the tree of their object.
    fn problems(&mut self, document: &DocumentText<'_>, root: Option<&Node>, problems: &Problems) {
        for problem in &problems.0 {
            let (start, end) = place_in(root, &problem.path, problem.at_key);
            let mut error = self.diagnostic(document, problem.code, start, end, problem.message.clone());
            error.help = problem.help.clone();
            error.related = related(problem)
                .map(|(path, what)| {
                    let (start, _) = place_in(root, path, true);
                    self.place.related(document.offset + byte_of(document.text, start), what)
                })
                .collect();
            self.errors.push(error);
        }
    }

    fn diagnostic(
        &self,
        document: &DocumentText<'_>,
        code: &'static str,
        start: usize,
        end: usize,
        message: impl Into<String>,
    ) -> Diagnostic {
        let start = byte_of(document.text, start);
        // From where it starts: the rest of a long document is not counted again.
        let end =
            start + document.text[start..].chars().take(end.saturating_sub(start)).map(char::len_utf8).sum::<usize>();
        self.place.diagnostic(code, document.offset + start..document.offset + end, message)
    }

    fn push(
        &mut self,
        document: &DocumentText<'_>,
        code: &'static str,
        start: usize,
        end: usize,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        let mut error = self.diagnostic(document, code, start, end, message);
        error.help = help;
        self.errors.push(error);
    }
}

fn related(problem: &Problem) -> impl Iterator<Item = (&str, &str)> {
    problem.related.iter().map(|(path, what)| (path.as_str(), what.as_str()))
}

/// The characters of the value at `path`, or of its key, or of the nearest thing around it that is there.
fn place_in(root: Option<&Node>, path: &str, at_key: bool) -> (usize, usize) {
    let Some(root) = root else { return (0, 1) };
    let steps = parse_path(path).unwrap_or_default();
    let (node, key, whole) = root.descend(&steps);
    let node = if at_key || !whole { key.unwrap_or(node) } else { node };
    (node.start, node.end)
}

/// What an object must hold by itself.
fn check(kind: &Kind, draft: &Draft) -> Problems {
    let mut problems = Problems::default();
    let root = Path::Root;
    let metadata = root.field("metadata");
    let rule = if matches!(draft.spec, Spec::Node(_)) { NameRule::Host } else { NameRule::Subdomain };
    rule.check(&draft.metadata.name, &metadata.field("name"), &mut problems);
    if let Some(namespace) = &draft.metadata.namespace {
        let at = metadata.field("namespace");
        match kind.scope {
            Scope::Namespaced => NameRule::Label.check(namespace, &at, &mut problems),
            Scope::Cluster if kind.is_ours() => {
                problems
                    .push(code::NAMESPACE_NOT_ALLOWED, &at, format!("a {} is in no namespace", kind.kind))
                    .at_key()
                    .help("remove `namespace`");
            }
            Scope::Cluster => {}
        }
    }
    check_labels(&draft.metadata.labels, &metadata.field("labels"), &mut problems);
    let of_service = matches!(draft.spec, Spec::KubernetesService(_));
    check_annotations(&draft.metadata.annotations, of_service, &metadata.field("annotations"), &mut problems);
    draft.spec.check(&mut problems);
    problems
}

/// serde_yaml's and serde_json's messages end with a place, which is shown in another way.
/// How to mend what libyaml could not read.
fn syntax_help(what: &str, doing: &str, tab: bool) -> &'static str {
    let says = |text| what.contains(text) || doing.contains(text);
    match () {
        () if tab => "YAML is indented with spaces, never with tabs",
        () if says("quoted scalar") => "close the quote",
        () if says("flow mapping") => "close the `{` with a `}`, and part its entries with `,`",
        () if says("flow sequence") => "close the `[` with a `]`, and part its items with `,`",
        () if says("unknown anchor") => {
            "define the anchor with `&` before it is used, or quote a text that begins with `*`"
        }
        () if says("cannot start any token") => "quote a text that begins with `@`, a backquote or `%`",
        () if says("mapping values are not allowed") => "quote a text that has `: ` in it, or check the indentation",
        () => "check the indentation: the keys of one mapping, and the items of one list, begin in the same column",
    }
}

fn without_location(message: &str) -> String {
    message.rsplit_once(" at line ").map_or(message, |(message, _)| message).to_owned()
}
