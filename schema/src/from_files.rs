//! What `fromFiles` names: other files of the set.
use std::{collections::HashMap, sync::Arc};

use crate::{
    CidrFilterSpec, CidrList, ContentHash, File, Object, ParsedFile, Spec,
    cidr_list::ListFile,
    code,
    object::{object_hash, prefixes_digest},
    parse::{Content, is_manifest},
    set_check::SetErrors,
    suggest::nearest,
};

/// The data files of the set, by path.
pub(crate) struct Lists<'a>(HashMap<&'a str, (&'a File, &'a ListFile)>);

impl<'a> Lists<'a> {
    pub fn new(parsed: &'a [Arc<ParsedFile>], files: &'a [File]) -> Self {
        let data = parsed.iter().zip(files).filter_map(|(parsed, file)| match &parsed.content {
            Content::Data(list) => Some((&*file.path, (file, list))),
            Content::Manifests(_) => None,
        });
        Self(data.collect())
    }

    /// The object with its `fromFiles` lists.
    pub fn resolve(&self, object: &Arc<Object>, errors: &mut SetErrors<'_>) -> Arc<Object> {
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
