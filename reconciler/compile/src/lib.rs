//! From objects to what one node's tables and hooks must hold, and where each entry comes from.
//!
//! [`compile`] takes the whole inventory, the facts of the node and the numbers given out so far, and gives
//! [`Compiled`]: the tables as values, the wiring, sizes, the objects that must wait, and the provenance of every
//! entry. The same input gives the same output, whatever the order of files or objects was.
//!
//! Pure: no file, socket, clock, thread or randomness. It knows no map, no program and no netlink; nothing here may
//! depend on what is live.
#![forbid(unsafe_code)]

mod assumed;
mod cidr_filter;
mod cidrs;
mod cilium_policy;
mod config;
mod delivery;
mod devices;
mod edit;
mod endpoint;
mod entries;
mod error;
mod flow_diff;
mod flow_test;
mod identities;
mod ipcache;
mod kubernetes_policy;
mod limits;
mod masquerade;
mod nodes;
mod objects;
mod peers;
mod policy;
mod ports;
mod prefilter;
mod provenance;
mod router;
mod rules;
mod selector;
mod service;
mod sockets;
mod state;
mod trace;
mod view;
mod wiring;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use weir_abi::{Settings, settings_flags};
use weir_plan::{Capacity, Delivery, NodeFacts, Numbering, OutOfNumbers, Pending, Table, Tables, Wiring};
use weir_schema::{EndpointSpec, Inventory, LocalDelivery, Object, Spec};

pub use assumed::{assumed_facts, nodes};
pub use edit::{Effort, compile_after};
pub use error::{CompileError, code};
pub use flow_diff::{BackendFate, ChangedFlow, Fate, FlowChange, Side, flow_changes};
pub use flow_test::{FlowCase, FlowCases, Untestable, WantedBackend};
pub use limits::Usage;
pub use objects::{changed, reference};
pub use provenance::Origins;
pub use provenance::key;
pub use service::{BackendView, FrontendView, ServiceView, Skipped};
pub use trace::{
    BackendTrace, Decision, Outcome, Party, PrefilterDecision, ServiceTrace, Trace, TraceError, TraceFlow,
    TraceVerdict, Who,
};
pub use view::EndpointView;

use crate::{
    cidrs::CidrIdentities,
    config::NodeSettings,
    endpoint::LocalEndpoints,
    identities::Identities,
    ipcache::Ipcache,
    nodes::NodeIdentities,
    objects::{Item, ObjectId, Objects},
    peers::Universe,
    policy::Policy,
    provenance::Owned,
    rules::Rules,
    service::Site,
    state::State,
    wiring::HookOwner,
};

/// What is compiled.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub inventory: &'a Inventory,
    /// Name of the node that it is compiled for.
    pub node: &'a str,
    pub facts: &'a NodeFacts,
    /// The commit that is being built.
    pub sequence: u64,
}

/// What the node must hold. Cheap to keep: versions share what they have in common.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub tables: Arc<Tables>,
    pub wiring: Wiring,
    pub capacity: Capacity,
    pub provenance: Arc<Origins>,
    /// Objects that cannot take effect yet.
    pub pending: Vec<Pending>,
    /// Services that nothing is balanced for, which is no fault of theirs. Sorted.
    pub skipped: Vec<Skipped>,
    pub usage: Vec<Usage>,
    /// Every identity that a table may name, by number, with its labels.
    pub identities: Table<u32, Arc<BTreeMap<String, String>>>,
    /// Sorted.
    pub host_addresses: Vec<IpAddr>,
    basis: Basis,
    /// What an edit starts from; made when first needed.
    state: OnceLock<Arc<State>>,
}

/// What was compiled.
#[derive(Clone, Debug)]
struct Basis {
    node: Arc<str>,
    facts: Arc<NodeFacts>,
    numbering: Numbering,
}

impl PartialEq for Compiled {
    fn eq(&self, other: &Self) -> bool {
        self.tables == other.tables
            && self.wiring == other.wiring
            && self.capacity == other.capacity
            && self.provenance == other.provenance
            && self.pending == other.pending
            && self.skipped == other.skipped
            && self.usage == other.usage
            && self.identities == other.identities
            && self.host_addresses == other.host_addresses
    }
}

impl Eq for Compiled {}

/// The network namespaces that this node's endpoints are in: what to ask the datapath for. Sorted.
pub fn netns_needed(inventory: &Inventory, node: &str) -> Vec<String> {
    netns_of(inventory.of_kind("weir", "Endpoint"), node)
}

fn netns_of(objects: impl Iterator<Item = Arc<Object>>, node: &str) -> Vec<String> {
    let mut list: Vec<String> = objects
        .filter_map(|object| match &object.spec {
            Spec::Endpoint(spec) if spec.node == node => spec.attach.netns.clone(),
            _ => None,
        })
        .collect();
    list.sort_unstable();
    list.dedup();
    list
}

/// What the tables that traffic fills will hold, as far as that is known before anything is compiled: all but rules.
pub fn capacity(inventory: &Inventory, node: &str) -> Capacity {
    let shaping: Vec<_> = inventory.of_kind("weir", "NodeConfig").chain(inventory.of_kind("weir", "Node")).collect();
    let settings = NodeSettings::new(&Objects::new(shaping.iter()), node);
    settings.capacity(&Numbering::default(), settings.masquerade.by.is_some(), false)
}

/// Compiles. On an error `numbering` may hold numbers that nothing uses: keep the one from before.
pub fn compile(input: &Input<'_>, numbering: &mut Numbering) -> Result<Compiled, Vec<CompileError>> {
    let Input { node, facts, sequence, .. } = *input;
    let all: Vec<_> = input.inventory.objects().collect();
    let one = |error: OutOfNumbers| vec![CompileError::from(error)];
    let objects = &Objects::new(all.iter());
    let settings = NodeSettings::new(objects, node);
    let mut pending = Vec::new();

    // Who is there.
    let endpoints = Identities::new(objects, node, numbering, sequence).map_err(one)?;
    let identity_of = |item: &Item<'_, EndpointSpec>| {
        let at = objects.endpoints.binary_search_by_key(&item.id, |one| one.id).ok()?;
        Some(endpoints.endpoints[endpoints.of_endpoint[at]? as usize].number)
    };
    let local =
        LocalEndpoints::new(objects, node, facts, identity_of, numbering, sequence, &mut pending).map_err(one)?;
    let host_addresses = nodes::host_addresses(objects, node, facts);
    let network = devices::network_devices(&settings, facts, &local.interfaces(), objects, &mut pending)
        .map_err(|error| vec![*error])?;

    // Which policies matter, and whom they name.
    let policies = policies(objects);
    let no_labels = BTreeMap::new();
    let node_labels = objects.node(node).map_or(&no_labels, |item| &item.metadata.labels);
    let enforced = entries::enforced(&policies, &endpoints, node_labels);
    let tells_nodes_apart = enforced.iter().any(|one| one.policy.rules.iter().any(|rule| !rule.peers.nodes.is_empty()));
    let nodes = NodeIdentities::new(objects, node, tells_nodes_apart, numbering, sequence).map_err(one)?;
    let mentioned = ipcache::mentioned(&enforced);
    let cidrs =
        CidrIdentities::new(mentioned.iter().map(|(selector, _)| selector), numbering, sequence).map_err(one)?;

    let placement = cidr_filter::place(objects, facts, &network, settings.acceleration, &mut pending)?;
    let mut keys = entries::rules(&enforced);
    keys.extend(cidr_filter::rules(objects));
    let rules = Rules::number(keys, objects, numbering, sequence).map_err(one)?;

    // The tables.
    let universe = Universe { endpoints: &endpoints, nodes: &nodes, cidrs: &cidrs };
    let host_ports = nodes::host_endpoint(objects, node).map_or(&[][..], |item| &item.spec.ports);
    let policy = entries::tables(&enforced, &universe, &rules, host_ports, settings.limits.policy_total as usize);
    let ipcache = Ipcache::new(objects, node, &host_addresses, &endpoints, &nodes, &cidrs, &mentioned);
    let prefilter = cidr_filter::tables(objects, node, &placement, &rules, numbering, sequence).map_err(one)?;
    let host_policy = entries::host_policy(&enforced);
    let edge = service::edge(all.iter()).and_then(|object| objects.id(&object));
    let at_the_edge = HookOwner::at_the_edge(host_policy.is_some(), edge.is_some(), settings.masquerade.by);
    let mut wired = wiring::wire(
        &local,
        &placement,
        &prefilter.used_columns,
        &network,
        at_the_edge,
        &settings,
        settings.tc_attach(facts),
    );
    let by_address = local.by_address(&host_addresses);

    let owned = |owner: ObjectId| objects.owner(owner);
    let hook_owner = |owner: HookOwner| match owner {
        HookOwner::Object(object) => Some(owned(object)),
        HookOwner::HostPolicy => host_policy.map(owned),
        HookOwner::EdgeService => edge.map(owned),
    };
    let mut provenance = Origins {
        inventory: input.inventory.clone(),
        rules: rules.by_number(objects),
        classes: prefilter.owners.iter().map(|(class, owner)| (*class, owned(*owner))).collect(),
        exceptions: cidr_filter::exception_owners(objects),
        ipcache4: ipcache_owners(&ipcache.v4, &ipcache.owners4, objects),
        ipcache6: ipcache_owners(&ipcache.v6, &ipcache.owners6, objects),
        subjects: policy.owners.iter().map(|(subject, owner)| (*subject, owned(*owner))).collect(),
        endpoints: by_address.iter().filter_map(|(address, (_, owner))| Some((*address, owned((*owner)?)))).collect(),
        interfaces: wired
            .interface_owners
            .iter()
            .filter_map(|(name, owner)| Some((name.clone(), hook_owner(*owner)?)))
            .collect(),
        hooks: wired.owners.iter().filter_map(|(key, owner)| Some((key.clone(), hook_owner(*owner)?))).collect(),
        devices: wired.device_owners.iter().map(|(name, object)| (name.clone(), owned(*object))).collect(),
        local: local.by_number().map(|(number, owner)| (number, owned(owner))).collect(),
        settings: settings.object.map(owned),
        services: Table::new(),
        service_addresses: Table::new(),
    };
    let host_only: Vec<IpAddr> = host_addresses.iter().map(|(address, _)| *address).collect();
    let site = Site { node, host_addresses: &host_only, is_local: &|address| by_address.contains_key(&address) };
    let services = service::Whole::new(all.iter(), &site, numbering, sequence).map_err(one)?;
    let is_taken = |address: IpAddr| host_only.binary_search(&address).is_ok() || provenance.is_somebodys(address);
    let (frontends, service_addresses) = (services.frontends(is_taken), services.addresses(is_taken));
    provenance.services = services.owners();
    provenance.service_addresses = service_addresses.into_iter().collect();
    let exempt = settings.masquerade.prefixes(objects);
    let mut own_settings = table_settings(&settings, &local, host_policy.is_some(), !frontends.is_empty());
    masquerade::note(&mut own_settings, &exempt);
    let first = services.first().filter(|_| settings.socket_load_balancing);
    let on = sockets::wire(first, facts, &mut wired.wiring, &mut provenance.hooks, &mut pending);
    sockets::note(&mut own_settings, on, &host_only);
    let tables = Tables {
        settings: [(0, own_settings)].into_iter().collect(),
        interfaces: wired.interfaces,
        endpoints: by_address.iter().map(|(address, (info, _))| (*address, *info)).collect(),
        ipcache4: ipcache.v4.clone(),
        ipcache6: ipcache.v6.clone(),
        subjects: policy.subjects.clone(),
        policy: policy.policy.clone(),
        prefilter4: prefilter.v4.clone(),
        prefilter6: prefilter.v6.clone(),
        classes: prefilter.classes.clone(),
        frontends,
        services: services.services(),
        backends: services.backends(),
        source_ranges: services.source_ranges().iter().copied().chain(exempt.iter().map(|key| (*key, 1))).collect(),
    };
    let filled = limits::Filled {
        policy: &policy,
        prefilter: &prefilter,
        ipcache: &ipcache,
        endpoints: &by_address,
        rules: &rules,
        services: &provenance,
    };
    let usage = limits::check(&settings.limits, &tables, &filled, objects)?;
    let serves = !tables.services.is_empty();
    sort_pending(&mut pending);
    numbering.release_unseen(sequence);
    Ok(Compiled {
        capacity: settings.capacity(numbering, edge.is_some() || settings.masquerade.by.is_some(), serves),
        identities: view::identities(&endpoints, &nodes, &cidrs),
        tables: Arc::new(tables),
        wiring: wired.wiring,
        provenance: Arc::new(provenance),
        pending,
        skipped: services.skipped,
        usage,
        host_addresses: host_only,
        basis: Basis { node: node.into(), facts: Arc::new(facts.clone()), numbering: numbering.clone() },
        state: OnceLock::new(),
    })
}

fn sort_pending(pending: &mut [Pending]) {
    pending.sort_by(|a, b| (&a.object, a.code, &a.message).cmp(&(&b.object, b.code, &b.message)));
}

impl Compiled {
    /// What an edit starts from. Making it takes about as long as compiling did; it is made once.
    fn state(&self) -> Result<Arc<State>, Vec<CompileError>> {
        if let Some(state) = self.state.get() {
            return Ok(Arc::clone(state));
        }
        let state = Arc::new(State::new(self)?);
        Ok(Arc::clone(self.state.get_or_init(|| state)))
    }

    /// [`netns_needed`] for a set that differs from this one.
    pub fn netns_after(&self, inventory: &Inventory) -> Vec<String> {
        let changes = self.provenance.inventory.changes_to(inventory);
        let is_own =
            |object: &Arc<Object>| matches!(&object.spec, Spec::Endpoint(spec) if *spec.node == *self.basis.node);
        let replaced = changes.replaced().flat_map(|(from, to)| [from, to]);
        let moved = changes.added().chain(changes.removed()).chain(replaced).any(|object| is_own(&object));
        if moved {
            let Some(state) = self.state.get() else { return netns_needed(inventory, &self.basis.node) };
            let mut own = state.shape.clone();
            changes.removed().for_each(|object| drop(own.remove(&reference(&object))));
            let now = changes.added().chain(changes.replaced().map(|(_, to)| to));
            now.for_each(|object| drop(own.insert(reference(&object), object)));
            return netns_of(own.iter().map(|(_, object)| Arc::clone(object)), &self.basis.node);
        }
        self.basis.facts.netns.iter().map(|netns| netns.netns.clone()).collect()
    }

    /// Makes ready for an edit, in a moment when nobody waits. Whether it was not yet.
    pub fn warm(&self) -> bool {
        let cold = self.state.get().is_none();
        // What cannot be made ready is compiled whole when it is needed, and says why.
        let _ = self.state();
        cold
    }
}

/// Every policy of every kind in one form, in the order of the objects.
fn policies(objects: &Objects<'_>) -> Vec<Policy> {
    let mut list = Vec::new();
    for item in &objects.policies {
        list.extend(cilium_policy::policies(item, Some(&Arc::from(item.metadata.namespace.as_str()))));
    }
    for item in &objects.clusterwide_policies {
        list.extend(cilium_policy::policies(item, None));
    }
    for item in &objects.kubernetes_policies {
        list.push(kubernetes_policy::policy(item, &Arc::from(item.metadata.namespace.as_str())));
    }
    list.sort_by_key(|policy| policy.object);
    list
}

fn ipcache_owners<P: Ord + Copy>(
    table: &Table<P, u32>,
    owners: &[Option<ObjectId>],
    objects: &Objects<'_>,
) -> Table<P, Owned> {
    table.iter().zip(owners).filter_map(|((prefix, _), owner)| Some((*prefix, objects.owner((*owner)?)))).collect()
}

fn table_settings(settings: &NodeSettings, local: &LocalEndpoints, host_policy: bool, services: bool) -> Settings {
    let mut flags = 0;
    if host_policy {
        flags |= settings_flags::HOST_POLICY;
    }
    if services {
        flags |= settings_flags::SERVICES;
    }
    if local.host.object.is_some() {
        flags |= settings_flags::HOST_ENDPOINT;
    }
    let delivers = |endpoint: &endpoint::LocalEndpoint| endpoint.delivery != Delivery::Stack;
    if settings.local_delivery == LocalDelivery::Redirect && local.endpoints.iter().any(delivers) {
        flags |= settings_flags::DELIVER;
    }
    if settings.masquerade.by.is_some() {
        flags |= settings_flags::MASQUERADE;
    }
    if settings.acceleration.is_some() {
        flags |= settings_flags::XDP_BALANCER;
    }
    let defaults = Settings::default();
    let (nat_first_port, nat_last_port) =
        settings.masquerade.ports.unwrap_or((defaults.nat_first_port, defaults.nat_last_port));
    Settings {
        flags,
        nat_first_port,
        nat_last_port,
        host_incarnation: local.host.incarnation,
        tcp_syn: settings.tcp_syn,
        tcp_established: settings.tcp_established,
        tcp_closing: settings.tcp_closing,
        other: settings.other,
        ..defaults
    }
}
