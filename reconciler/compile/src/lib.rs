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
mod devices;
mod endpoint;
mod entries;
mod error;
mod identities;
mod ipcache;
mod kubernetes_policy;
mod limits;
mod nodes;
mod objects;
mod peers;
mod policy;
mod ports;
mod prefilter;
mod provenance;
mod rules;
mod selector;
mod trace;
mod view;
mod wiring;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use weir_abi::{Settings, settings_flags};
use weir_plan::{Capacity, NodeFacts, Numbering, OutOfNumbers, Pending, Table, Tables, Wiring};
use weir_schema::{Inventory, Object, Spec};

pub use assumed::{assumed_facts, nodes};
pub use error::{CompileError, code};
pub use limits::Usage;
pub use provenance::Origins;
pub use trace::{Decision, Outcome, Party, PrefilterDecision, Trace, TraceError, TraceFlow, Who};
pub use view::{EndpointView, IdentityView};

use crate::{
    cidrs::CidrIdentities, config::NodeSettings, endpoint::LocalEndpoints, identities::Identities, ipcache::Ipcache,
    nodes::NodeIdentities, objects::Objects, peers::Universe, policy::Policy, rules::Rules,
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

/// What the node must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    pub tables: Arc<Tables>,
    pub wiring: Wiring,
    pub capacity: Capacity,
    pub provenance: Arc<Origins>,
    /// Objects that cannot take effect yet.
    pub pending: Vec<Pending>,
    pub usage: Vec<Usage>,
    /// Sorted by number.
    pub identities: Vec<IdentityView>,
    /// Every node's, sorted by object.
    pub endpoints: Vec<EndpointView>,
    /// Sorted.
    pub host_addresses: Vec<IpAddr>,
}

/// The network namespaces that this node's endpoints are in: what to ask the datapath for. Sorted.
pub fn netns_needed(inventory: &Inventory, node: &str) -> Vec<String> {
    let mut list: Vec<String> = inventory
        .objects()
        .filter_map(|object| match &object.spec {
            Spec::Endpoint(spec) if spec.node == node => spec.attach.netns.clone(),
            _ => None,
        })
        .collect();
    list.sort_unstable();
    list.dedup();
    list
}

/// Compiles. On an error `numbering` may hold numbers that nothing uses: keep the one from before.
pub fn compile(input: &Input<'_>, numbering: &mut Numbering) -> Result<Compiled, Vec<CompileError>> {
    compile_objects(input.inventory.objects(), input.node, input.facts, input.sequence, numbering)
}

fn compile_objects<'o>(
    objects: impl Iterator<Item = &'o Arc<Object>>,
    node: &str,
    facts: &NodeFacts,
    sequence: u64,
    numbering: &mut Numbering,
) -> Result<Compiled, Vec<CompileError>> {
    let one = |error: OutOfNumbers| vec![CompileError::from(error)];
    let objects = &Objects::new(objects);
    let settings = NodeSettings::new(objects, node);
    let mut pending = Vec::new();

    // Who is there.
    let endpoints = Identities::new(objects, node, numbering, sequence).map_err(one)?;
    let local =
        LocalEndpoints::new(objects, node, facts, &endpoints, numbering, sequence, &mut pending).map_err(one)?;
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

    let placement = cidr_filter::place(objects, facts, &network, &mut pending)?;
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
    let wired = wiring::wire(&local, &placement, &prefilter, &network, host_policy, settings.tc_attach(facts));
    let by_address = local.by_address(&host_addresses);

    let provenance = Origins {
        objects: objects.infos.clone(),
        rules: rules.by_number(objects),
        classes: prefilter.owners.clone(),
        exceptions: cidr_filter::exception_owners(objects),
        ipcache4: owned(&ipcache.v4, &ipcache.owners4),
        ipcache6: owned(&ipcache.v6, &ipcache.owners6),
        subjects: policy.owners.clone(),
        endpoints: by_address.iter().filter_map(|(address, (_, owner))| Some((*address, (*owner)?))).collect(),
        interfaces: wired.interface_owners.clone(),
        hooks: wired.owners.clone(),
        devices: local
            .endpoints
            .iter()
            .filter_map(|one| Some((one.device.as_ref().and(one.interface.clone())?, one.object)))
            .collect(),
        settings: settings.object,
    };
    let tables = Tables {
        settings: [(0, table_settings(&settings, &local, host_policy.is_some()))].into_iter().collect(),
        interfaces: wired.interfaces,
        endpoints: by_address.iter().map(|(address, (info, _))| (*address, *info)).collect(),
        ipcache4: ipcache.v4,
        ipcache6: ipcache.v6,
        subjects: policy.subjects.clone(),
        policy: policy.policy.clone(),
        prefilter4: prefilter.v4,
        prefilter6: prefilter.v6,
        classes: prefilter.classes,
    };
    let usage = limits::check(&settings.limits, &tables, &policy, &prefilter.counts, &provenance, objects)?;
    let host_addresses: Vec<IpAddr> = host_addresses.into_iter().map(|(address, _)| address).collect();
    pending.sort_by(|a, b| (&a.object, a.code, &a.message).cmp(&(&b.object, b.code, &b.message)));
    Ok(Compiled {
        capacity: settings.capacity(numbering),
        identities: view::identities(&endpoints, &nodes, &cidrs),
        endpoints: view::endpoints(objects, node, &endpoints, &nodes, &local, &host_addresses),
        tables: Arc::new(tables),
        wiring: wired.wiring,
        provenance: Arc::new(provenance),
        pending,
        usage,
        host_addresses,
    })
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

fn owned<P: Ord + Copy>(table: &Table<P, u32>, owners: &[Option<objects::ObjectId>]) -> Table<P, objects::ObjectId> {
    table.iter().zip(owners).filter_map(|((prefix, _), owner)| Some((*prefix, (*owner)?))).collect()
}

fn table_settings(settings: &NodeSettings, local: &LocalEndpoints, host_policy: bool) -> Settings {
    let mut flags = 0;
    if host_policy {
        flags |= settings_flags::HOST_POLICY;
    }
    if local.host.object.is_some() {
        flags |= settings_flags::HOST_ENDPOINT;
    }
    Settings {
        flags,
        host_incarnation: local.host.incarnation,
        tcp_syn: settings.tcp_syn,
        tcp_established: settings.tcp_established,
        tcp_closing: settings.tcp_closing,
        other: settings.other,
        ..Settings::default()
    }
}
