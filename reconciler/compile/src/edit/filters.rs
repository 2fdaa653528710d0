//! Filters that came, went or changed: the prefixes that they name, and what lies below those.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ipnet::IpNet;
use weir_abi::PrefilterClass;
use weir_plan::{Change, ObjectRef, Prefix4, Prefix6, RuleRef, Space, Table};
use weir_schema::{CidrFilterSpec, Object, Spec};

use super::{Edit, Stop};
use crate::{
    cidr_filter::{self, FilterList, ListKind, class_key},
    endpoint,
    objects::{Difference, Objects, reference},
    prefilter::{Columns, Prefix, Role, Source, Sweep},
    provenance::{Owned, RuleOrigin},
    rules::rule_key,
    state::{Claims, SourceState, used_columns},
};

fn spec(object: Option<&Arc<Object>>) -> Option<&CidrFilterSpec> {
    match object.map(|object| &object.spec) {
        Some(Spec::CidrFilter(spec)) => Some(spec),
        _ => None,
    }
}

/// Prefixes whose sources changed.
#[derive(Default)]
struct Touched {
    v4: BTreeSet<Prefix4>,
    v6: BTreeSet<Prefix6>,
}

/// An entry as the sweep gives it, by content.
type Found<P> = (P, PrefilterClass);

impl Edit<'_, '_> {
    pub(super) fn filters(&mut self, differences: &[&Difference]) -> Result<(), Stop> {
        // An endpoint's device is no network device, so that filters may hold elsewhere now.
        if differences.is_empty() && !self.rewire {
            return Ok(());
        }
        for (from, to) in differences {
            match (from, to) {
                (_, Some(to)) => drop(self.state.filters.insert(reference(to), Arc::clone(to))),
                (Some(from), None) => drop(self.state.filters.remove(&reference(from))),
                (None, None) => {}
            }
        }
        let shape = |object: Option<&Arc<Object>>| spec(object).map(|spec| (spec.interfaces.clone(), spec.mode));
        let moved = self.rewire || differences.iter().any(|(from, to)| shape(from.as_ref()) != shape(to.as_ref()));
        let groups = self.groups(moved, differences)?;
        let ranges = self.ranges();
        let mut touched = Touched::default();
        for (from, to) in differences {
            self.exceptions(from.as_ref(), to.as_ref());
            self.sources(from.as_ref(), to.as_ref(), &groups, &ranges, &mut touched)?;
        }
        self.resolve(&touched)?;
        // Who holds where, and whether a side of a device is filtered at all.
        self.rewire |= moved;
        let columns = used_columns(&self.tables.classes);
        if columns != self.state.prefilter.used_columns {
            self.state.prefilter.used_columns = columns;
            self.rewire = true;
        }
        Ok(())
    }

    /// The groups of the filters that changed. Where those of another one change, too, all is to be swept.
    fn groups(&self, moved: bool, differences: &[&Difference]) -> Result<BTreeMap<ObjectRef, u32>, Stop> {
        let prefilter = &self.state.prefilter;
        let known = |object: &ObjectRef| {
            let (_, source) = prefilter.source_of.from_key(&(object.clone(), "".into())).next()?;
            prefilter.sources.get(source).filter(|source| source.object == *object).map(|source| source.groups)
        };
        let references = differences.iter().filter_map(|(from, to)| to.as_ref().or(from.as_ref()));
        let changed: BTreeSet<ObjectRef> = references.map(|object| reference(object)).collect();
        if !moved && changed.iter().all(|object| known(object).is_some()) {
            return Ok(changed.into_iter().filter_map(|object| Some((object.clone(), known(&object)?))).collect());
        }
        let all: Vec<Arc<Object>> =
            self.state.shape.iter().chain(&self.state.filters).map(|(_, object)| Arc::clone(object)).collect();
        let objects = &Objects::new(all.iter());
        let endpoints = endpoint::interfaces(objects, self.input.node);
        let groups = cidr_filter::groups(objects, self.input.node, self.input.facts, &endpoints);
        let groups = groups.map_err(|_| Stop::Whole)?;
        let mut of_changed = BTreeMap::new();
        for (item, groups) in objects.filters.iter().zip(groups) {
            let object = objects.reference(item.id);
            if changed.contains(object) {
                of_changed.insert(object.clone(), groups);
            } else if known(object).is_some_and(|known| known != groups) {
                return Err(Stop::Whole);
            }
        }
        Ok(of_changed)
    }

    /// What `dropUnknownDestinations` speaks of.
    fn ranges(&self) -> Vec<IpNet> {
        let own = self.state.shape.iter().find_map(|(_, object)| match &object.spec {
            Spec::Node(spec) if object.metadata.name == self.input.node => Some(spec.endpoint_cidrs.to_vec()),
            _ => None,
        });
        own.unwrap_or_default()
    }

    fn exceptions(&mut self, from: Option<&Arc<Object>>, to: Option<&Arc<Object>>) {
        let changes = |object: Option<&Arc<Object>>, gives: bool| -> Vec<Change<(IpNet, ObjectRef), Owned>> {
            let Some((object, spec)) = object.and_then(|one| Some((one, spec(Some(one))?))) else { return Vec::new() };
            let mut nets = spec.exceptions.clone();
            nets.sort_unstable();
            let to = || gives.then(|| Owned::of(object));
            nets.into_iter().map(|net| Change { key: (net, reference(object)), from: None, to: to() }).collect()
        };
        self.origins.exceptions.apply(&changes(from, false));
        self.origins.exceptions.apply(&changes(to, true));
    }

    fn sources(
        &mut self,
        from: Option<&Arc<Object>>,
        to: Option<&Arc<Object>>,
        groups: &BTreeMap<ObjectRef, u32>,
        ranges: &[IpNet],
        touched: &mut Touched,
    ) -> Result<(), Stop> {
        let Some(object) = to.or(from).map(|object| reference(object)) else { return Ok(()) };
        let sequence = self.sequence();
        let lists = |object| -> BTreeMap<Arc<str>, FilterList<'_>> {
            let lists = spec(object).map_or(Vec::new(), |spec| cidr_filter::lists(spec, ranges));
            lists.into_iter().map(|list| (Arc::clone(&list.path), list)).collect()
        };
        let (old, new) = (lists(from), lists(to));
        let groups = groups.get(&object).copied().unwrap_or(0);
        for (path, list) in &old {
            if !new.contains_key(path) {
                let source = self.forget_source(&object, path);
                self.renounce(source, list.nets, touched);
                if list.kind != ListKind::Allow {
                    let key = rule_key(&object, path);
                    if let Some(number) = self.numbering.get(Space::Rule, &key) {
                        self.origins.rules.remove(&number);
                    }
                    self.numbering.release(Space::Rule, &key, sequence);
                }
            }
        }
        for (path, list) in &new {
            let role = match list.kind {
                ListKind::Allow => Role::Allow,
                kind => {
                    let number = self.numbering.hold(Space::Rule, &rule_key(&object, path), sequence)?;
                    let rule = RuleRef { object: object.clone(), path: Arc::clone(path) };
                    if let Some(to) = to {
                        self.origins.rules.insert(number, RuleOrigin { rule, owner: Owned::of(to) });
                    }
                    kind.role(number)
                }
            };
            let state = SourceState { object: object.clone(), path: Arc::clone(path), side: list.side, groups, role };
            let key = (object.clone(), Arc::clone(path));
            let known = self.state.prefilter.source_of.get(&key).copied();
            let former = old.get(path).map_or(&[][..], |list| list.nets);
            match known {
                Some(source) if self.state.prefilter.sources.get(&source) == Some(&state) => {
                    let (gone, come) = difference(former, list.nets);
                    self.renounce(Some(source), &gone, touched);
                    self.announce(source, &come, touched);
                }
                known => {
                    if known.is_some() {
                        let source = self.forget_source(&object, path);
                        self.renounce(source, former, touched);
                    }
                    let source = self.state.prefilter.next_source;
                    self.state.prefilter.next_source += 1;
                    self.state.prefilter.sources.insert(source, state);
                    self.state.prefilter.source_of.insert(key, source);
                    self.announce(source, list.nets, touched);
                }
            }
        }
        Ok(())
    }

    fn forget_source(&mut self, object: &ObjectRef, path: &Arc<str>) -> Option<u32> {
        let source = self.state.prefilter.source_of.remove(&(object.clone(), Arc::clone(path)))?;
        self.state.prefilter.sources.remove(&source);
        Some(source)
    }

    fn announce(&mut self, source: u32, nets: &[IpNet], touched: &mut Touched) {
        let prefilter = &mut self.state.prefilter;
        let (v4, v6) = families(nets);
        prefilter.v4.add(&v4, source);
        prefilter.v6.add(&v6, source);
        touched.v4.extend(v4);
        touched.v6.extend(v6);
    }

    fn renounce(&mut self, source: Option<u32>, nets: &[IpNet], touched: &mut Touched) {
        let Some(source) = source else { return };
        let prefilter = &mut self.state.prefilter;
        let (v4, v6) = families(nets);
        v4.iter().for_each(|prefix| prefilter.v4.remove(*prefix, source));
        v6.iter().for_each(|prefix| prefilter.v6.remove(*prefix, source));
        touched.v4.extend(v4);
        touched.v6.extend(v6);
    }

    fn resolve(&mut self, touched: &Touched) -> Result<(), Stop> {
        let prefilter = &self.state.prefilter;
        let v4 = prefilter.v4.sweep(&touched.v4, &prefilter.sources);
        let v6 = prefilter.v6.sweep(&touched.v6, &prefilter.sources);
        let mut uses: BTreeMap<u32, i64> = BTreeMap::new();
        let v4 = self.changes(&v4, &self.tables.prefilter4.clone(), &mut uses)?;
        let v6 = self.changes(&v6, &self.tables.prefilter6.clone(), &mut uses)?;
        self.tables.prefilter4.apply(&v4);
        self.tables.prefilter6.apply(&v6);
        for (class, by) in uses {
            let before = self.state.prefilter.uses.get(&class).copied().unwrap_or(0);
            let now = (i64::from(before) + by).max(0) as u32;
            if now > 0 {
                self.state.prefilter.uses.insert(class, now);
                continue;
            }
            self.state.prefilter.uses.remove(&class);
            if let Some(content) = self.tables.classes.remove(&class) {
                self.numbering.release(Space::Class, &class_key(&content), self.input.sequence);
            }
            self.origins.classes.remove(&class);
        }
        Ok(())
    }

    /// What turns the table's part below each root into what was found there.
    fn changes<P: Prefix + std::hash::Hash>(
        &mut self,
        found: &[(P, Vec<Found<P>>)],
        table: &Table<P, u32>,
        uses: &mut BTreeMap<u32, i64>,
    ) -> Result<Vec<Change<P, u32>>, Stop> {
        let mut numbers: HashMap<PrefilterClass, u32> = HashMap::new();
        let mut changes = Vec::new();
        for (root, found) in found {
            let mut old = table.from_key(root).take_while(|(prefix, _)| root.covers(prefix)).peekable();
            let mut new = Vec::with_capacity(found.len());
            for (prefix, content) in found {
                let number = match numbers.get(content) {
                    Some(number) => *number,
                    None => {
                        let number = self.class(content)?;
                        numbers.insert(*content, number);
                        number
                    }
                };
                new.push((*prefix, number));
            }
            let mut change = |key: P, from: Option<u32>, to: Option<u32>| {
                if from == to {
                    return;
                }
                for (class, by) in [(from, -1), (to, 1)] {
                    if let Some(class) = class.filter(|class| *class != 0) {
                        *uses.entry(class).or_default() += by;
                    }
                }
                changes.push(Change { key, from, to });
            };
            for (prefix, number) in new {
                while let Some((gone, from)) = old.next_if(|(other, _)| *other < prefix) {
                    change(*gone, Some(*from), None);
                }
                let from = old.next_if(|(other, _)| *other == prefix).map(|(_, from)| *from);
                change(prefix, from, Some(number));
            }
            for (gone, from) in old {
                change(*gone, Some(*from), None);
            }
        }
        Ok(changes)
    }

    /// The number of a class, by its content.
    fn class(&mut self, content: &PrefilterClass) -> Result<u32, Stop> {
        if *content == PrefilterClass::default() {
            return Ok(0);
        }
        let number = self.numbering.hold(Space::Class, &class_key(content), self.input.sequence)?;
        if self.tables.classes.get(&number) != Some(content) {
            self.tables.classes.insert(number, *content);
        }
        let cells = content.cells.iter().filter(|cell| cell.action() != 0);
        let owner = cells.filter_map(|cell| self.origins.rules.get(&cell.rule())).next().map(|one| one.owner.clone());
        if let Some(owner) = owner {
            self.origins.classes.insert(number, owner);
        }
        // One that no entry has in the end goes with the others that lost theirs.
        if self.state.prefilter.uses.get(&number).is_none() {
            self.state.prefilter.uses.insert(number, 0);
        }
        Ok(number)
    }
}

fn families(nets: &[IpNet]) -> (Vec<Prefix4>, Vec<Prefix6>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for net in nets {
        match net {
            IpNet::V4(net) => v4.push(Prefix4::from(*net)),
            IpNet::V6(net) => v6.push(Prefix6::from(*net)),
        }
    }
    (v4, v6)
}

/// What `to` lacks, and what it has anew. Lists that are sorted are compared as they are.
fn difference(from: &[IpNet], to: &[IpNet]) -> (Vec<IpNet>, Vec<IpNet>) {
    let sorted = |nets: &[IpNet]| -> Vec<IpNet> {
        let mut nets = nets.to_vec();
        if !nets.is_sorted() {
            nets.sort_unstable();
        }
        nets.dedup();
        nets
    };
    let (from, to) = (sorted(from), sorted(to));
    let without = |nets: &[IpNet], others: &[IpNet]| -> Vec<IpNet> {
        nets.iter().filter(|net| others.binary_search(net).is_err()).copied().collect()
    };
    (without(&from, &to), without(&to, &from))
}

impl<P: Prefix + std::hash::Hash> Claims<P> {
    fn add(&mut self, prefixes: &[P], source: u32) {
        let mut new = Vec::new();
        for prefix in prefixes {
            match self.first.get(prefix) {
                None => new.push(*prefix),
                Some(first) if *first == source => {}
                Some(_) => drop(self.more.insert((*prefix, source), ())),
            }
        }
        new.sort_unstable();
        new.dedup();
        let lengths = Arc::make_mut(&mut self.lengths);
        new.iter().for_each(|prefix| lengths[usize::from(prefix.length())] += 1);
        let changes: Vec<_> = new.into_iter().map(|key| Change { key, from: None, to: Some(source) }).collect();
        self.first.apply(&changes);
    }

    fn remove(&mut self, prefix: P, source: u32) {
        if self.first.get(&prefix) != Some(&source) {
            self.more.remove(&(prefix, source));
            return;
        }
        let next = self.more.from_key(&(prefix, 0)).next().filter(|((other, _), ())| *other == prefix);
        match next.map(|((_, next), ())| *next) {
            Some(next) => {
                self.more.remove(&(prefix, next));
                self.first.insert(prefix, next);
            }
            None => {
                self.first.remove(&prefix);
                Arc::make_mut(&mut self.lengths)[usize::from(prefix.length())] -= 1;
            }
        }
    }

    fn sources_of(&self, prefix: P, first: u32) -> impl Iterator<Item = u32> {
        let more = self.more.from_key(&(prefix, 0)).take_while(move |((other, _), ())| *other == prefix);
        std::iter::once(first).chain(more.map(|((_, source), ())| *source))
    }

    /// The entries below each prefix that was touched, and not below another one that was.
    fn sweep(&self, touched: &BTreeSet<P>, sources: &Table<u32, SourceState>) -> Vec<(P, Vec<Found<P>>)> {
        let mut roots: Vec<P> = Vec::new();
        for prefix in touched {
            if roots.last().is_none_or(|root| !root.covers(prefix)) {
                roots.push(*prefix);
            }
        }
        let lengths: Vec<u8> = (0..=128u8).filter(|length| self.lengths[usize::from(*length)] > 0).collect();
        let mut above: BTreeSet<P> = BTreeSet::new();
        for root in &roots {
            above.extend(lengths.iter().take_while(|length| **length < root.length()).map(|l| root.shortened(*l)));
        }
        let mut named: Vec<(P, u32)> = Vec::new();
        for prefix in above {
            if let Some(first) = self.first.get(&prefix) {
                named.extend(self.sources_of(prefix, *first).map(|source| (prefix, source)));
            }
        }
        for root in &roots {
            for (prefix, first) in self.first.from_key(root).take_while(|(prefix, _)| root.covers(prefix)) {
                if self.more.is_empty() {
                    named.push((*prefix, *first));
                } else {
                    named.extend(self.sources_of(*prefix, *first).map(|source| (*prefix, source)));
                }
            }
        }

        // Filters in the order of the objects; of a filter's lists the one that explains comes last, and what it lets
        // through after them all.
        let mut known: Vec<(u32, &SourceState)> = named
            .iter()
            .map(|(_, source)| *source)
            .collect::<BTreeSet<u32>>()
            .into_iter()
            .filter_map(|source| Some((source, sources.get(&source)?)))
            .collect();
        known.sort_by(|(_, a), (_, b)| {
            let rank = |one: &SourceState| one.role == Role::Allow;
            rank(a).cmp(&rank(b)).then_with(|| (&b.object, &b.path).cmp(&(&a.object, &a.path)))
        });
        let objects: BTreeSet<&ObjectRef> = known.iter().map(|(_, source)| &source.object).collect();
        let filters: BTreeMap<&ObjectRef, u32> = objects.into_iter().zip(0..).collect();
        let mut columns = vec![Columns { side: 0, groups: 0 }; filters.len()];
        let mut local: HashMap<u32, u32> = HashMap::new();
        let mut list = Vec::new();
        for (number, source) in &known {
            let filter = filters[&source.object];
            columns[filter as usize] = Columns { side: source.side, groups: source.groups };
            local.insert(*number, list.len() as u32);
            list.push(Source { filter, role: source.role });
        }
        let mut sweep = Sweep::new(&columns, &list);
        let named = named.into_iter().filter_map(|(prefix, source)| Some((prefix, *local.get(&source)?))).collect();
        let entries = sweep.run(named);
        let classes = sweep.into_classes();
        let mut found: Vec<(P, Vec<Found<P>>)> = roots.into_iter().map(|root| (root, Vec::new())).collect();
        let mut at = 0;
        for (prefix, class) in entries {
            while at < found.len() && found[at].0 < prefix && !found[at].0.covers(&prefix) {
                at += 1;
            }
            if at < found.len() && found[at].0.covers(&prefix) {
                found[at].1.push((prefix, classes[class as usize]));
            }
        }
        found
    }
}
