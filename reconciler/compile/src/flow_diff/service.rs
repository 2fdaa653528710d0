//! What services make of flows, and policies behind them.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use weir_abi::{
    DIRECTION_EGRESS, DIRECTION_INGRESS, FrontendInfo, FrontendKey, Reason, frontend_flags, settings_flags,
};
use weir_plan::{Owner, ip_of};

use super::{ChangedFlow, Fate, FlowChange, Side, own_address, policy::is_in_ipcache};
use crate::{
    Compiled, TraceFlow, Who,
    delivery::{self, Sender, Target},
    trace::{judge, peer, world},
};

/// Frontends that have their backends, and whom they are for, in common: before and after.
type Common = [Option<FrontendInfo>; 2];

/// Clients that services and policies do not tell apart: who they are before and after, and some of their addresses.
struct Clients {
    sender: Sender,
    identities: [u32; 2],
    /// None for those that nobody mentioned.
    addresses: Vec<IpAddr>,
}

/// What may be otherwise than before.
#[derive(Default)]
struct Touched {
    services: BTreeSet<u32>,
    identities: BTreeSet<u32>,
    everything: bool,
}

struct Diff<'a> {
    sets: [&'a Compiled; 2],
    touched: Touched,
    /// The clients of this node, IPv4's first.
    inside: [Vec<Clients>; 2],
    /// Addresses outside, with who they are.
    known: Option<Vec<(IpAddr, [u32; 2])>>,
    targets: HashMap<(usize, u32, bool), Vec<Target>>,
}

/// One for each client and frontend between which something changed; of frontends with the same backends, and of
/// clients outside that meet the same, the first.
pub(super) fn changes(before: &Compiled, after: &Compiled) -> Vec<FlowChange> {
    let sets = [before, after];
    if sets.iter().all(|set| set.tables.frontends.is_empty()) {
        return Vec::new();
    }
    let touched = Touched::between(sets);
    if !touched.everything && touched.services.is_empty() && touched.identities.is_empty() {
        return Vec::new();
    }
    let inside = [true, false].map(|v4| inside(sets, v4));
    Diff { sets, touched, inside, known: None, targets: HashMap::new() }.changes()
}

impl Touched {
    fn between([before, after]: [&Compiled; 2]) -> Self {
        let (before, after) = (&*before.tables, &*after.tables);
        let mut this = Self::default();
        for change in before.frontends.diff(&after.frontends) {
            this.services.extend(change.from.iter().chain(&change.to).map(|info| info.service));
        }
        this.services.extend(before.services.diff(&after.services).iter().map(|change| change.key));
        for change in before.backends.diff(&after.backends) {
            this.services.extend(change.from.iter().chain(&change.to).map(|info| info.service));
        }
        this.services.extend(before.source_ranges.diff(&after.source_ranges).iter().map(|change| change.key.service));
        this.identities.extend(before.policy.diff(&after.policy).iter().map(|change| change.key.subject));
        this.identities.extend(before.subjects.diff(&after.subjects).iter().map(|change| change.key));
        for change in before.endpoints.diff(&after.endpoints) {
            this.identities.extend(change.from.iter().chain(&change.to).map(|info| info.identity));
        }
        for change in before.ipcache4.diff(&after.ipcache4) {
            this.identities.extend(change.from.iter().chain(&change.to));
        }
        for change in before.ipcache6.diff(&after.ipcache6) {
            this.identities.extend(change.from.iter().chain(&change.to));
        }
        let flags = [before, after].map(|tables| {
            let flags = tables.settings.get(&0).map_or(0, |settings| settings.flags);
            flags & (settings_flags::SERVICES | settings_flags::SOCKETS)
        });
        this.everything = flags[0] != flags[1];
        this
    }
}

/// Those on this node before and after.
fn inside(sets: [&Compiled; 2], v4: bool) -> Vec<Clients> {
    let mut found: BTreeMap<(Sender, [u32; 2]), Vec<IpAddr>> = BTreeMap::new();
    let [before, after] = sets.map(|set| &set.tables.endpoints);
    for (address, info) in after.iter().filter(|(address, _)| address.is_ipv4() == v4) {
        let Some(former) = before.get(address) else { continue };
        let senders = sets.map(|set| delivery::sender(&set.tables, *address));
        if senders[0] == senders[1] {
            found.entry((senders[1], [former.identity, info.identity])).or_default().push(*address);
        }
    }
    let clients = |((sender, identities), addresses)| Clients { sender, identities, addresses };
    found.into_iter().map(clients).collect()
}

impl Diff<'_> {
    fn changes(mut self) -> Vec<FlowChange> {
        let mut known = BTreeSet::new();
        let [before, after] = self.sets.map(|set| &set.tables.frontends);
        let keys: BTreeSet<&FrontendKey> = before.iter().chain(after.iter()).map(|(key, _)| key).collect();
        let mut changes = Vec::new();
        for key in keys.into_iter().filter(|key| !key.is_address()) {
            let common = [before, after].map(|frontends| frontends.get(key).copied());
            let in_common = common.map(|info| info.map(|info| (info.service, info.flags)));
            if known.insert((key.address.is_v4(), key.protocol, in_common)) {
                self.of_frontend(key, common, &mut changes);
            }
        }
        changes
    }

    fn of_frontend(&mut self, key: &FrontendKey, common: Common, changes: &mut Vec<FlowChange>) {
        let v4 = key.address.is_v4();
        let mut backends = BTreeSet::new();
        for (side, info) in common.iter().enumerate() {
            for only_local in [false, true] {
                backends.extend(info.iter().flat_map(|info| self.targets(side, info.service, only_local).to_vec()));
            }
        }
        let touches = |identity: &u32| self.touched.identities.contains(identity);
        let is_changed = self.touched.everything
            || common[0] != common[1]
            || common.iter().flatten().any(|info| self.touched.services.contains(&info.service))
            || backends.iter().any(|target| target.is_judged && touches(&target.identity));
        let is_meant = |clients: &&Clients| is_changed || clients.identities.iter().any(touches);
        // One that is a backend itself may meet something else than the others.
        let is_backend = |address: &IpAddr| backends.iter().any(|target| target.address == *address);
        let one_of = |clients: &Clients| {
            let apart = clients.addresses.iter().find(|address| !is_backend(address));
            (clients.sender, clients.identities, apart.or(clients.addresses.first()).copied())
        };
        let meant: Vec<_> = self.inside[usize::from(!v4)].iter().filter(is_meant).map(one_of).collect();
        for (sender, identities, address) in meant {
            changes.extend(self.change(key, common, sender, identities, address));
        }
        let for_outside = frontend_flags::EXTERNAL | frontend_flags::NODE_PORT;
        if !is_changed || !common.iter().flatten().any(|info| info.flags & for_outside != 0) {
            return;
        }
        let mut told: Vec<[Fate; 2]> = Vec::new();
        for address in self.outside(v4, common, &backends) {
            let identities = self.sets.map(|set| match address {
                Some(address) => peer(&set.tables, address),
                None => world(&set.tables, v4),
            });
            let Some(change) = self.change(key, common, Sender::Outside, identities, address) else { continue };
            let fates = [change.before.clone(), change.after.clone()];
            if !told.contains(&fates) {
                told.push(fates);
                changes.push(change);
            }
        }
    }

    /// Addresses outside, one of each kind that these backends' policies or source ranges speak of; `None`: one that
    /// nobody mentioned.
    fn outside(&mut self, v4: bool, common: Common, backends: &BTreeSet<Target>) -> Vec<Option<IpAddr>> {
        let mut found = vec![None];
        for (set, info) in self.sets.iter().zip(common) {
            let Some(info) = info else { continue };
            let ranges = set.tables.source_ranges.iter().filter(|(key, _)| key.service == info.service);
            found.extend(
                ranges
                    .map(|(key, _)| Some(ip_of(&key.address)))
                    .filter(|one| one.is_some_and(|one| one.is_ipv4() == v4)),
            );
        }
        let subjects: BTreeSet<u32> =
            backends.iter().filter(|target| target.is_judged).map(|target| target.identity).collect();
        let entries = self.sets.iter().flat_map(|set| set.tables.policy.iter());
        let of_backends =
            entries.filter(|(key, _)| key.direction() == DIRECTION_INGRESS && subjects.contains(&key.subject));
        let named: BTreeSet<u32> = of_backends.map(|(key, _)| key.peer).collect();
        let sets = self.sets;
        let known = self.known.get_or_insert_with(|| known(sets));
        let mut kinds = BTreeSet::new();
        for (address, identities) in known.iter().filter(|(address, _)| address.is_ipv4() == v4) {
            let may_come = [0, 1].map(|side| {
                let info = common[side].as_ref();
                info.is_some_and(|info| {
                    delivery::only_local(&sets[side].tables, info, Sender::Outside, Some(*address)).is_ok()
                })
            });
            // Whom no rule names, all rules treat alike.
            let is_named = identities.map(|identity| Some(identity).filter(|identity| named.contains(identity)));
            if kinds.insert((is_named, may_come)) {
                found.push(Some(*address));
            }
        }
        found.retain(|address| address.is_none_or(|address| is_outside(sets, address)));
        found
    }

    fn targets(&mut self, side: usize, service: u32, only_local: bool) -> &[Target] {
        let tables = &self.sets[side].tables;
        self.targets
            .entry((side, service, only_local))
            .or_insert_with(|| delivery::targets(tables, service, only_local))
    }

    fn change(
        &mut self,
        key: &FrontendKey,
        common: Common,
        sender: Sender,
        identities: [u32; 2],
        address: Option<IpAddr>,
    ) -> Option<FlowChange> {
        // Both say it without a look at whose labels and rules these are.
        if let [Some(before), Some(after)] = common {
            let mut outcome =
                |side, info: &FrontendInfo| self.outcome(side, info, sender, identities[side], address, key.protocol);
            if outcome(0, &before) == outcome(1, &after) && !self.touched.everything {
                return None;
            }
        }
        let to = ip_of(&key.address);
        let flow = TraceFlow {
            source: address.map_or(Who::World, |address| Who::Addresses(vec![address])),
            destination: Who::Addresses(vec![to]),
            protocol: key.protocol,
            port: key.port,
        };
        let mut traces = Vec::new();
        for set in self.sets {
            let mut trace = set.trace(&flow).ok()?;
            // Told by itself.
            trace.prefilter.clear();
            traces.push(trace);
        }
        let [before, after] = [Fate::of(&traces[0]), Fate::of(&traces[1])];
        if !before.differs(&after) {
            return None;
        }
        let client = Side { labels: traces.pop()?.source.labels, address };
        let numbers = [(self.sets[1], common[1]), (self.sets[0], common[0])];
        let owner = |(set, info): (&Compiled, Option<FrontendInfo>)| {
            set.provenance.services.get(&info?.service).map(Owner::reference)
        };
        let service = numbers.into_iter().find_map(owner);
        let flow = ChangedFlow::Service { service, client, address: to, protocol: key.protocol, port: key.port };
        Some(FlowChange { flow, before, after })
    }

    /// The backends that a flow may be sent to, each with whether it passes there.
    fn outcome(
        &mut self,
        side: usize,
        info: &FrontendInfo,
        sender: Sender,
        identity: u32,
        address: Option<IpAddr>,
        protocol: u8,
    ) -> Result<Vec<(IpAddr, u16, bool)>, Reason> {
        let tables = &self.sets[side].tables;
        let only_local = delivery::only_local(tables, info, sender, address)?;
        let mut judged: HashMap<(u32, u16, bool), bool> = HashMap::new();
        let mut passes = |target: &Target| {
            if sender == Sender::Endpoint && address == Some(target.address) {
                return true;
            }
            *judged.entry((target.identity, target.port, target.is_judged)).or_insert_with(|| {
                let end = |subject, peer, direction| {
                    judge(tables, subject, peer, direction, protocol, target.port).0.passes()
                };
                (sender == Sender::Outside || end(identity, target.identity, DIRECTION_EGRESS))
                    && (!target.is_judged || end(target.identity, identity, DIRECTION_INGRESS))
            })
        };
        let targets = self.targets.entry((side, info.service, only_local));
        let targets = targets.or_insert_with(|| delivery::targets(tables, info.service, only_local));
        Ok(targets.iter().map(|target| (target.address, target.port, passes(target))).collect())
    }
}

/// Of each prefix that has an identity one address, with who that is before and after.
fn known(sets: [&Compiled; 2]) -> Vec<(IpAddr, [u32; 2])> {
    let v4 = sets.iter().flat_map(|set| set.tables.ipcache4.iter()).map(|(prefix, _)| prefix.to_ip_net());
    let v6 = sets.iter().flat_map(|set| set.tables.ipcache6.iter()).map(|(prefix, _)| prefix.to_ip_net());
    let nets: BTreeSet<IpNet> = v4.chain(v6).collect();
    let is_taken = |net| sets.iter().any(|set| is_in_ipcache(&set.tables, net));
    let addresses = nets.into_iter().filter_map(|net| own_address(net, &is_taken));
    let outside = addresses.filter(|address| is_outside(sets, *address));
    outside.map(|address| (address, sets.map(|set| peer(&set.tables, address)))).collect()
}

fn is_outside(sets: [&Compiled; 2], address: IpAddr) -> bool {
    sets.iter().all(|set| set.tables.endpoints.get(&address).is_none())
}
