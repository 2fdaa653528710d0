//! The set: every file's objects together, with what `fromFiles` names.
use std::{collections::HashMap, sync::Arc};

use crate::{
    CidrFilterSpec, CidrList, ContentHash, Diagnostic, Diagnostics, File, Object, ObjectKey, Options, ParsedFile, Spec,
    cidr_list::ListFile,
    code,
    object::{object_hash, prefixes_digest},
    parse::{Content, is_manifest, parse_file},
    set_check::SetErrors,
    suggest::nearest,
};

/// A valid set of objects. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    objects: Arc<[Arc<Object>]>,
    warnings: Arc<[Diagnostic]>,
}

impl Inventory {
    /// Sorted by key.
    pub fn objects(&self) -> impl ExactSizeIterator<Item = &Arc<Object>> {
        self.objects.iter()
    }

    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        let found = self.objects.binary_search_by(|object| object.key.cmp(key));
        found.ok().map(|index| &self.objects[index])
    }

    pub fn len(&self) -> usize {
        self.objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// What was accepted, and that somebody should know about.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }
}

/// Splits, parses, defaults and checks. Every error of every file, sorted.
pub fn parse(files: &[File], options: &Options) -> Result<Inventory, Diagnostics> {
    let parsed: Vec<_> = files.iter().map(|file| Arc::new(parse_file(file, options))).collect();
    assemble(&parsed, files)
}

/// Puts parsed files together. `parsed[n]` is what [`parse_file`] gave for `files[n]`, now or earlier.
///
/// An object that needs no other file is the very same `Arc` as in an earlier set of the same parsed file.
pub fn assemble(parsed: &[Arc<ParsedFile>], files: &[File]) -> Result<Inventory, Diagnostics> {
    let mut errors = SetErrors::new(files);
    errors.found.extend(parsed.iter().flat_map(|file| &file.errors).cloned());
    let lists = Lists::new(parsed, files);
    let mut objects = Vec::new();
    for parsed in parsed {
        if let Content::Manifests(found) = &parsed.content {
            objects.extend(found.iter().map(|object| lists.resolve(object, &mut errors)));
        }
    }
    objects.sort_by(|a, b| {
        let place = |object: &Object| (Arc::clone(&object.origin.path), object.origin.document);
        a.key.cmp(&b.key).then_with(|| place(a).cmp(&place(b)))
    });
    errors.check(&objects);
    if errors.found.is_empty() {
        let of_files = parsed.iter().flat_map(|file| &file.warnings).cloned();
        let warnings = of_files.chain(errors.warnings).collect();
        Ok(Inventory { objects: objects.into(), warnings: Diagnostics::sorted(warnings).0.into() })
    } else {
        Err(Diagnostics::sorted(errors.found))
    }
}

/// The data files of the set, by path.
struct Lists<'a>(HashMap<&'a str, (&'a File, &'a ListFile)>);

impl<'a> Lists<'a> {
    fn new(parsed: &'a [Arc<ParsedFile>], files: &'a [File]) -> Self {
        let data = parsed.iter().zip(files).filter_map(|(parsed, file)| match &parsed.content {
            Content::Data(list) => Some((&*file.path, (file, list))),
            Content::Manifests(_) => None,
        });
        Self(data.collect())
    }

    /// The object with its `fromFiles` lists.
    fn resolve(&self, object: &Arc<Object>, errors: &mut SetErrors<'_>) -> Arc<Object> {
        let Spec::CidrFilter(filter) = &object.spec else { return Arc::clone(object) };
        if filter.from_files.is_empty() {
            return Arc::clone(object);
        }
        let mut filter = CidrFilterSpec::clone(filter);
        let mut digests: Vec<ContentHash> = filter.lists.iter().map(|list| prefixes_digest(&list.prefixes)).collect();
        for (index, name) in filter.from_files.iter().enumerate() {
            let rule_path = format!("spec.fromFiles[{index}]");
            let Some(path) = relative_to(&object.origin.path, name) else {
                errors
                    .push(code::FILE_OUTSIDE_ROOT, object, &rule_path, format!("`{name}` is outside the source's root"))
                    .help = Some("only files of the set can be named, by a path relative to the manifest".to_owned());
                continue;
            };
            let Some((file, list)) = self.0.get(path.as_str()) else {
                let message = if is_manifest(&path) {
                    format!("`{name}` is a manifest, not a list")
                } else {
                    format!("there is no file `{path}` in the set")
                };
                let near = nearest(&path, self.0.keys().copied());
                errors.push(code::FILE_MISSING, object, &rule_path, message).help =
                    near.map(|near| format!("did you mean the file `{near}`?"));
                continue;
            };
            let list = list.parsed(&file.path, &file.bytes);
            errors.found.extend(list.diagnostics.iter().cloned());
            digests.push(list.digest);
            filter.lists.push(CidrList { rule_path, prefixes: Arc::clone(&list.prefixes) });
        }
        let spec = Spec::CidrFilter(Arc::new(filter));
        let hash = object_hash(&object.key, &object.metadata, &spec, &digests);
        Arc::new(Object { spec, hash, ..Object::clone(object) })
    }
}

/// `name` beside the manifest; `None` when it leaves the root.
pub(crate) fn relative_to(manifest: &str, name: &str) -> Option<String> {
    if name.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = manifest.split('/').collect();
    parts.pop();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::relative_to;

    #[test]
    fn paths_stay_below_the_root() {
        for (manifest, name, path) in [
            ("a/b/f.yaml", "lists/x.txt", Some("a/b/lists/x.txt")),
            ("a/b/f.yaml", "../x.txt", Some("a/x.txt")),
            ("a/b/f.yaml", "./../../x.txt", Some("x.txt")),
            ("a/b/f.yaml", "../../../x.txt", None),
            ("f.yaml", "../x.txt", None),
            ("f.yaml", "../../etc/passwd", None),
            ("f.yaml", "/etc/passwd", None),
            ("f.yaml", "x//y", Some("x/y")),
        ] {
            assert_eq!(relative_to(manifest, name).as_deref(), path, "{manifest} {name}");
        }
    }
}
