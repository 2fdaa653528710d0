//! Services as they stand in tables: those of a whole set, and what an edit needs to know of each.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use weir_abi::{BackendInfo, FrontendInfo, FrontendKey, SourceRangeKey, frontend_flags};
use weir_plan::{Numbering, ObjectRef, OutOfNumbers, Service, Space, Table, address_of, ip_of};
use weir_schema::{Object, Spec};

use super::{Built, Definition, Index, Site, Skipped, build};
use crate::{
    objects::reference,
    provenance::{Origins, Owned},
};

/// The services of a set.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    index: Index,
    standing: Vec<(ObjectRef, Arc<Standing>)>,
    built: Vec<Built>,
    pub skipped: Vec<Skipped>,
}

/// One object and what it fills tables with.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub object: Arc<Object>,
    pub owner: Owned,
    pub is_at_the_edge: bool,
    /// The addresses that it takes for itself.
    pub addresses: Vec<IpAddr>,
    pub placed: Vec<Placed>,
}

/// A service in the tables.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub number: u32,
    pub key: Arc<str>,
    pub frontends: Vec<FrontendKey>,
    pub backends: Vec<(IpAddr, u16, u32)>,
    pub ranges: Vec<SourceRangeKey>,
}

/// Two are the same only if they are one: whatever changes is made anew.
impl PartialEq for Standing {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Placed {
    pub fn of(built: &Built) -> Self {
        let backend = |(number, info): &(u32, BackendInfo)| (ip_of(&info.address), u16::from_be(info.port_be), *number);
        Self {
            number: built.number,
            key: Arc::clone(&built.key),
            frontends: built.frontends.iter().map(|(key, _)| *key).collect(),
            backends: built.backends.iter().map(backend).collect(),
            ranges: built.ranges.clone(),
        }
    }
}

impl Standing {
    pub fn new(object: &Arc<Object>, definition: &Definition<'_>, built: &[Built]) -> Self {
        let addresses: BTreeSet<IpAddr> = definition.addresses().collect();
        Self {
            object: Arc::clone(object),
            owner: Owned::of(object),
            is_at_the_edge: definition.is_at_the_edge(),
            addresses: addresses.into_iter().collect(),
            placed: built.iter().map(Placed::of).collect(),
        }
    }
}

/// What an edit starts from.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub index: Index,
    pub standing: Table<ObjectRef, Arc<Standing>>,
    /// Addresses that services take for themselves, and who does.
    pub claims: Table<(IpAddr, ObjectRef), ()>,
    /// Backends by address.
    pub at: Table<(IpAddr, u32), u32>,
    /// Services that clients outside reach.
    pub edge: Table<ObjectRef, ()>,
}

/// Whether services are among these objects: for most sets everything here is nothing.
fn is_service(object: &Object) -> bool {
    matches!(object.spec, Spec::Service(_) | Spec::KubernetesService(_))
}

/// The first service that packets from outside are to meet.
pub(crate) fn edge<'o>(objects: impl Iterator<Item = &'o Arc<Object>>) -> Option<ObjectRef> {
    let index = Index::default();
    let at_the_edge = |object: &&Arc<Object>| {
        is_service(object) && Definition::of(object, &index).is_some_and(|one| one.is_at_the_edge())
    };
    objects.filter(at_the_edge).map(|object| reference(object)).min()
}

/// The owner of the first that has a frontend.
pub(crate) fn first<'s>(standing: impl IntoIterator<Item = &'s (ObjectRef, Arc<Standing>)>) -> Option<&'s Owned> {
    let mut serving =
        standing.into_iter().filter(|(_, standing)| standing.placed.iter().any(|placed| !placed.frontends.is_empty()));
    serving.next().map(|(_, standing)| &standing.owner)
}

impl Whole {
    pub fn new<'o>(
        objects: impl Iterator<Item = &'o Arc<Object>> + Clone,
        site: &Site<'_>,
        numbering: &mut Numbering,
        sequence: u64,
    ) -> Result<Self, OutOfNumbers> {
        let mut services: Vec<(ObjectRef, &Arc<Object>)> =
            objects.clone().filter(|object| is_service(object)).map(|object| (reference(object), object)).collect();
        services.sort_by(|a, b| a.0.cmp(&b.0));
        let mut this = Self { index: Index::new(objects), ..Self::default() };
        let mut number = |space, key: &str| match space {
            Space::Incarnation => numbering.assign_anew(space, key, sequence),
            _ => numbering.assign(space, key, sequence),
        };
        for (reference, object) in services {
            let Some(definition) = Definition::of(object, &this.index) else { continue };
            if let Some(why) = &definition.skipped {
                this.skipped.push(Skipped { object: reference.clone(), why: why.clone() });
            }
            let built = build(&definition, &this.index, site, &mut number)?;
            let standing = Standing::new(object, &definition, &built);
            this.standing.push((reference, Arc::new(standing)));
            this.built.extend(built);
        }
        Ok(this)
    }

    /// Who owns what is there for all services.
    pub fn first(&self) -> Option<&Owned> {
        first(self.standing.iter())
    }

    pub fn frontends(&self, is_taken: impl Fn(IpAddr) -> bool) -> Table<FrontendKey, FrontendInfo> {
        let mut list: Vec<(FrontendKey, FrontendInfo)> =
            self.built.iter().flat_map(|one| one.frontends.iter().copied()).collect();
        // An address that a service names is its own before it is the node's.
        list.sort_by_key(|(key, info)| (*key, info.flags & frontend_flags::NODE_PORT));
        list.dedup_by_key(|(key, _)| *key);
        let addresses = self.addresses(is_taken);
        let alone = |address: IpAddr| (FrontendKey::of_address(address_of(address)), FrontendInfo::default());
        list.extend(addresses.keys().map(|address| alone(*address)));
        Table::from_unsorted(list)
    }

    /// The addresses that are services' only, with the first that has each.
    pub fn addresses(&self, is_taken: impl Fn(IpAddr) -> bool) -> BTreeMap<IpAddr, Owned> {
        let mut addresses = BTreeMap::new();
        for (_, standing) in &self.standing {
            for address in standing.addresses.iter().filter(|address| !is_taken(**address)) {
                addresses.entry(*address).or_insert_with(|| standing.owner.clone());
            }
        }
        addresses
    }

    pub fn services(&self) -> Table<u32, Service> {
        self.built.iter().map(|one| (one.number, one.service.clone())).collect()
    }

    pub fn backends(&self) -> Table<u32, BackendInfo> {
        Table::from_unsorted(self.built.iter().flat_map(|one| one.backends.iter().copied()).collect())
    }

    pub fn source_ranges(&self) -> Table<SourceRangeKey, u32> {
        self.built.iter().flat_map(|one| one.ranges.iter().map(|key| (*key, 1))).collect()
    }

    /// The object of each service.
    pub fn owners(&self) -> Table<u32, Owned> {
        let of = |(_, standing): &(ObjectRef, Arc<Standing>)| {
            standing.placed.iter().map(|one| (one.number, standing.owner.clone())).collect::<Vec<_>>()
        };
        self.standing.iter().flat_map(of).collect()
    }

    pub fn into_state(self) -> State {
        let mut state = State { index: self.index, ..State::default() };
        let (mut claims, mut at) = (Vec::new(), Vec::new());
        for (object, standing) in &self.standing {
            claims.extend(standing.addresses.iter().map(|address| ((*address, object.clone()), ())));
            for placed in &standing.placed {
                at.extend(placed.backends.iter().map(|(address, _, number)| ((*address, *number), placed.number)));
            }
        }
        state.claims = Table::from_unsorted(claims);
        state.at = Table::from_unsorted(at);
        let edge = self.standing.iter().filter(|(_, standing)| standing.is_at_the_edge);
        state.edge = edge.map(|(object, _)| (object.clone(), ())).collect();
        state.standing = self.standing.into_iter().collect();
        state
    }
}

impl Origins {
    /// Whether an address is a host's, a node's or an endpoint's, beside the host's own.
    pub(crate) fn is_somebodys(&self, address: IpAddr) -> bool {
        let owner = match address {
            IpAddr::V4(address) => self.ipcache4.get(&weir_plan::Prefix4::host(address)),
            IpAddr::V6(address) => self.ipcache6.get(&weir_plan::Prefix6::host(address)),
        };
        owner.is_some_and(|owner| matches!(&*owner.0.reference.kind, "Endpoint" | "Node"))
    }
}
