//! `CidrFilter`: which filters hold on which device, and the prefilter tables that they give.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    sync::Arc,
};

use ipnet::IpNet;
use weir_abi::{CLASS_GROUPS, PrefilterClass, SIDE_DESTINATION, SIDE_SOURCE};
use weir_plan::{
    InterfaceFacts, InterfaceName, NodeFacts, Numbering, ObjectRef, OutOfNumbers, Pending, Prefix4, Prefix6, Space,
    Table, XdpAttach,
};
use weir_schema::{CidrFilterSpec, FilterMatch, XdpMode};

use crate::{
    config::NodeSettings,
    devices::{matching, network_devices},
    error::{CompileError, code},
    objects::{Item, ObjectId, Objects},
    prefilter::{Columns, Role, Source, SourceId, Sweep},
    provenance::Owned,
    rules::{RuleKey, Rules, rule_key},
};

const UNKNOWN_DESTINATIONS: &str = "spec.dropUnknownDestinations";

/// One device that the prefilter runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilteredDevice {
    pub name: InterfaceName,
    pub group: u32,
    pub mode: XdpAttach,
    /// The first filter that holds there.
    pub object: ObjectId,
}

/// Where each filter holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Sorted by name.
    pub devices: Vec<FilteredDevice>,
    /// Bits of the groups, per filter in the order of the objects.
    pub groups: Vec<u32>,
}

/// Devices with the same filters share a group; groups are numbered in the order of their filters. `acceleration`: how
/// the load balancer wants XDP on network devices.
pub(crate) fn place(
    objects: &Objects<'_>,
    facts: &NodeFacts,
    network: &[&InterfaceFacts],
    acceleration: Option<(ObjectId, XdpAttach)>,
    pending: &mut Vec<Pending>,
) -> Result<Placement, Vec<CompileError>> {
    let mut errors = Vec::new();
    let mut watched: BTreeMap<&InterfaceName, Vec<usize>> = BTreeMap::new();
    for (index, filter) in objects.filters.iter().enumerate() {
        let globs = &filter.spec.interfaces;
        let mut wait = |message: String| {
            pending.push(Pending {
                object: objects.reference(filter.id).clone(),
                code: code::INTERFACE_MISSING,
                message,
            });
        };
        let devices = if globs.is_empty() {
            if network.is_empty() {
                wait("the node has no network device that it could hold on".to_owned());
            }
            network.to_vec()
        } else {
            match matching(globs, facts, filter.id, "spec.interfaces", objects) {
                Ok((devices, idle)) => {
                    for glob in idle {
                        wait(format!("no device matches `{}`", globs[glob]));
                    }
                    devices
                }
                Err(error) => {
                    errors.push(*error);
                    continue;
                }
            }
        };
        for device in devices {
            watched.entry(&device.name).or_default().push(index);
        }
    }

    let sets: BTreeSet<&Vec<usize>> = watched.values().collect();
    if sets.len() > CLASS_GROUPS {
        errors.push(CompileError {
            code: code::TOO_MANY_GROUPS,
            object: None,
            path: None,
            message: format!(
                "the filters divide the devices into {} groups that differ in their filters; at most {CLASS_GROUPS} are possible",
                sets.len()
            ),
            help: Some("let filters name the same `interfaces`".to_owned()),
        });
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let sets: Vec<&Vec<usize>> = sets.into_iter().collect();
    let mut placement = Placement { devices: Vec::new(), groups: vec![0; objects.filters.len()] };
    for (group, set) in sets.iter().enumerate() {
        set.iter().for_each(|filter| placement.groups[*filter] |= 1 << group);
    }
    for (name, set) in &watched {
        let filters = set.iter().map(|index| &objects.filters[*index]);
        let balancer = acceleration.filter(|_| network.iter().any(|device| device.name == **name));
        match xdp_mode(filters.map(|filter| (filter.id, attach(filter.spec.mode))).chain(balancer)) {
            Ok(mode) => placement.devices.push(FilteredDevice {
                name: (*name).clone(),
                group: sets.partition_point(|other| other < &set) as u32,
                mode,
                object: objects.filters[set[0]].id,
            }),
            Err((native, generic)) => errors.push(CompileError {
                code: code::XDP_MODE_CONFLICT,
                object: Some(objects.reference(native).clone()),
                path: Some(mode_path(native, acceleration).to_owned()),
                message: format!(
                    "asks for native XDP on {name}, where {} asks for generic",
                    objects.reference(generic)
                ),
                help: Some("one device has one XDP mode; leave one of them `auto`".to_owned()),
            }),
        }
    }
    if errors.is_empty() { Ok(placement) } else { Err(errors) }
}

const fn attach(mode: XdpMode) -> XdpAttach {
    match mode {
        XdpMode::Auto => XdpAttach::Auto,
        XdpMode::Native => XdpAttach::Native,
        XdpMode::Generic => XdpAttach::Generic,
    }
}

/// Where an object says which mode it wants.
fn mode_path(object: ObjectId, acceleration: Option<(ObjectId, XdpAttach)>) -> &'static str {
    if acceleration.is_some_and(|(config, _)| config == object) {
        "spec.loadBalancer.acceleration"
    } else {
        "spec.mode"
    }
}

/// The mode that everybody who wants XDP on a device can live with, or the two that contradict each other.
fn xdp_mode(wanted: impl Iterator<Item = (ObjectId, XdpAttach)>) -> Result<XdpAttach, (ObjectId, ObjectId)> {
    let (mut native, mut generic) = (None, None);
    for (object, mode) in wanted {
        match mode {
            XdpAttach::Auto => {}
            XdpAttach::Native => native = native.or(Some(object)),
            XdpAttach::Generic => generic = generic.or(Some(object)),
        }
    }
    match (native, generic) {
        (Some(native), Some(generic)) => Err((native, generic)),
        (Some(_), None) => Ok(XdpAttach::Native),
        (None, Some(_)) => Ok(XdpAttach::Generic),
        (None, None) => Ok(XdpAttach::Auto),
    }
}

/// The rules of every filter.
pub(crate) fn rules(objects: &Objects<'_>) -> Vec<RuleKey> {
    let mut keys = Vec::new();
    for filter in &objects.filters {
        let mut add = |path: &str| keys.push(RuleKey { object: filter.id, path: path.into() });
        filter.spec.lists.iter().for_each(|list| add(&list.rule_path));
        if filter.spec.drop_unknown_destinations {
            add(UNKNOWN_DESTINATIONS);
        }
    }
    keys
}

const ALLOW: &str = "spec.allow";

/// One list of a filter, under the path that its entries are counted under.
#[derive(Clone, Debug)]
pub(crate) struct FilterList<'a> {
    pub path: Arc<str>,
    pub kind: ListKind,
    pub side: usize,
    pub nets: &'a [IpNet],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListKind {
    Drop,
    EndpointRange,
    Allow,
}

impl ListKind {
    pub const fn role(self, rule: u32) -> Role {
        match self {
            Self::Drop => Role::Drop { rule },
            Self::EndpointRange => Role::EndpointRange { rule },
            Self::Allow => Role::Allow,
        }
    }
}

/// Every list of a filter.
pub(crate) fn lists<'a>(spec: &'a CidrFilterSpec, ranges: &'a [IpNet]) -> Vec<FilterList<'a>> {
    let side = side(spec);
    let drop = |list: &'a weir_schema::CidrList| FilterList {
        path: list.rule_path.as_str().into(),
        kind: ListKind::Drop,
        side,
        nets: &list.prefixes,
    };
    let mut lists: Vec<_> = spec.lists.iter().map(drop).collect();
    if spec.drop_unknown_destinations {
        lists.push(FilterList { path: UNKNOWN_DESTINATIONS.into(), kind: ListKind::EndpointRange, side, nets: ranges });
    }
    if !spec.exceptions.is_empty() {
        lists.push(FilterList { path: ALLOW.into(), kind: ListKind::Allow, side, nets: &spec.exceptions });
    }
    lists
}

impl FilterList<'_> {
    /// Of a list whose rule has a number.
    pub fn role(&self, object: &ObjectRef, numbering: &Numbering) -> Role {
        let number = || numbering.get(Space::Rule, &rule_key(object, &self.path)).unwrap_or(weir_abi::RULE_NONE);
        match self.kind {
            ListKind::Allow => Role::Allow,
            kind => kind.role(number()),
        }
    }
}

const fn side(spec: &CidrFilterSpec) -> usize {
    match spec.matches {
        FilterMatch::Source => SIDE_SOURCE,
        FilterMatch::Destination => SIDE_DESTINATION,
    }
}

/// The groups of each filter, where these devices are endpoints'.
pub(crate) fn groups(
    objects: &Objects<'_>,
    node: &str,
    facts: &NodeFacts,
    endpoints: &BTreeSet<InterfaceName>,
) -> Result<Vec<u32>, Vec<CompileError>> {
    let settings = NodeSettings::new(objects, node);
    let endpoints = endpoints.iter().collect();
    let network = network_devices(&settings, facts, &endpoints, objects, &mut Vec::new()).map_err(|one| vec![*one])?;
    Ok(place(objects, facts, &network, settings.acceleration, &mut Vec::new())?.groups)
}

/// The tables of the prefilter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PrefilterTables {
    pub v4: Table<Prefix4, u32>,
    pub v6: Table<Prefix6, u32>,
    pub classes: Table<u32, PrefilterClass>,
    /// The object behind each class, sorted by class number.
    pub owners: Vec<(u32, ObjectId)>,
    /// Entries by object, for the message about a full table.
    pub counts: BTreeMap<ObjectId, usize>,
    /// Columns that some class fills.
    pub used_columns: [bool; CLASS_GROUPS * 2],
}

#[derive(Default)]
struct Prefixes {
    v4: Vec<(Prefix4, SourceId)>,
    v6: Vec<(Prefix6, SourceId)>,
}

impl Prefixes {
    fn extend(&mut self, nets: &[IpNet], source: SourceId) {
        for net in nets {
            match net {
                IpNet::V4(net) => self.v4.push((Prefix4::from(*net), source)),
                IpNet::V6(net) => self.v6.push((Prefix6::from(*net), source)),
            }
        }
    }
}

pub(crate) fn tables(
    objects: &Objects<'_>,
    node: &str,
    placement: &Placement,
    rules: &Rules,
    numbering: &mut Numbering,
    sequence: u64,
) -> Result<PrefilterTables, OutOfNumbers> {
    let ranges = objects.node(node).map_or(&[][..], |node| &node.spec.endpoint_cidrs);
    let mut columns = Vec::new();
    // Of a filter's two equal prefixes the source that comes later explains, and that is the rule of the lower rank.
    let mut drops: Vec<(std::cmp::Reverse<crate::rules::RuleRank>, Source, &[IpNet])> = Vec::new();
    let mut exceptions: Vec<(Source, &[IpNet])> = Vec::new();
    for (filter, (item, groups)) in objects.filters.iter().zip(&placement.groups).enumerate() {
        let spec = item.spec;
        columns.push(Columns { side: side(spec), groups: *groups });
        let filter = filter as u32;
        for list in lists(spec, ranges) {
            if list.kind == ListKind::Allow {
                exceptions.push((Source { filter, role: Role::Allow }, list.nets));
                continue;
            }
            let rank = rules.rank(item.id, &list.path);
            let role = list.kind.role(rules.number_of(rank));
            drops.push((std::cmp::Reverse(rank), Source { filter, role }, list.nets));
        }
    }
    drops.sort_by_key(|(rank, ..)| *rank);
    let sorted: Vec<(Source, &[IpNet])> =
        drops.into_iter().map(|(_, source, nets)| (source, nets)).chain(exceptions).collect();

    // Lists are mostly sorted, and often lie beside each other: in the order of what they begin with, all may be.
    let mut gathered: Vec<(&[IpNet], SourceId)> =
        sorted.iter().enumerate().map(|(index, (_, nets))| (*nets, index as SourceId)).collect();
    gathered.sort_by_key(|(nets, _)| nets.first());
    let mut prefixes = Prefixes::default();
    prefixes.v4.reserve(gathered.iter().map(|(nets, _)| nets.len()).sum());
    for (nets, source) in gathered {
        prefixes.extend(nets, source);
    }
    let sources: Vec<Source> = sorted.iter().map(|(source, _)| *source).collect();
    let mut sweep = Sweep::new(&columns, &sources);
    let v4 = sweep.run(prefixes.v4);
    let v6 = sweep.run(prefixes.v6);
    let found = sweep.into_classes();

    let objects_by_rule: BTreeMap<u32, ObjectId> = objects
        .filters
        .iter()
        .flat_map(|item| {
            let lists = item.spec.lists.iter().map(|list| &*list.rule_path);
            let unknown = item.spec.drop_unknown_destinations.then_some(UNKNOWN_DESTINATIONS);
            lists.chain(unknown).map(|path| (rules.number_of(rules.rank(item.id, path)), item.id))
        })
        .collect();
    number_classes(v4, v6, &found, &objects_by_rule, numbering, sequence)
}

/// Gives classes the numbers that they keep, in the order of their content.
fn number_classes(
    mut v4: Vec<(Prefix4, u32)>,
    mut v6: Vec<(Prefix6, u32)>,
    found: &[PrefilterClass],
    objects_by_rule: &BTreeMap<u32, ObjectId>,
    numbering: &mut Numbering,
    sequence: u64,
) -> Result<PrefilterTables, OutOfNumbers> {
    let mut uses = vec![0usize; found.len()];
    v4.iter().for_each(|(_, class)| uses[*class as usize] += 1);
    v6.iter().for_each(|(_, class)| uses[*class as usize] += 1);
    let mut order: Vec<usize> = (1..found.len()).filter(|class| uses[*class] > 0).collect();
    order.sort_unstable_by_key(|class| found[*class]);

    let mut this = PrefilterTables::default();
    let mut numbers = vec![0u32; found.len()];
    let mut classes = Vec::with_capacity(order.len());
    for class in order {
        let content = found[class];
        let number = numbering.assign(Space::Class, &class_key(&content), sequence)?;
        numbers[class] = number;
        classes.push((number, content));
        let mut owner = None;
        for (column, cell) in content.cells.iter().enumerate().filter(|(_, cell)| cell.action() != 0) {
            this.used_columns[column] = true;
            owner = owner.or_else(|| objects_by_rule.get(&cell.rule()).copied());
        }
        if let Some(owner) = owner {
            this.owners.push((number, owner));
            *this.counts.entry(owner).or_default() += uses[class];
        }
    }
    this.owners.sort_unstable();
    v4.iter_mut().for_each(|(_, class)| *class = numbers[*class as usize]);
    v6.iter_mut().for_each(|(_, class)| *class = numbers[*class as usize]);
    this.v4 = Table::from_sorted(v4).expect("a sweep gives ascending prefixes");
    this.v6 = Table::from_sorted(v6).expect("a sweep gives ascending prefixes");
    this.classes = Table::from_unsorted(classes);
    Ok(this)
}

/// A class is its content.
pub(crate) fn class_key(class: &PrefilterClass) -> String {
    let mut key = String::new();
    for (column, cell) in class.cells.iter().enumerate().filter(|(_, cell)| cell.action() != 0) {
        // Writing to a String cannot fail.
        let _ = write!(key, "{column}:{}:{} ", cell.action(), cell.rule());
    }
    key
}

/// What each filter lets through.
pub(crate) fn exception_owners(objects: &Objects<'_>) -> Table<(IpNet, ObjectRef), Owned> {
    let of = |item: &Item<'_, CidrFilterSpec>| {
        let (reference, owner) = (objects.reference(item.id).clone(), objects.owner(item.id));
        item.spec.exceptions.iter().map(move |net| ((*net, reference.clone()), owner.clone())).collect::<Vec<_>>()
    };
    objects.filters.iter().filter(|item| !item.spec.exceptions.is_empty()).flat_map(of).collect()
}
