//! From one set to the next, at the cost of what is different between them.
//!
//! What could be wrong with a set is looked for only where it changed. Once anything may be wrong between two objects,
//! [`check_whole`] looks at all of them and says what it is, so that an error reads the same however the set came about.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    Diagnostic, Diagnostics, File, Inventory, NodeConfigSpec, NodeSpec, Object, ObjectKey, ParsedFile, Spec,
    chunks::Chunks,
    claims::{Claimed, Claims},
    from_files::{Lists, relative_to},
    inventory::{Parts, check_whole},
    kinds::kind_name,
    parse::Content,
    set_check::SetErrors,
    stored::{KindName, Stored},
};

/// What [`Inventory::update`] changed. Keeps both sets alive.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub(crate) before: Inventory,
    pub(crate) after: Inventory,
    pub(crate) added: Vec<Stored>,
    pub(crate) removed: Vec<Stored>,
    pub(crate) replaced: Vec<(Stored, Stored)>,
    pub(crate) moved: usize,
}

impl Inventory {
    /// The set of these files, and what it changes. `self` stays what it is.
    ///
    /// `parsed[n]` is what [`crate::parse_file`] gave for `files[n]`, sorted by path, no path twice. Files that are the
    /// very same `Arc` as in this set cost nothing but being compared; the list is kept as it is.
    pub fn update(&self, parsed: &Arc<[Arc<ParsedFile>]>, files: &[File]) -> Result<(Inventory, Changes), Diagnostics> {
        let mut edit = Edit::between(&self.0.files, parsed);
        let mut errors = SetErrors::new(files);
        errors.found.append(&mut edit.errors);
        let unresolved = edit.resolve(self, parsed, &mut errors);

        let (kinds, twice) = self.edit_kinds(&edit);
        let (claims, contested) = self.edit_claims(&edit);
        let mut parts = Parts { files: Arc::clone(parsed), kinds, claims, unresolved, ..Parts::default() };
        let named = edit.touches(&["Endpoint", "FlowTest", "Service"]) || edit.touches_kind("", "Service");
        let misnamed = named && parts.tests_name_nobody();
        if twice || contested || misnamed || edit.touches(&["Node", "NodeConfig"]) && parts.node_configs_conflict(files)
        {
            // May find nothing: two claims can have one hash.
            check_whole(parsed, files)?;
        }
        if !errors.found.is_empty() {
            return Err(Diagnostics::sorted(errors.found));
        }
        parts.set_warnings = self.set_warnings(&parts, &edit, files);
        parts.file_warnings = match edit.warns {
            true => parsed.iter().flat_map(|file| &file.warnings).cloned().collect(),
            false => Arc::clone(&self.0.file_warnings),
        };
        let all = parts.file_warnings.iter().chain(&*parts.set_warnings).cloned().collect();
        parts.warnings = Diagnostics::sorted(all).0.into();
        let after = Self(Arc::new(parts));
        let changes = edit.changes(self.clone(), after.clone());
        Ok((after, changes))
    }

    fn edit_kinds(&self, edit: &Edit) -> (BTreeMap<KindName, Chunks<Stored>>, bool) {
        let mut kinds = self.0.kinds.clone();
        let mut twice = false;
        for (kind, Pair { removed, added }) in &edit.kinds {
            let of_kind = kinds.entry(*kind).or_default();
            let (edited, clash) = of_kind.edit(removed, added.clone());
            *of_kind = edited;
            twice |= clash;
        }
        kinds.retain(|_, objects| objects.len() > 0);
        (kinds, twice)
    }

    fn edit_claims(&self, edit: &Edit) -> (Claims, bool) {
        let (mut removed, mut added) = (Claimed::default(), Claimed::default());
        for pair in edit.kinds.values() {
            pair.removed.iter().for_each(|stored| removed.add(stored));
            pair.added.iter().for_each(|stored| added.add(stored));
        }
        self.0.claims.edit(removed, added)
    }

    fn set_warnings(&self, parts: &Parts, edit: &Edit, files: &[File]) -> Arc<[Diagnostic]> {
        if parts.of("Node").next().is_none() {
            return Arc::default();
        }
        let names = parts.of("Node").filter_map(|stored| match stored {
            Stored::Whole(object) => Some(&*object.key.name),
            Stored::Endpoint(_) => None,
        });
        let known: BTreeSet<&str> = names.collect();
        let unknown = |node: &str| !known.contains(node);
        let stands_there = |warning: &Diagnostic| edit.files.contains(&warning.path);
        let stale = edit.touches(&["Node"])
            || self.0.set_warnings.iter().any(stands_there)
            || edit.endpoints().any(|endpoint| unknown(endpoint.node()));
        if !stale {
            return Arc::clone(&self.0.set_warnings);
        }
        let mut left: BTreeSet<&str> =
            parts.claims.endpoints_of.keys().map(|node| &**node).filter(|node| unknown(node)).collect();
        let mut first = Vec::new();
        let after = Inventory(Arc::new(Parts { files: parts.files.clone(), ..Parts::default() }));
        for stored in parts.of("Endpoint") {
            if left.is_empty() {
                break;
            }
            if let Stored::Endpoint(endpoint) = stored
                && left.remove(endpoint.node())
            {
                first.push(after.object(stored));
            }
        }
        let mut errors = SetErrors::new(files);
        errors.unknown_nodes(&known, first.iter().map(|object| &**object));
        errors.warnings.into()
    }
}

impl Parts {
    fn of(&self, kind: &str) -> impl Iterator<Item = &Stored> {
        self.kinds.get(&kind_name("weir", kind)).into_iter().flat_map(Chunks::iter)
    }

    /// Whether a test names an endpoint or a service that is not there.
    fn tests_name_nobody(&self) -> bool {
        let is_there = |key: &ObjectKey| {
            let name = (key.namespace.as_bytes(), key.name.as_bytes());
            let of_kind = self.kinds.get(&kind_name(&key.group, &key.kind));
            of_kind.is_some_and(|objects| objects.find(|stored| stored.name().cmp(&name)).is_some())
        };
        self.of("FlowTest").any(|stored| match stored {
            Stored::Whole(object) => match &object.spec {
                Spec::FlowTest(test) => {
                    test.names(&object.key.namespace).iter().any(|named| !named.keys.iter().any(is_there))
                }
                _ => false,
            },
            Stored::Endpoint(_) => false,
        })
    }

    fn node_configs_conflict(&self, files: &[File]) -> bool {
        let mut nodes: Vec<(&Object, &NodeSpec)> = Vec::new();
        let mut configs: Vec<(&Object, &NodeConfigSpec)> = Vec::new();
        for stored in self.of("Node").chain(self.of("NodeConfig")) {
            let Stored::Whole(object) = stored else { continue };
            match &object.spec {
                Spec::Node(node) => nodes.push((object, node)),
                Spec::NodeConfig(config) => configs.push((object, config)),
                _ => {}
            }
        }
        let mut errors = SetErrors::new(files);
        errors.node_configs(&nodes, &configs);
        !errors.found.is_empty()
    }
}

#[derive(Debug, Default)]
struct Pair {
    removed: Vec<Stored>,
    added: Vec<Stored>,
}

/// The objects that are in one set and not, or not the same, in the other.
#[derive(Debug, Default)]
struct Edit {
    /// Sorted by name, once resolved.
    kinds: BTreeMap<KindName, Pair>,
    /// Those that are different.
    files: Vec<Arc<str>>,
    /// Those that are data.
    lists: BTreeSet<Arc<str>>,
    /// Of the files that are different.
    errors: Vec<Diagnostic>,
    /// A file that is different has warnings, or had.
    warns: bool,
}

impl Edit {
    fn between(before: &[Arc<ParsedFile>], after: &[Arc<ParsedFile>]) -> Self {
        let mut edit = Self::default();
        let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
        loop {
            match (old.peek(), new.peek()) {
                (None, None) => return edit,
                (Some(_), None) => edit.file(old.next(), None),
                (None, Some(_)) => edit.file(None, new.next()),
                // First, because it looks at neither of them.
                (Some(a), Some(b)) if Arc::ptr_eq(a, b) => {
                    old.next();
                    new.next();
                }
                (Some(a), Some(b)) if a.path() < b.path() => edit.file(old.next(), None),
                (Some(a), Some(b)) if a.path() > b.path() => edit.file(None, new.next()),
                (Some(_), Some(_)) => edit.file(old.next(), new.next()),
            }
        }
    }

    fn file(&mut self, before: Option<&Arc<ParsedFile>>, after: Option<&Arc<ParsedFile>>) {
        self.errors.extend(after.iter().flat_map(|file| &file.errors).cloned());
        for file in before.into_iter().chain(after) {
            self.warns |= !file.warnings.is_empty();
            self.files.push(Arc::clone(file.path()));
            if matches!(file.content, Content::Data(_)) {
                self.lists.insert(Arc::clone(file.path()));
            }
        }
        let documents = |file: Option<&Arc<ParsedFile>>| -> Vec<Stored> {
            file.into_iter().flat_map(|file| file.documents()).map(|document| document.stored.clone()).collect()
        };
        let (mut before, mut after) = (documents(before), documents(after));
        before.sort_unstable_by_key(Stored::address);
        after.sort_unstable_by_key(Stored::address);
        let (mut old, mut new) = (before.into_iter().peekable(), after.into_iter().peekable());
        loop {
            match (old.peek().map(Stored::address), new.peek().map(Stored::address)) {
                (None, None) => return,
                // Unchanged.
                (Some(a), Some(b)) if a == b => {
                    old.next();
                    new.next();
                }
                (Some(a), b) if b.is_none_or(|b| a < b) => self.remove(old.next()),
                _ => self.add(new.next()),
            }
        }
    }

    fn remove(&mut self, stored: Option<Stored>) {
        if let Some(stored) = stored {
            self.kinds.entry(stored.kind()).or_default().removed.push(stored);
        }
    }

    fn add(&mut self, stored: Option<Stored>) {
        if let Some(stored) = stored {
            self.kinds.entry(stored.kind()).or_default().added.push(stored);
        }
    }

    /// Puts resolved filters in the place of those of the files.
    fn resolve(
        &mut self,
        before: &Inventory,
        parsed: &[Arc<ParsedFile>],
        errors: &mut SetErrors<'_>,
    ) -> Arc<BTreeMap<ObjectKey, Arc<Object>>> {
        let mut unresolved = Arc::clone(&before.0.unresolved);
        let names_lists = |stored: &Stored| match stored {
            Stored::Whole(object) => matches!(&object.spec, Spec::CidrFilter(filter) if !filter.from_files.is_empty())
                .then(|| Arc::clone(object)),
            Stored::Endpoint(_) => None,
        };
        let filters = self.kinds.entry(("weir", "CidrFilter")).or_default();
        // What is in the set is the resolved one.
        for stored in &mut filters.removed {
            if let Some(filter) = names_lists(stored) {
                Arc::make_mut(&mut unresolved).remove(&filter.key);
                if let Some(resolved) = before.stored(&filter.key) {
                    *stored = resolved.clone();
                }
            }
        }
        let named_list = |filter: &Object, name: &str| {
            relative_to(&filter.origin.path, name).is_some_and(|path| self.lists.contains(path.as_str()))
        };
        let affected: Vec<_> = match self.lists.is_empty() {
            true => Vec::new(),
            false => unresolved
                .values()
                .filter(|object| match &object.spec {
                    Spec::CidrFilter(filter) => filter.from_files.iter().any(|name| named_list(object, name)),
                    _ => false,
                })
                .cloned()
                .collect(),
        };
        for filter in affected {
            filters.removed.extend(before.stored(&filter.key).cloned());
            filters.added.push(Stored::Whole(filter));
        }
        let mut lists = None;
        for stored in &mut filters.added {
            if let Some(filter) = names_lists(stored) {
                let lists = lists.get_or_insert_with(|| Lists::new(parsed, errors.files()));
                *stored = Stored::Whole(lists.resolve(&filter, errors));
                Arc::make_mut(&mut unresolved).insert(filter.key.clone(), filter);
            }
        }
        for pair in self.kinds.values_mut() {
            pair.removed.sort_by(|a, b| a.name().cmp(&b.name()));
            pair.added.sort_by(|a, b| a.name().cmp(&b.name()));
        }
        unresolved
    }

    fn touches(&self, kinds: &[&str]) -> bool {
        let touched = |pair: &Pair| !pair.removed.is_empty() || !pair.added.is_empty();
        self.kinds.iter().any(|((group, kind), pair)| *group == "weir" && kinds.contains(kind) && touched(pair))
    }

    fn touches_kind(&self, group: &str, kind: &str) -> bool {
        let pair = self.kinds.get(&kind_name(group, kind));
        pair.is_some_and(|pair| !pair.removed.is_empty() || !pair.added.is_empty())
    }

    fn endpoints(&self) -> impl Iterator<Item = &crate::stored::PackedEndpoint> {
        let both = self.kinds.values().flat_map(|pair| pair.removed.iter().chain(&pair.added));
        both.filter_map(|stored| match stored {
            Stored::Endpoint(endpoint) => Some(endpoint),
            Stored::Whole(_) => None,
        })
    }

    fn changes(self, before: Inventory, after: Inventory) -> Changes {
        let mut changes = Changes { before, after, ..Changes::default() };
        for Pair { removed, added } in self.kinds.into_values() {
            let (mut old, mut new) = (removed.into_iter().peekable(), added.into_iter().peekable());
            while let Some(first) = match (old.peek(), new.peek()) {
                (None, None) => None,
                (Some(_), None) => Some(std::cmp::Ordering::Less),
                (None, Some(_)) => Some(std::cmp::Ordering::Greater),
                (Some(a), Some(b)) => Some(a.name().cmp(&b.name())),
            } {
                match first {
                    std::cmp::Ordering::Less => changes.removed.extend(old.next()),
                    std::cmp::Ordering::Greater => changes.added.extend(new.next()),
                    std::cmp::Ordering::Equal => match old.next().zip(new.next()) {
                        Some((a, b)) if a.means_as(&b) => changes.moved += 1,
                        pair => changes.replaced.extend(pair),
                    },
                }
            }
        }
        changes
    }
}
