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
    /// very same `Arc` as in this set cost nothing but being compared.
    pub fn update(&self, parsed: &[Arc<ParsedFile>], files: &[File]) -> Result<(Inventory, Changes), Diagnostics> {
        let mut edit = Edit::between(&self.0.files, parsed);
        let mut errors = SetErrors::new(files);
        errors.found.extend(parsed.iter().flat_map(|file| &file.errors).cloned());
        let unresolved = edit.resolve(self, parsed, &mut errors);

        let (kinds, twice) = self.edit_kinds(&edit);
        let (claims, contested) = self.edit_claims(&edit);
        let mut parts = Parts {
            files: parsed.to_vec(),
            kinds,
            claims,
            unresolved,
            endpoints_of: edit.endpoints_of(&self.0.endpoints_of),
            ..Parts::default()
        };
        if twice || contested || edit.touches(&["Node", "NodeConfig"]) && parts.node_configs_conflict(files) {
            // May find nothing: two claims can have one hash.
            check_whole(parsed, files)?;
        }
        if !errors.found.is_empty() {
            return Err(Diagnostics::sorted(errors.found));
        }
        parts.set_warnings = self.set_warnings(&parts, &edit, files);
        let of_files = parsed.iter().flat_map(|file| &file.warnings).cloned();
        let warnings = of_files.chain(parts.set_warnings.iter().cloned()).collect();
        parts.warnings = Diagnostics::sorted(warnings).0.into();
        let after = Self(Arc::new(parts));
        let changes = edit.changes(self.clone(), after.clone());
        Ok((after, changes))
    }

    fn edit_kinds(&self, edit: &Edit) -> (BTreeMap<KindName, Chunks<Stored>>, bool) {
        let mut kinds = self.0.kinds.clone();
        let mut twice = false;
        for (kind, Pair { removed, added }) in &edit.kinds {
            let of_kind = kinds.entry(kind.clone()).or_default();
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
        let known: BTreeSet<&str> = parts.of("Node").map(|stored| stored.name().1).collect();
        let unknown = |node: &str| !known.is_empty() && !known.contains(node);
        let stands_there = |warning: &Diagnostic| edit.files.iter().any(|path| *path == warning.path);
        let stale = edit.touches(&["Node"])
            || self.0.set_warnings.iter().any(stands_there)
            || edit.endpoints().any(|endpoint| unknown(endpoint.claims().node));
        if !stale {
            return Arc::clone(&self.0.set_warnings);
        }
        let mut left: BTreeSet<&str> =
            parts.endpoints_of.keys().map(|node| &**node).filter(|node| unknown(node)).collect();
        let mut first = Vec::new();
        let after = Inventory(Arc::new(Parts { files: parts.files.clone(), ..Parts::default() }));
        for stored in parts.of("Endpoint") {
            if left.is_empty() {
                break;
            }
            if let Stored::Endpoint(endpoint) = stored
                && left.remove(endpoint.claims().node)
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
        self.kinds.get(&("weir".into(), kind.into())).into_iter().flat_map(Chunks::iter)
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
                (Some(a), Some(b)) if a.path() < b.path() => edit.file(old.next(), None),
                (Some(a), Some(b)) if a.path() > b.path() => edit.file(None, new.next()),
                (Some(_), Some(_)) => edit.file(old.next(), new.next()),
            }
        }
    }

    fn file(&mut self, before: Option<&Arc<ParsedFile>>, after: Option<&Arc<ParsedFile>>) {
        if let (Some(before), Some(after)) = (before, after)
            && Arc::ptr_eq(before, after)
        {
            return;
        }
        for file in before.into_iter().chain(after) {
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
        let filters = self.kinds.entry(("weir".into(), "CidrFilter".into())).or_default();
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
        self.kinds.iter().any(|((group, kind), pair)| &**group == "weir" && kinds.contains(&&**kind) && touched(pair))
    }

    fn endpoints(&self) -> impl Iterator<Item = &crate::stored::PackedEndpoint> {
        let both = self.kinds.values().flat_map(|pair| pair.removed.iter().chain(&pair.added));
        both.filter_map(|stored| match stored {
            Stored::Endpoint(endpoint) => Some(endpoint),
            Stored::Whole(_) => None,
        })
    }

    fn endpoints_of(&self, before: &Arc<BTreeMap<Arc<str>, usize>>) -> Arc<BTreeMap<Arc<str>, usize>> {
        let mut changed: BTreeMap<&str, isize> = BTreeMap::new();
        for (list, step) in self.kinds.values().flat_map(|pair| [(&pair.removed, -1), (&pair.added, 1)]) {
            for stored in list {
                if let Stored::Endpoint(endpoint) = stored {
                    *changed.entry(endpoint.claims().node).or_default() += step;
                }
            }
        }
        changed.retain(|_, by| *by != 0);
        let mut after = Arc::clone(before);
        for (node, by) in changed {
            let counts = Arc::make_mut(&mut after);
            let count = counts.get(node).copied().unwrap_or_default().saturating_add_signed(by);
            if count == 0 {
                counts.remove(node);
            } else {
                counts.insert(node.into(), count);
            }
        }
        after
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
                        Some((a, b)) if a.hash() == b.hash() => changes.moved += 1,
                        pair => changes.replaced.extend(pair),
                    },
                }
            }
        }
        changes
    }
}
