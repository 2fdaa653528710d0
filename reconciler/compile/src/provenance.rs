//! Which object is behind an entry.
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use weir_plan::{AnyChange, Change, HookKey, InterfaceName, ObjectInfo, Prefix4, Prefix6, Provenance, RuleRef, Table};

use crate::objects::ObjectId;

/// The compiled set's answer to "who wants this entry".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    pub(crate) objects: Vec<ObjectInfo>,
    /// (number, rule, object), sorted by number.
    pub(crate) rules: Vec<(u32, RuleRef, ObjectId)>,
    /// (class, object), sorted by class.
    pub(crate) classes: Vec<(u32, ObjectId)>,
    /// Filters with exceptions, each with its exceptions sorted.
    pub(crate) exceptions: Arc<[(ObjectId, Vec<IpNet>)]>,
    pub(crate) ipcache4: Table<Prefix4, ObjectId>,
    pub(crate) ipcache6: Table<Prefix6, ObjectId>,
    pub(crate) subjects: Vec<(u32, ObjectId)>,
    pub(crate) endpoints: BTreeMap<IpAddr, ObjectId>,
    pub(crate) interfaces: BTreeMap<InterfaceName, ObjectId>,
    pub(crate) hooks: BTreeMap<HookKey, ObjectId>,
    pub(crate) devices: BTreeMap<InterfaceName, ObjectId>,
    pub(crate) settings: Option<ObjectId>,
}

fn find<K: Ord + Copy, V: Copy>(list: &[(K, V)], key: K) -> Option<V> {
    list.binary_search_by_key(&key, |(key, _)| *key).ok().map(|at| list[at].1)
}

/// The value on the side of the change that this provenance speaks for: the new one, or the one that goes.
fn value<K, V>(change: &Change<K, V>) -> Option<&V> {
    change.to.as_ref().or(change.from.as_ref())
}

impl Origins {
    /// Every rule with its number, ascending.
    pub fn rules(&self) -> impl Iterator<Item = (u32, &RuleRef)> {
        self.rules.iter().map(|(number, rule, _)| (*number, rule))
    }

    fn rule_entry(&self, rule: u32) -> Option<&(u32, RuleRef, ObjectId)> {
        self.rules.binary_search_by_key(&rule, |(number, ..)| *number).ok().map(|at| &self.rules[at])
    }

    fn prefilter(&self, class: Option<&u32>, net: impl Fn() -> IpNet) -> Option<ObjectId> {
        match class {
            Some(0) | None => {
                let net = net();
                self.exceptions.iter().find(|(_, nets)| nets.binary_search(&net).is_ok()).map(|(object, _)| *object)
            }
            Some(class) => find(&self.classes, *class),
        }
    }
}

impl Provenance for Origins {
    fn objects(&self) -> &[ObjectInfo] {
        &self.objects
    }

    fn owner(&self, change: &AnyChange<'_>) -> Option<usize> {
        let object = match change {
            AnyChange::Setting(_) => self.settings,
            AnyChange::Interface(change) => self.interfaces.get(&change.key).copied(),
            AnyChange::Endpoint(change) => self.endpoints.get(&change.key).copied(),
            AnyChange::Ipcache4(change) => self.ipcache4.get(&change.key).copied(),
            AnyChange::Ipcache6(change) => self.ipcache6.get(&change.key).copied(),
            AnyChange::Subject(change) => find(&self.subjects, change.key),
            AnyChange::Policy(change) => {
                value(change).and_then(|entry| self.rule_entry(entry.rule)).map(|(.., object)| *object)
            }
            AnyChange::Prefilter4(change) => self.prefilter(value(change), || change.key.to_ip_net()),
            AnyChange::Prefilter6(change) => self.prefilter(value(change), || change.key.to_ip_net()),
            AnyChange::Class(change) => find(&self.classes, change.key),
            AnyChange::Device(change) => self.devices.get(&change.key).copied(),
            AnyChange::Hook(change) => self.hooks.get(&change.key).copied(),
        };
        object.map(ObjectId::index)
    }

    fn rule(&self, rule: u32) -> Option<&RuleRef> {
        self.rule_entry(rule).map(|(_, rule, _)| rule)
    }
}
