//! The set: every file's objects together, with what `fromFiles` names.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use crate::{
    Changes, Diagnostic, Diagnostics, File, Object, ObjectKey, Options, Origin, ParsedFile,
    chunks::Chunks,
    claims::Claims,
    from_files::Lists,
    kinds::kind_name,
    parse::parse_file,
    set_check::SetErrors,
    stored::{KindName, Stored, file_number},
};

/// A valid set of objects. Cheap to clone; sets made from one another by [`Inventory::update`] share what is the same.
#[derive(Clone, Debug, Default)]
pub struct Inventory(pub(crate) Arc<Parts>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    /// Sorted by path.
    pub files: Arc<[Arc<ParsedFile>]>,
    pub kinds: BTreeMap<KindName, Chunks<Stored>>,
    pub claims: Claims,
    /// Filters as they stand in their files, without the lists of other files that they name.
    pub unresolved: Arc<BTreeMap<ObjectKey, Arc<Object>>>,
    /// Of the set, not of a file.
    pub set_warnings: Arc<[Diagnostic]>,
    /// Of files, not of the set.
    pub file_warnings: Arc<[Diagnostic]>,
    /// Both, sorted.
    pub warnings: Arc<[Diagnostic]>,
    /// [`file_number`] of each file, and its index; sorted.
    pub numbers: OnceLock<Vec<(u32, usize)>>,
}

impl Inventory {
    /// Sorted by key. An `Endpoint` is made when the iterator comes to it, so drop it before the next.
    pub fn objects(&self) -> impl Iterator<Item = Arc<Object>> {
        self.0.kinds.values().flat_map(Chunks::iter).map(|stored| self.object(stored))
    }

    /// The objects of one kind, sorted by namespace and name.
    pub fn of_kind(&self, group: &str, kind: &str) -> impl Iterator<Item = Arc<Object>> {
        let chunks = self.0.kinds.get(&kind_name(group, kind));
        chunks.into_iter().flat_map(Chunks::iter).map(|stored| self.object(stored))
    }

    pub fn get(&self, key: &ObjectKey) -> Option<Arc<Object>> {
        self.stored(key).map(|stored| self.object(stored))
    }

    pub fn len(&self) -> usize {
        self.0.kinds.values().map(Chunks::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Group and kind of the objects, and how many of them there are. Makes no object.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, &'static str, usize)> {
        self.0.kinds.iter().map(|((group, kind), objects)| (*group, *kind, objects.len()))
    }

    /// What leads from this set to another one. What they share is not looked at.
    pub fn changes_to(&self, to: &Self) -> Changes {
        let mut changes = Changes { before: self.clone(), after: to.clone(), ..Changes::default() };
        let (mut kinds, nothing): (BTreeSet<&KindName>, _) = (BTreeSet::new(), Chunks::default());
        kinds.extend(self.0.kinds.keys().chain(to.0.kinds.keys()));
        for kind in kinds {
            let of = |set: &'_ Self| set.0.kinds.get(kind).cloned().unwrap_or_else(|| nothing.clone());
            let same = |a: &Stored, b: &Stored| a.is(b) || a.means_as(b);
            for difference in of(self).difference(&of(to), same) {
                match difference {
                    (Some(from), Some(to)) => changes.replaced.push((from, to)),
                    (Some(from), None) => changes.removed.push(from),
                    (None, Some(to)) => changes.added.push(to),
                    (None, None) => {}
                }
            }
        }
        changes
    }

    /// What was accepted, and that somebody should know about.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.0.warnings
    }

    /// The file of this path that the set was made from: what a new version of it can be parsed after.
    pub fn file(&self, path: &str) -> Option<&Arc<ParsedFile>> {
        let files = &self.0.files;
        files.binary_search_by(|file| (**file.path()).cmp(path)).ok().map(|at| &files[at])
    }

    /// The objects of one file, in its order.
    pub fn of_file(&self, path: &str) -> impl Iterator<Item = Arc<Object>> {
        let file = self.file(path);
        file.into_iter()
            .flat_map(|file| file.documents().iter().map(|document| document.stored.object(|| file.origin(document))))
    }

    pub(crate) fn stored(&self, key: &ObjectKey) -> Option<&Stored> {
        let chunks = self.0.kinds.get(&kind_name(&key.group, &key.kind))?;
        chunks.find(|stored| stored.name().cmp(&(key.namespace.as_bytes(), key.name.as_bytes())))
    }

    pub(crate) fn object(&self, stored: &Stored) -> Arc<Object> {
        stored.object(|| self.origin(stored))
    }

    fn origin(&self, stored: &Stored) -> Origin {
        let Parts { files, numbers, .. } = &*self.0;
        let numbers = numbers.get_or_init(|| {
            let mut list: Vec<_> = files.iter().enumerate().map(|(at, file)| (file_number(file.path()), at)).collect();
            list.sort_unstable();
            list
        });
        let wanted = match stored {
            Stored::Whole(object) => return object.origin.clone(),
            Stored::Endpoint(packed) => packed.file_number(),
        };
        let first = numbers.partition_point(|(number, _)| *number < wanted);
        let alike = numbers[first..].iter().take_while(|(number, _)| *number == wanted);
        let found = alike.map(|(_, at)| &files[*at]).find_map(|file| file.origin_of(stored));
        // A set's objects are those of its files.
        found.unwrap_or_else(|| Origin { path: "".into(), document: 0, line: 0 })
    }
}

/// Splits, parses, defaults and checks. Every error of every file, sorted.
pub fn parse(files: &[File], options: &Options) -> Result<Inventory, Diagnostics> {
    let parsed = files.iter().map(|file| Arc::new(parse_file(file, options))).collect();
    assemble(&parsed, files)
}

/// Puts parsed files together: [`Inventory::update`] of nothing.
pub fn assemble(parsed: &Arc<[Arc<ParsedFile>]>, files: &[File]) -> Result<Inventory, Diagnostics> {
    Inventory::default().update(parsed, files).map(|(inventory, _)| inventory)
}

/// The objects of a set, sorted by key, and its warnings.
pub type CheckedObjects = (Vec<Arc<Object>>, Vec<Diagnostic>);

/// What [`Inventory::update`] must come to, without a former set to build on: looks at every object of every file, and
/// says all that is wrong. `parsed[n]` is what [`parse_file`] gave for `files[n]`.
pub fn check_whole(parsed: &[Arc<ParsedFile>], files: &[File]) -> Result<CheckedObjects, Diagnostics> {
    let mut errors = SetErrors::new(files);
    errors.found.extend(parsed.iter().flat_map(|file| &file.errors).cloned());
    let lists = Lists::new(parsed, files);
    let mut objects = Vec::new();
    for file in parsed {
        let of_file = file.documents().iter().map(|document| document.stored.object(|| file.origin(document)));
        objects.extend(of_file.map(|object| lists.resolve(&object, &mut errors)));
    }
    objects.sort_by(|a, b| {
        let place = |object: &Object| (Arc::clone(&object.origin.path), object.origin.document);
        a.key.cmp(&b.key).then_with(|| place(a).cmp(&place(b)))
    });
    errors.check(&objects);
    if errors.found.is_empty() {
        let of_files = parsed.iter().flat_map(|file| &file.warnings).cloned();
        Ok((objects, Diagnostics::sorted(of_files.chain(errors.warnings).collect()).0))
    } else {
        Err(Diagnostics::sorted(errors.found))
    }
}

impl Changes {
    fn every<'a>(of: &'a Inventory, list: &'a [Stored]) -> impl ExactSizeIterator<Item = Arc<Object>> + use<'a> {
        list.iter().map(|stored| of.object(stored))
    }

    /// Sorted by key.
    pub fn added(&self) -> impl ExactSizeIterator<Item = Arc<Object>> {
        Self::every(&self.after, &self.added)
    }

    /// Sorted by key.
    pub fn removed(&self) -> impl ExactSizeIterator<Item = Arc<Object>> {
        Self::every(&self.before, &self.removed)
    }

    /// What means something else now: before, after. Sorted by key.
    pub fn replaced(&self) -> impl ExactSizeIterator<Item = (Arc<Object>, Arc<Object>)> {
        self.replaced.iter().map(|(before, after)| (self.before.object(before), self.after.object(after)))
    }

    /// Objects that mean the same, and came to stand in another file. (One that moved inside its file is not counted.)
    pub fn moved(&self) -> usize {
        self.moved
    }

    /// Objects that do not mean what they meant.
    pub fn len(&self) -> usize {
        self.added.len() + self.removed.len() + self.replaced.len()
    }

    /// No object means anything else.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.replaced.is_empty()
    }
}
