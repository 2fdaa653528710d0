//! Objects that are no longer in the source, and that `weir/prune: "false"` keeps all the same.
//!
//! Each is written out as a manifest of its own beside those of the source. So it is in the commit's files, and whoever
//! reads these, be it the next start or a rollback, needs to know nothing more.
use std::sync::Arc;

use weir_plan::{FileRef, ObjectRef};
use weir_schema::{Diagnostics, Inventory, Object};
use weir_source::SourceFile;

use crate::{Manifests, Snapshot};

/// No source delivers hidden files.
const FOLDER: &str = ".weir-kept/";

/// What `desired` lacks of `applied`, and may not lack.
pub(crate) fn missing(applied: &Inventory, desired: &Inventory) -> Vec<Arc<Object>> {
    applied.changes_to(desired).removed().filter(|object| !object.metadata.prunes()).collect()
}

/// One object each: a policy of Weir and one of Kubernetes may have the same kind and name.
fn path(object: &Object) -> String {
    let key = &object.key;
    let group = if key.group.is_empty() { "core" } else { &*key.group };
    let namespace = if key.namespace.is_empty() { String::new() } else { format!("{}.", key.namespace) };
    format!("{FOLDER}{group}/{}.{namespace}{}.yaml", key.kind.to_lowercase(), key.name)
}

impl Manifests {
    pub(crate) fn keeping(&self, objects: &[Arc<Object>]) -> Self {
        let kept = objects.iter().map(|object| SourceFile::new(path(object), object.to_manifest().as_bytes()));
        let mut files = self.files.to_vec();
        files.extend(kept.map(|file| Self::file_of(&file)));
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Self { files: files.into(), ..self.clone() }
    }

    /// Whether a commit of `files` applied these, whatever else it kept.
    pub(crate) fn are_source_of(&self, files: &[FileRef]) -> bool {
        let of_source = |path: &str| !path.starts_with(FOLDER);
        let own = self.files.iter().filter(|file| of_source(&file.path)).map(|file| (&file.path, &file.hash.0));
        own.eq(files.iter().filter(|file| of_source(&file.path)).map(|file| (&file.path, &file.hash)))
    }
}

impl Snapshot {
    /// What the source no longer has.
    pub fn kept(&self) -> Vec<ObjectRef> {
        let files = self.manifests.files.iter().filter(|file| file.path.starts_with(FOLDER));
        let mut kept: Vec<_> = files
            .flat_map(|file| self.inventory.of_file(&file.path))
            .map(|object| weir_compile::reference(&object))
            .collect();
        kept.sort();
        kept
    }
}

/// Says of errors that have to do with a kept object what can be done.
pub(crate) fn explain(mut errors: Diagnostics, kept: &[Arc<Object>]) -> Diagnostics {
    for error in &mut errors.0 {
        let places = || std::iter::once(&error.path).chain(error.related.iter().map(|(path, ..)| path));
        let about = |object: &&Arc<Object>| places().any(|place| **place == *path(object));
        if let Some(object) = kept.iter().find(about) {
            error.help = Some(format!(
                "{} is no longer in the source, and kept because of its `weir/prune: \"false\"`: to let it go, put it \
                 back without that, apply, and take it out again",
                object.key
            ));
        }
    }
    errors
}
