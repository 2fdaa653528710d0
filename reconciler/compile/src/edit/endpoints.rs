//! Endpoints that came, went or changed: addresses, identities, and whom policies select.
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use weir_plan::{ObjectRef, Space};
use weir_schema::{EndpointSpec, Object, Spec};

use super::{Edit, Stop};
use crate::{
    endpoint,
    identities::endpoint_key,
    objects::{Difference, numbering_key, reference},
    peers::EndpointPeer,
    provenance::Owned,
    state::{IdentityState, strength},
};

/// What becomes of an identity.
#[derive(Default)]
struct Turnover<'o> {
    endpoints: i64,
    local: i64,
    /// An object that has it.
    object: Option<&'o Object>,
}

fn spec(object: &Object) -> Option<&EndpointSpec> {
    match &object.spec {
        Spec::Endpoint(spec) => Some(spec),
        _ => None,
    }
}

impl Edit<'_, '_> {
    pub(super) fn endpoints(&mut self, differences: &[&Difference]) -> Result<(), Stop> {
        let mut identities: BTreeMap<Arc<str>, Turnover<'_>> = BTreeMap::new();
        for (from, to) in differences {
            for (object, by) in [(from, -1), (to, 1)] {
                let Some((object, spec)) = object.as_ref().and_then(|object| Some((object, spec(object)?))) else {
                    continue;
                };
                let turnover = identities.entry(endpoint_key(&object.metadata, spec).into()).or_default();
                turnover.endpoints += by;
                turnover.local += by * i64::from(spec.node == self.input.node);
                turnover.object = turnover.object.or(Some(object)).filter(|_| by > 0).or(turnover.object);
            }
        }
        for (key, turnover) in &identities {
            self.identity(key, turnover)?;
        }
        for (from, to) in differences {
            self.addresses(from.as_ref(), to.as_ref());
            self.own(from.as_ref(), to.as_ref());
        }
        Ok(())
    }

    fn identity(&mut self, key: &Arc<str>, turnover: &Turnover<'_>) -> Result<(), Stop> {
        let before = self.state.peers.identities.get(key).copied();
        let number = match before {
            Some(state) => state.number,
            None => self.numbering.hold(Space::Identity, key, self.sequence())?,
        };
        let former = before.unwrap_or(IdentityState { number, endpoints: 0, local: 0 });
        let count = |count: u32, by: i64| (i64::from(count) + by).max(0) as u32;
        let now = IdentityState {
            number,
            endpoints: count(former.endpoints, turnover.endpoints),
            local: count(former.local, turnover.local),
        };
        if now == former && before.is_some() {
            return Ok(());
        }
        if now.endpoints == 0 {
            if before.is_some() {
                self.state.peers.identities.remove(key);
                self.state.peers.endpoints.remove(&number);
                self.identities.remove(&number);
                self.gone.insert(number);
            }
            self.numbering.release(Space::Identity, key, self.sequence());
        } else {
            self.state.peers.identities.insert(Arc::clone(key), now);
            if before.is_none()
                && let Some((object, spec)) = turnover.object.and_then(|object| Some((object, spec(object)?)))
            {
                let peer = EndpointPeer {
                    number,
                    namespace: object.metadata.namespace.clone(),
                    labels: object.metadata.labels.clone(),
                    ports: spec.ports.clone(),
                };
                self.identities.insert(number, Arc::new(self.state.peers.labels(&peer)));
                self.state.peers.endpoints.insert(number, Arc::new(peer));
                self.new.insert(number);
            }
        }
        match (former.local, now.local) {
            (0, 1..) => self.subject_came(number)?,
            (1.., 0) => self.subject_went(number),
            _ => {}
        }
        Ok(())
    }

    fn addresses(&mut self, from: Option<&Arc<Object>>, to: Option<&Arc<Object>>) {
        let addresses = |object: Option<&Arc<Object>>| -> Vec<IpAddr> {
            object.and_then(|object| spec(object)).map_or(Vec::new(), |spec| spec.addresses.clone())
        };
        let kept = addresses(to);
        if let Some(from) = from {
            let object = reference(from);
            let same = to.is_some_and(|to| reference(to) == object);
            for address in addresses(Some(from)).into_iter().filter(|address| !same || !kept.contains(address)) {
                self.unclaim(address, strength::ENDPOINT, Some(object.clone()));
            }
        }
        let Some((to, spec)) = to.and_then(|to| Some((to, spec(to)?))) else { return };
        let key: Arc<str> = endpoint_key(&to.metadata, spec).into();
        let Some(number) = self.state.peers.identities.get(&key).map(|state| state.number) else { return };
        let object: ObjectRef = reference(to);
        let owner = Owned::of(to);
        for address in kept {
            self.claim(address, strength::ENDPOINT, Some(object.clone()), number, Some(owner.clone()));
        }
    }

    /// An endpoint of this node has a device, hooks and numbers of its own.
    fn own(&mut self, from: Option<&Arc<Object>>, to: Option<&Arc<Object>>) {
        let node = self.input.node;
        let is_own = |object: &&Arc<Object>| spec(object).is_some_and(|spec| spec.node == node);
        if let Some(from) = from.filter(is_own) {
            let object = reference(from);
            let key = numbering_key(&object);
            if let Some(spec) = spec(from) {
                let incarnation = endpoint::incarnation_key(&key, spec);
                self.numbering.release(Space::Incarnation, &incarnation, self.input.sequence);
            }
            self.numbering.release(Space::Endpoint, &key, self.input.sequence);
            self.state.shape.remove(&object);
            self.rewire = true;
        }
        if let Some(to) = to.filter(is_own) {
            self.state.shape.insert(reference(to), Arc::clone(to));
            self.rewire = true;
        }
    }
}
