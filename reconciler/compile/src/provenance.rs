//! Which object is behind an entry.
use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use weir_abi::{FrontendInfo, FrontendKey};
use weir_plan::{
    AnyChange, Change, HookKey, InterfaceName, ObjectRef, Owner, Prefix4, Prefix6, Provenance, RuleRef, Table, ip_of,
};
use weir_schema::{Inventory, Object, ObjectKey, Spec};

use crate::objects::reference;

/// An object as the owner of entries: its name and what it is, not what it says.
#[derive(Clone)]
pub(crate) struct Owned(pub Arc<Head>);

pub(crate) struct Head {
    pub reference: ObjectRef,
    /// Of an endpoint that stands for a host: which node's.
    pub host_of: Option<Arc<str>>,
}

impl Owned {
    pub fn new(reference: ObjectRef, object: &Object) -> Self {
        let host_of = match &object.spec {
            Spec::Endpoint(spec) if spec.attach.host.is_some() => Some(spec.node.as_str().into()),
            _ => None,
        };
        Self(Arc::new(Head { reference, host_of }))
    }

    /// Of an object that is no endpoint.
    pub fn named(reference: ObjectRef) -> Self {
        Self(Arc::new(Head { reference, host_of: None }))
    }

    pub fn of(object: &Object) -> Self {
        Self::new(reference(object), object)
    }
}

impl PartialEq for Owned {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.reference == other.0.reference
    }
}

impl Eq for Owned {}

impl fmt::Debug for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.reference.fmt(f)
    }
}

impl Owner for Owned {
    fn token(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    fn reference(&self) -> ObjectRef {
        self.0.reference.clone()
    }
}

/// A rule that has a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleOrigin {
    pub rule: RuleRef,
    pub owner: Owned,
}

/// The compiled set's answer to "who wants this entry".
#[derive(Clone, Debug, Default)]
pub struct Origins {
    pub(crate) inventory: Inventory,
    pub(crate) rules: Table<u32, RuleOrigin>,
    pub(crate) classes: Table<u32, Owned>,
    /// What filters let through, with who says so.
    pub(crate) exceptions: Table<(IpNet, ObjectRef), Owned>,
    pub(crate) ipcache4: Table<Prefix4, Owned>,
    pub(crate) ipcache6: Table<Prefix6, Owned>,
    pub(crate) subjects: Table<u32, Owned>,
    pub(crate) endpoints: Table<IpAddr, Owned>,
    pub(crate) interfaces: Table<InterfaceName, Owned>,
    pub(crate) hooks: Table<HookKey, Owned>,
    pub(crate) devices: Table<InterfaceName, Owned>,
    /// Endpoints of this node by number.
    pub(crate) local: Table<u32, Owned>,
    pub(crate) settings: Option<Owned>,
    /// By number.
    pub(crate) services: Table<u32, Owned>,
    /// Addresses that are services' only: the first that has each.
    pub(crate) service_addresses: Table<IpAddr, Owned>,
}

/// All but where objects stand.
impl PartialEq for Origins {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
            && self.classes == other.classes
            && self.exceptions == other.exceptions
            && self.ipcache4 == other.ipcache4
            && self.ipcache6 == other.ipcache6
            && self.subjects == other.subjects
            && self.endpoints == other.endpoints
            && self.interfaces == other.interfaces
            && self.hooks == other.hooks
            && self.devices == other.devices
            && self.local == other.local
            && self.settings == other.settings
            && self.services == other.services
            && self.service_addresses == other.service_addresses
    }
}

impl Eq for Origins {}

/// The value on the side of the change that this provenance speaks for: the new one, or the one that goes.
fn value<K, V>(change: &Change<K, V>) -> Option<&V> {
    change.to.as_ref().or(change.from.as_ref())
}

impl Origins {
    /// Every rule with its number, ascending.
    pub fn rules(&self) -> impl Iterator<Item = (u32, &RuleRef)> {
        self.rules.iter().map(|(number, origin)| (*number, &origin.rule))
    }

    /// The numbers that stand for another rule than in `former`, or did not stand for any.
    pub fn rules_since(&self, former: &Self) -> Vec<u32> {
        let changes = former.rules.diff(&self.rules);
        changes.into_iter().filter(|change| change.to.is_some()).map(|change| change.key).collect()
    }

    /// The same without the objects themselves, for messages.
    pub fn without_places(&self) -> Self {
        Self { inventory: Inventory::default(), ..self.clone() }
    }

    fn prefilter(&self, class: Option<&u32>, net: impl Fn() -> IpNet) -> Option<&Owned> {
        match class {
            Some(0) | None => {
                let net = net();
                let nothing: Arc<str> = "".into();
                let first = ObjectRef {
                    api_version: nothing.clone(),
                    kind: nothing.clone(),
                    namespace: nothing.clone(),
                    name: nothing,
                };
                let ((found, _), owner) = self.exceptions.from_key(&(net, first)).next()?;
                (*found == net).then_some(owner)
            }
            Some(class) => self.classes.get(class),
        }
    }

    pub(crate) fn frontend(&self, key: &FrontendKey, info: Option<&FrontendInfo>) -> Option<&Owned> {
        match info?.service {
            0 => self.service_addresses.get(&ip_of(&key.address)),
            service => self.services.get(&service),
        }
    }

    fn owned(&self, change: &AnyChange<'_>) -> Option<&Owned> {
        match change {
            AnyChange::Setting(_) => self.settings.as_ref(),
            AnyChange::Interface(change) => self.interfaces.get(&change.key),
            AnyChange::Endpoint(change) => self.endpoints.get(&change.key),
            AnyChange::Ipcache4(change) => self.ipcache4.get(&change.key),
            AnyChange::Ipcache6(change) => self.ipcache6.get(&change.key),
            AnyChange::Subject(change) => self.subjects.get(&change.key),
            AnyChange::Policy(change) => self.rules.get(&value(change)?.rule).map(|origin| &origin.owner),
            AnyChange::Prefilter4(change) => self.prefilter(value(change), || change.key.to_ip_net()),
            AnyChange::Prefilter6(change) => self.prefilter(value(change), || change.key.to_ip_net()),
            AnyChange::Class(change) => self.classes.get(&change.key),
            AnyChange::Frontend(change) => self.frontend(&change.key, value(change)),
            AnyChange::Service(change) => self.services.get(&change.key),
            AnyChange::Backend(change) => self.services.get(&value(change)?.service),
            AnyChange::SourceRange(change) => self.services.get(&change.key.service),
            AnyChange::Device(change) => self.devices.get(&change.key),
            AnyChange::Hook(change) => self.hooks.get(&change.key),
        }
    }
}

impl Provenance for Origins {
    fn owner(&self, change: &AnyChange<'_>) -> Option<&dyn Owner> {
        self.owned(change).map(|owned| owned as &dyn Owner)
    }

    fn place(&self, object: &ObjectRef) -> Option<(Arc<str>, usize)> {
        let object = self.inventory.get(&key(object))?;
        Some((Arc::clone(&object.origin.path), object.origin.line))
    }

    fn rule(&self, rule: u32) -> Option<&RuleRef> {
        self.rules.get(&rule).map(|origin| &origin.rule)
    }
}

/// What an inventory knows the object by.
pub fn key(object: &ObjectRef) -> ObjectKey {
    ObjectKey {
        group: object.api_version.split_once('/').map_or("", |(group, _)| group).into(),
        kind: Arc::clone(&object.kind),
        namespace: Arc::clone(&object.namespace),
        name: Arc::clone(&object.name),
    }
}
