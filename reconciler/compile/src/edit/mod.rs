//! A set that differs in a few objects from one that was compiled: only what depends on them is compiled again, and the
//! result is what compiling the whole would give.
//!
//! What decides about a whole node (its configuration, its own `Node`, namespaces, the host's endpoint, other facts)
//! is compiled whole, and so is a set of which a large part changed.
mod endpoints;
mod filters;
mod policies;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use weir_abi::identity;
use weir_plan::{Numbering, ObjectRef, OutOfNumbers, Pending, Prefix4, Prefix6, Tables};
use weir_schema::{Object, Spec};

use crate::{
    Basis, Compiled, Input, cidr_filter,
    config::NodeSettings,
    devices,
    endpoint::LocalEndpoints,
    error::CompileError,
    identities::endpoint_key,
    limits, nodes,
    objects::{Difference, Objects, reference},
    provenance::{Origins, Owned},
    service, sockets,
    state::{ClaimKey, Contests, State, strength},
    table_settings, wiring,
};

/// What compiling cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Objects that were compiled.
    pub objects: usize,
    /// The whole set was.
    pub whole: bool,
}

/// Compiles `input` from what was compiled before. On an error `numbering` may hold numbers that nothing uses: keep the
/// one from before.
///
/// `numbering` must be the one that compiling `former` left, or a later one.
pub fn compile_after(
    former: &Compiled,
    input: &Input<'_>,
    numbering: &mut Numbering,
) -> Result<(Compiled, Effort), Vec<CompileError>> {
    let whole = |numbering: &mut Numbering| {
        let objects = input.inventory.len();
        Ok((crate::compile(input, numbering)?, Effort { objects, whole: true }))
    };
    if *former.basis.node != *input.node || *former.basis.facts != *input.facts {
        return whole(numbering);
    }
    let changes = former.provenance.inventory.changes_to(input.inventory);
    if changes.len() > input.inventory.len() / 8 + SMALL {
        return whole(numbering);
    }
    let differences = crate::objects::differences(&changes);
    let before = numbering.clone();
    let state = former.state()?;
    let mut edit = Edit {
        input,
        numbering,
        state: State::clone(&state),
        tables: Tables::clone(&former.tables),
        origins: Origins { inventory: input.inventory.clone(), ..Origins::clone(&former.provenance) },
        identities: former.identities.clone(),
        gone: BTreeSet::new(),
        new: BTreeSet::new(),
        dirty: BTreeSet::new(),
        services: BTreeMap::new(),
        unserved: BTreeSet::new(),
        touched: BTreeSet::new(),
        rewire: false,
    };
    match edit.run(&differences) {
        Ok(()) => {}
        Err(Stop::Whole) => {
            *numbering = before;
            return whole(numbering);
        }
        Err(Stop::Numbers(error)) => return Err(vec![error.into()]),
    }
    let Some(compiled) = edit.finish(former)? else {
        // A limit is exceeded, or something of the kind: the whole says which.
        *numbering = before;
        return whole(numbering);
    };
    Ok((compiled, Effort { objects: differences.len(), whole: false }))
}

/// So few objects are always worth an edit.
const SMALL: usize = 16;

/// Why an edit does not go on.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// The whole set must be compiled.
    Whole,
    Numbers(OutOfNumbers),
}

impl From<OutOfNumbers> for Stop {
    fn from(error: OutOfNumbers) -> Self {
        Self::Numbers(error)
    }
}

struct Edit<'e, 'i> {
    input: &'e Input<'i>,
    numbering: &'e mut Numbering,
    state: State,
    tables: Tables,
    origins: Origins,
    identities: weir_plan::Table<u32, Arc<BTreeMap<String, String>>>,
    /// Peers that are no more, and those that were not before.
    gone: BTreeSet<u32>,
    new: BTreeSet<u32>,
    /// Subjects whose policies changed.
    dirty: BTreeSet<u32>,
    /// Services that changed, with what they are now.
    services: BTreeMap<ObjectRef, Option<Arc<Object>>>,
    /// Those that must be made anew.
    unserved: BTreeSet<ObjectRef>,
    /// Addresses that came to somebody, or went.
    touched: BTreeSet<IpAddr>,
    /// Devices and hooks must be looked at.
    rewire: bool,
}

impl Edit<'_, '_> {
    fn run(&mut self, differences: &[Difference]) -> Result<(), Stop> {
        let (mut filters, mut endpoints, mut policies) = (Vec::new(), Vec::new(), Vec::new());
        for difference in differences {
            let (from, to) = difference;
            let Some(object) = to.as_ref().or(from.as_ref()) else { continue };
            match &object.spec {
                Spec::CidrFilter(_) => filters.push(difference),
                Spec::Endpoint(_) if [from, to].into_iter().flatten().any(|object| is_host(object)) => {
                    return Err(Stop::Whole);
                }
                Spec::Endpoint(_) if !self.is_spared(difference) => return Err(Stop::Whole),
                Spec::Endpoint(_) => endpoints.push(difference),
                Spec::NetworkPolicy(_) | Spec::ClusterwideNetworkPolicy(_) | Spec::KubernetesNetworkPolicy(_) => {
                    policies.push(difference);
                }
                Spec::Node(_)
                    if object.metadata.name != self.input.node
                        && self.state.told_apart == 0
                        && self.state.settings.masquerade.by.is_none() =>
                {
                    self.remote_node(difference);
                }
                // It fills no table.
                Spec::FlowTest(_) => {}
                Spec::Service(_) | Spec::KubernetesService(_) | Spec::EndpointSlice(_) => {}
                _ => return Err(Stop::Whole),
            }
        }
        let (host, told_apart) = (self.host_policy(), self.state.told_apart > 0);
        self.endpoints(&endpoints)?;
        self.policies(&policies)?;
        if told_apart != (self.state.told_apart > 0) {
            // Nodes have identities, or have none any more.
            return Err(Stop::Whole);
        }
        self.filters(&filters)?;
        self.changed_services(differences)?;
        self.rewire |= host != self.host_policy();
        Ok(())
    }

    /// Whether an endpoint's addresses, as they were and are, need no entry among those that nothing is masqueraded to.
    fn is_spared(&self, (from, to): &Difference) -> bool {
        let addresses = [from, to].into_iter().flatten().flat_map(|object| match &object.spec {
            Spec::Endpoint(spec) => spec.addresses.clone(),
            _ => Vec::new(),
        });
        addresses.into_iter().all(|address| self.state.settings.masquerade.covers(address))
    }

    fn sequence(&self) -> u64 {
        self.input.sequence
    }

    /// The first policy that selects the host.
    fn host_policy(&self) -> Option<ObjectRef> {
        self.state.subjects.get(&identity::HOST)?.policies.first().map(|(object, _)| object.clone())
    }

    fn remote_node(&mut self, (from, to): &Difference) {
        let addresses = |object: &Option<Arc<Object>>| match object.as_ref().map(|object| &object.spec) {
            Some(Spec::Node(spec)) => spec.addresses.clone(),
            _ => Vec::new(),
        };
        if let Some(from) = from {
            for address in addresses(&Some(Arc::clone(from))) {
                self.unclaim(address, strength::REMOTE_NODE, Some(reference(from)));
            }
        }
        if let Some(to) = to {
            for address in addresses(&Some(Arc::clone(to))) {
                let owner = Owned::of(to);
                self.claim(address, strength::REMOTE_NODE, Some(reference(to)), identity::REMOTE_NODE, Some(owner));
            }
        }
    }

    fn claim(&mut self, address: IpAddr, strength: u8, object: Option<ObjectRef>, number: u32, owner: Option<Owned>) {
        let node = self.input.node;
        match address {
            IpAddr::V4(address) => {
                let prefix = Prefix4::host(address);
                let (table, owners) = (&mut self.tables.ipcache4, &mut self.origins.ipcache4);
                Addresses { table, owners, contests: &mut self.state.contests4, node }.claim(
                    (prefix, strength, object),
                    number,
                    owner,
                );
            }
            IpAddr::V6(address) => {
                let prefix = Prefix6::host(address);
                let (table, owners) = (&mut self.tables.ipcache6, &mut self.origins.ipcache6);
                Addresses { table, owners, contests: &mut self.state.contests6, node }.claim(
                    (prefix, strength, object),
                    number,
                    owner,
                );
            }
        }
    }

    fn unclaim(&mut self, address: IpAddr, strength: u8, object: Option<ObjectRef>) {
        let node = self.input.node;
        match address {
            IpAddr::V4(address) => {
                let (table, owners) = (&mut self.tables.ipcache4, &mut self.origins.ipcache4);
                Addresses { table, owners, contests: &mut self.state.contests4, node }.unclaim(&(
                    Prefix4::host(address),
                    strength,
                    object,
                ));
            }
            IpAddr::V6(address) => {
                let (table, owners) = (&mut self.tables.ipcache6, &mut self.origins.ipcache6);
                Addresses { table, owners, contests: &mut self.state.contests6, node }.unclaim(&(
                    Prefix6::host(address),
                    strength,
                    object,
                ));
            }
        }
    }

    /// `None`: the whole must say what is wrong.
    fn finish(mut self, former: &Compiled) -> Result<Option<Compiled>, Vec<CompileError>> {
        let mut wiring = former.wiring.clone();
        let mut pending = former.pending.clone();
        if self.rewire {
            let Some(found) = self.rewired(&mut wiring) else { return Ok(None) };
            pending = found;
        }
        let skipped = match self.serve(former) {
            Ok(Some(skipped)) => skipped,
            Ok(None) | Err(Stop::Whole) => return Ok(None),
            Err(Stop::Numbers(error)) => return Err(vec![error.into()]),
        };
        let Self { numbering, state, mut tables, mut origins, identities, .. } = self;
        let first = service::first(&state.services.standing).filter(|_| state.settings.socket_load_balancing);
        let on = sockets::wire(first, self.input.facts, &mut wiring, &mut origins.hooks, &mut pending);
        crate::sort_pending(&mut pending);
        if let Some((_, settings)) = tables.settings.first() {
            let mut noted = *settings;
            sockets::note(&mut noted, on, &former.host_addresses);
            if noted != *settings {
                tables.settings.insert(0, noted);
            }
        }
        let per_identity = state.settings.limits.policy_per_identity;
        let usage = limits::usage(&state.settings.limits, &tables);
        if usage.iter().any(|one| one.used > one.limit)
            || state.subjects.iter().any(|(_, subject)| subject.entries > per_identity)
        {
            return Ok(None);
        }
        Ok(Some(Compiled {
            capacity: state.settings.capacity(
                numbering,
                !state.services.edge.is_empty() || state.settings.masquerade.by.is_some(),
                !tables.services.is_empty(),
            ),
            tables: Arc::new(tables),
            wiring,
            provenance: Arc::new(origins),
            pending,
            skipped,
            usage,
            identities,
            host_addresses: former.host_addresses.clone(),
            basis: Basis {
                node: Arc::clone(&former.basis.node),
                facts: Arc::clone(&former.basis.facts),
                numbering: numbering.clone(),
            },
            state: Arc::new(state).into(),
        }))
    }

    /// Devices, hooks, and the tables that speak of them, from the node's own objects. `None`: not possible.
    fn rewired(&mut self, wiring: &mut weir_plan::Wiring) -> Option<Vec<Pending>> {
        let Input { node, facts, sequence, .. } = *self.input;
        let all: Vec<Arc<Object>> =
            self.state.shape.iter().chain(&self.state.filters).map(|(_, object)| Arc::clone(object)).collect();
        let objects = &Objects::new(all.iter());
        let mut pending = Vec::new();
        let settings = NodeSettings::new(objects, node);
        let identity_of = |item: &crate::objects::Item<'_, weir_schema::EndpointSpec>| {
            let key: Arc<str> = endpoint_key(item.metadata, item.spec).into();
            self.state.peers.identities.get(&key).map(|state| state.number)
        };
        let local =
            LocalEndpoints::new(objects, node, facts, identity_of, self.numbering, sequence, &mut pending).ok()?;
        let host_addresses = nodes::host_addresses(objects, node, facts);
        let network = devices::network_devices(&settings, facts, &local.interfaces(), objects, &mut pending).ok()?;
        let placement = cidr_filter::place(objects, facts, &network, settings.acceleration, &mut pending).ok()?;
        let host_policy = self.host_policy().and_then(|object| self.state.policies.from_key(&(object, 0)).next());
        let host_owner = host_policy.map(|(_, policy)| policy.owner.clone());
        let edge = self.edge_service().map(Owned::named);
        let wired = wiring::wire(
            &local,
            &placement,
            &self.state.prefilter.used_columns,
            &network,
            wiring::HookOwner::at_the_edge(host_owner.is_some(), edge.is_some(), settings.masquerade.by),
            &settings,
            settings.tc_attach(facts),
        );
        let by_address = local.by_address(&host_addresses);
        let owned = |owner: wiring::HookOwner| match owner {
            wiring::HookOwner::Object(object) => Some(objects.owner(object)),
            wiring::HookOwner::HostPolicy => host_owner.clone(),
            wiring::HookOwner::EdgeService => edge.clone(),
        };
        self.origins.endpoints =
            by_address.iter().filter_map(|(address, (_, owner))| Some((*address, objects.owner((*owner)?)))).collect();
        self.origins.interfaces =
            wired.interface_owners.iter().filter_map(|(name, owner)| Some((name.clone(), owned(*owner)?))).collect();
        self.origins.hooks =
            wired.owners.iter().filter_map(|(key, owner)| Some((key.clone(), owned(*owner)?))).collect();
        self.origins.devices =
            wired.device_owners.iter().map(|(name, object)| (name.clone(), objects.owner(*object))).collect();
        self.origins.local = local.by_number().map(|(number, owner)| (number, objects.owner(owner))).collect();
        let endpoints = by_address.iter().map(|(address, (info, _))| (*address, *info)).collect();
        replace(&mut self.tables.endpoints, endpoints);
        replace(&mut self.tables.interfaces, wired.interfaces);
        let mut settings = table_settings(&settings, &local, host_owner.is_some(), !self.tables.frontends.is_empty());
        if let Some((_, former)) = self.tables.settings.first() {
            (settings.exempt_v4, settings.exempt_v6) = (former.exempt_v4, former.exempt_v6);
        }
        replace(&mut self.tables.settings, [(0, settings)].into_iter().collect());
        *wiring = wired.wiring;
        crate::sort_pending(&mut pending);
        Some(pending)
    }
}

/// Keeps what both have in common shared.
fn replace<K: Ord + Clone, V: Clone + PartialEq>(table: &mut weir_plan::Table<K, V>, to: weir_plan::Table<K, V>) {
    let changes = table.diff(&to);
    table.apply(&changes);
}

fn is_host(object: &Object) -> bool {
    matches!(&object.spec, Spec::Endpoint(spec) if spec.attach.host.is_some())
}

/// The ipcache of one family.
struct Addresses<'t, P> {
    table: &'t mut weir_plan::Table<P, u32>,
    owners: &'t mut weir_plan::Table<P, Owned>,
    contests: &'t mut Contests<P>,
    node: &'t str,
}

impl<P: Ord + Copy> Addresses<'_, P> {
    fn claim(&mut self, key: ClaimKey<P>, number: u32, owner: Option<Owned>) {
        let prefix = key.0;
        let Some(former) = self.table.get(&prefix).copied() else {
            self.put(prefix, number, owner);
            return;
        };
        if self.all(prefix).next().is_none() {
            let holder = self.owners.get(&prefix).cloned();
            let (strength, object) = self.standing(holder.as_ref());
            if (strength, &object) == (key.1, &key.2) {
                self.put(prefix, number, owner);
                return;
            }
            self.contests.insert((prefix, strength, object), (former, holder));
        }
        self.contests.insert(key, (number, owner));
        self.decide(prefix);
    }

    fn unclaim(&mut self, key: &ClaimKey<P>) {
        let prefix = key.0;
        if self.contests.remove(key).is_some() {
            self.decide(prefix);
            let left: Vec<ClaimKey<P>> = self.all(prefix).map(|(key, _)| key.clone()).collect();
            if let [alone] = left.as_slice() {
                self.contests.remove(alone);
            }
        } else if self.all(prefix).next().is_none() {
            self.table.remove(&prefix);
            self.owners.remove(&prefix);
        }
    }

    fn all(&self, prefix: P) -> impl Iterator<Item = &(ClaimKey<P>, (u32, Option<Owned>))> {
        self.contests.from_key(&(prefix, 0, None)).take_while(move |((claimed, ..), _)| *claimed == prefix)
    }

    /// The strongest has it.
    fn decide(&mut self, prefix: P) {
        let strongest = self.all(prefix).last().map(|(_, (number, owner))| (*number, owner.clone()));
        match strongest {
            Some((number, owner)) => self.put(prefix, number, owner),
            None => {
                self.table.remove(&prefix);
                self.owners.remove(&prefix);
            }
        }
    }

    fn put(&mut self, prefix: P, number: u32, owner: Option<Owned>) {
        if self.table.get(&prefix) != Some(&number) {
            self.table.insert(prefix, number);
        }
        match owner {
            Some(owner) => drop(self.owners.insert(prefix, owner)),
            None => drop(self.owners.remove(&prefix)),
        }
    }

    /// How the only one who claims an address does so.
    fn standing(&self, owner: Option<&Owned>) -> (u8, Option<ObjectRef>) {
        let Some(owner) = owner else { return (strength::HOST, None) };
        let object = || Some(owner.0.reference.clone());
        match (&*owner.0.reference.kind, owner.0.host_of.as_deref()) {
            ("Endpoint", None) => (strength::ENDPOINT, object()),
            ("Endpoint", Some(node)) if node == self.node => (strength::HOST, None),
            ("Endpoint", Some(_)) => (strength::REMOTE_HOST, object()),
            ("Node", _) if *owner.0.reference.name == *self.node => (strength::HOST, None),
            ("Node", _) => (strength::REMOTE_NODE, object()),
            _ => (strength::CIDR, None),
        }
    }
}
