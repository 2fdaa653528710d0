//! The set: every file's objects together, `fromFiles` resolved, and the checks that need more than one object.
use std::{collections::HashMap, sync::Arc};

use crate::{
    CidrFilterSpec, CidrList, ContentHash, Diagnostic, Diagnostics, File, Object, ObjectKey, Options, ParsedFile, Spec,
    cidr_list::ListFile,
    object::{object_hash, prefixes_digest},
    parse::{Content, parse_file},
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
pub fn assemble(parsed: &[Arc<ParsedFile>], files: &[File]) -> Result<Inventory, Diagnostics> {
    let mut errors: Vec<Diagnostic> = parsed.iter().flat_map(|file| &file.errors).cloned().collect();
    let data: HashMap<&str, (&File, &ListFile)> = parsed
        .iter()
        .zip(files)
        .filter_map(|(parsed, file)| match &parsed.content {
            Content::Data(list) => Some((&*file.path, (file, list))),
            Content::Manifests(_) => None,
        })
        .collect();
    let mut objects = Vec::new();
    for parsed in parsed {
        if let Content::Manifests(found) = &parsed.content {
            for object in found {
                objects.push(resolve(object, &data, &mut errors));
            }
        }
    }
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    let warnings: Vec<_> = parsed.iter().flat_map(|file| &file.warnings).cloned().collect();
    if errors.is_empty() {
        Ok(Inventory { objects: objects.into(), warnings: Diagnostics::sorted(warnings).0.into() })
    } else {
        Err(Diagnostics::sorted(errors))
    }
}

/// The object with its `fromFiles` lists.
fn resolve(
    object: &Arc<Object>,
    data: &HashMap<&str, (&File, &ListFile)>,
    errors: &mut Vec<Diagnostic>,
) -> Arc<Object> {
    let Spec::CidrFilter(filter) = &object.spec else { return Arc::clone(object) };
    if filter.from_files.is_empty() {
        return Arc::clone(object);
    }
    let mut filter = CidrFilterSpec::clone(filter);
    let mut digests: Vec<ContentHash> = filter.lists.iter().map(|list| prefixes_digest(&list.prefixes)).collect();
    for (index, name) in filter.from_files.iter().enumerate() {
        let rule_path = format!("spec.fromFiles[{index}]");
        let Some(path) = relative_to(&object.origin.path, name) else { continue };
        let Some((file, list)) = data.get(path.as_str()) else { continue };
        let list = list.parsed(&file.path, &file.bytes);
        errors.extend(list.diagnostics.iter().cloned());
        digests.push(list.digest);
        filter.lists.push(CidrList { rule_path, prefixes: Arc::clone(&list.prefixes) });
    }
    let spec = Spec::CidrFilter(Arc::new(filter));
    let hash = object_hash(&object.key, &object.metadata, &spec, &digests);
    Arc::new(Object { spec, hash, ..Object::clone(object) })
}

/// `name` beside the manifest; `None` when it leaves the root.
fn relative_to(manifest: &str, name: &str) -> Option<String> {
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
