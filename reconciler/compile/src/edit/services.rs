//! Services that changed, and those whose backends did.
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use weir_abi::{FrontendInfo, FrontendKey, frontend_flags, settings_flags};
use weir_plan::{ObjectRef, Space, Table, address_of};
use weir_schema::{Object, Spec};

use super::{Edit, Stop};
use crate::{
    Compiled,
    objects::{Difference, reference},
    provenance::Owned,
    service::{
        Built, Definition, Placed, Site, Skipped, Standing, backend_key, build, first_reference, incarnation_key,
        service_of,
    },
};

fn addresses(object: &Object) -> &[IpAddr] {
    match &object.spec {
        Spec::Endpoint(spec) => &spec.addresses,
        Spec::Node(spec) => &spec.addresses,
        _ => &[],
    }
}

fn set<K: Ord + Clone, V: Clone + PartialEq>(table: &mut Table<K, V>, key: K, value: V) {
    if table.get(&key) != Some(&value) {
        table.insert(key, value);
    }
}

impl Edit<'_, '_> {
    /// Finds out which services are not what they were.
    pub(super) fn changed_services(&mut self, differences: &[Difference]) -> Result<(), Stop> {
        let before = self.edge_service();
        for (from, to) in differences {
            for object in [from, to].into_iter().flatten() {
                self.touched.extend(addresses(object));
                match &object.spec {
                    Spec::Endpoint(_) => self.unserved.extend(self.state.services.index.selecting(object)),
                    Spec::EndpointSlice(_) => self.unserved.extend(service_of(object)),
                    Spec::Service(_) | Spec::KubernetesService(_) => {
                        self.unserved.insert(reference(object));
                        self.services.insert(reference(object), to.clone());
                    }
                    _ => {}
                }
            }
            let services = &mut self.state.services;
            if let Some(from) = from {
                services.index.remove(from);
                services.edge.remove(&reference(from));
            }
            if let Some(to) = to {
                services.index.insert(to);
                if !services.index.knows(to) {
                    return Err(Stop::Whole);
                }
                if Definition::of(to, &services.index).is_some_and(|definition| definition.is_at_the_edge()) {
                    services.edge.insert(reference(to), ());
                }
            }
        }
        self.rewire |= before != self.edge_service();
        Ok(())
    }

    /// The first service that clients outside reach.
    pub(super) fn edge_service(&self) -> Option<ObjectRef> {
        self.state.services.edge.first().map(|(object, ())| object.clone())
    }

    /// Makes them anew, once it is known whose addresses are this node's. `None`: not possible.
    pub(super) fn serve(&mut self, former: &Compiled) -> Result<Option<Vec<Skipped>>, Stop> {
        let mut unserved = std::mem::take(&mut self.unserved);
        for address in &self.touched {
            let was_local = former.tables.endpoints.get(address).is_some();
            if was_local != self.tables.endpoints.get(address).is_some() {
                let backends = self.state.services.at.from_key(&(*address, 0));
                let backends = backends.take_while(|((at, _), _)| at == address);
                let owners = backends.filter_map(|(_, service)| self.origins.services.get(service));
                unserved.extend(owners.map(|owner| owner.0.reference.clone()));
            }
        }
        let mut skipped = former.skipped.clone();
        skipped.retain(|one| !unserved.contains(&one.object));
        let mut claimed = std::mem::take(&mut self.touched);
        for object in &unserved {
            let old = self.state.services.standing.get(object).cloned();
            let new = match self.services.get(object) {
                Some(new) => new.clone(),
                None => old.as_ref().map(|old| Arc::clone(&old.object)),
            };
            let Some(built) = self.serve_one(object, old.as_deref(), new.as_ref(), former, &mut skipped)? else {
                return Ok(None);
            };
            claimed.extend(old.iter().chain(&built).flat_map(|standing| &standing.addresses));
        }
        for address in claimed {
            self.decide_address(address, &former.host_addresses);
        }
        if let Some((_, settings)) = self.tables.settings.first() {
            let mut settings = *settings;
            settings.flags &= !settings_flags::SERVICES;
            if !self.tables.frontends.is_empty() {
                settings.flags |= settings_flags::SERVICES;
            }
            set(&mut self.tables.settings, 0, settings);
        }
        skipped.sort();
        Ok(Some(skipped))
    }

    /// `None`: not possible; else what stands now, if anything does.
    fn serve_one(
        &mut self,
        object: &ObjectRef,
        old: Option<&Standing>,
        new: Option<&Arc<Object>>,
        former: &Compiled,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Option<Option<Arc<Standing>>>, Stop> {
        // An address of the host may be another service's node port: then the whole must say whose it is.
        let is_host =
            |addresses: &[IpAddr]| addresses.iter().any(|one| former.host_addresses.binary_search(one).is_ok());
        let (mut built, mut standing) = (Vec::new(), None);
        if let Some(new) = new {
            let index = &self.state.services.index;
            if let Some(definition) = Definition::of(new, index) {
                skipped.extend(definition.skipped.clone().map(|why| Skipped { object: object.clone(), why }));
                let tables = &self.tables.endpoints;
                let site = Site {
                    node: self.input.node,
                    host_addresses: &former.host_addresses,
                    is_local: &|address| tables.get(&address).is_some(),
                };
                let (numbering, sequence) = (&mut *self.numbering, self.input.sequence);
                built = build(&definition, index, &site, &mut |space, key| match space {
                    Space::Incarnation => numbering.assign_anew(space, key, sequence),
                    _ => numbering.hold(space, key, sequence),
                })?;
                standing = Some(Arc::new(Standing::new(new, &definition, &built)));
            }
        }
        let addresses = |standing: Option<&Standing>| standing.is_some_and(|one| is_host(&one.addresses));
        if addresses(old) || addresses(standing.as_deref()) {
            return Ok(None);
        }
        if let Some(standing) = &standing {
            built.iter().for_each(|one| self.put(one, &standing.owner));
        }
        let kept = standing.as_ref().map_or(&[][..], |standing| &standing.placed);
        for placed in old.map_or(&[][..], |old| &old.placed) {
            self.take(placed, kept.iter().find(|one| one.number == placed.number));
        }
        let services = &mut self.state.services;
        for address in old.map_or(&[][..], |old| &old.addresses) {
            services.claims.remove(&(*address, object.clone()));
        }
        match &standing {
            Some(standing) => {
                for address in &standing.addresses {
                    services.claims.insert((*address, object.clone()), ());
                }
                services.standing.insert(object.clone(), Arc::clone(standing));
            }
            None => drop(services.standing.remove(object)),
        }
        Ok(Some(standing))
    }

    fn put(&mut self, built: &Built, owner: &Owned) {
        let tables = &mut self.tables;
        for (key, info) in &built.frontends {
            let is_named = |info: &FrontendInfo| info.flags & frontend_flags::NODE_PORT == 0;
            let stands = tables.frontends.get(key).filter(|other| other.service != built.number);
            if is_named(info) || !stands.is_some_and(is_named) {
                set(&mut tables.frontends, *key, *info);
            }
        }
        for (number, info) in &built.backends {
            set(&mut tables.backends, *number, *info);
        }
        for key in &built.ranges {
            set(&mut tables.source_ranges, *key, 1);
        }
        set(&mut tables.services, built.number, built.service.clone());
        set(&mut self.origins.services, built.number, owner.clone());
        for (address, _, backend) in Placed::of(built).backends {
            set(&mut self.state.services.at, (address, backend), built.number);
        }
    }

    /// Takes away what a service does not have any more.
    fn take(&mut self, old: &Placed, new: Option<&Placed>) {
        let sequence = self.sequence();
        let frontends: BTreeSet<&FrontendKey> = new.iter().flat_map(|new| &new.frontends).collect();
        for key in old.frontends.iter().filter(|key| !frontends.contains(key)) {
            // Another service may have it by now.
            if self.tables.frontends.get(key).is_some_and(|info| info.service == old.number) {
                self.tables.frontends.remove(key);
            }
        }
        let kept: BTreeSet<u32> = new.iter().flat_map(|new| &new.backends).map(|(.., number)| *number).collect();
        for (address, port, number) in old.backends.iter().filter(|(.., number)| !kept.contains(number)) {
            self.tables.backends.remove(number);
            self.state.services.at.remove(&(*address, *number));
            let key = backend_key(&old.key, *address, *port);
            self.numbering.release(Space::Incarnation, &incarnation_key(&key), sequence);
            self.numbering.release(Space::Backend, &key, sequence);
        }
        for key in &old.ranges {
            if !new.is_some_and(|new| new.ranges.contains(key)) {
                self.tables.source_ranges.remove(key);
            }
        }
        if new.is_none() {
            self.tables.services.remove(&old.number);
            self.origins.services.remove(&old.number);
            self.numbering.release(Space::Service, &old.key, sequence);
        }
    }

    /// Whether an address is services' only.
    fn decide_address(&mut self, address: IpAddr, host: &[IpAddr]) {
        let services = &self.state.services;
        let first = services.claims.from_key(&(address, first_reference())).next();
        let first = first.filter(|((claimed, _), ())| *claimed == address);
        let standing = first.and_then(|((_, object), ())| services.standing.get(object));
        let is_taken = host.binary_search(&address).is_ok() || self.origins.is_somebodys(address);
        let key = FrontendKey::of_address(address_of(address));
        match standing.filter(|_| !is_taken) {
            Some(standing) => {
                set(&mut self.origins.service_addresses, address, standing.owner.clone());
                set(&mut self.tables.frontends, key, FrontendInfo::default());
            }
            None => {
                self.origins.service_addresses.remove(&address);
                self.tables.frontends.remove(&key);
            }
        }
    }
}
