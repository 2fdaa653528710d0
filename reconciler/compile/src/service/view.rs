//! What `get services` and `get backends` show.
use std::{collections::BTreeMap, net::IpAddr};

use weir_abi::{BackendInfo, backend_flags};
use weir_plan::{ObjectRef, Space, ip_of};
use weir_schema::{Algorithm, BackendState, FrontendType};

use super::{Definition, Index, build::groups};
use crate::Compiled;

/// One service: what frontends share that have the same backends on the same ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    pub object: ObjectRef,
    pub number: u32,
    /// The IP protocol's number.
    pub protocol: u8,
    /// Sorted by address and port.
    pub frontends: Vec<FrontendView>,
    pub algorithm: Algorithm,
    /// Seconds that a client is remembered, 0 for none.
    pub affinity: u32,
    /// Sorted by address and port.
    pub backends: Vec<BackendView>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendView {
    pub address: IpAddr,
    pub port: u16,
    pub kind: FrontendType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendView {
    /// 0 for one in maintenance, which is in no table.
    pub number: u32,
    pub address: IpAddr,
    pub port: u16,
    pub state: BackendState,
    /// On this node.
    pub local: bool,
    pub weight: u16,
}

impl Compiled {
    /// Every service, in the order of the objects. Goes through all objects.
    pub fn services(&self) -> Vec<ServiceView> {
        let all: Vec<_> = self.provenance.inventory.objects().collect();
        let index = Index::new(all.iter());
        let mut backends: BTreeMap<(u32, IpAddr, u16), (u32, &BackendInfo)> = BTreeMap::new();
        for (number, info) in &self.tables.backends {
            backends.insert((info.service, ip_of(&info.address), u16::from_be(info.port_be)), (*number, info));
        }
        let mut views = Vec::new();
        for object in &all {
            let Some(definition) = Definition::of(object, &index) else { continue };
            for group in groups(&definition, &self.host_addresses) {
                let Some(service) = self.basis.numbering.get(Space::Service, &group.key) else { continue };
                let candidates = definition.candidates(group.frontend, group.v4, &index, &self.basis.node);
                let backend = |((address, port), candidate): (&(IpAddr, u16), &super::definition::Candidate)| {
                    let placed = backends.get(&(service, *address, *port));
                    BackendView {
                        number: placed.map_or(0, |(number, _)| *number),
                        address: *address,
                        port: *port,
                        state: candidate.state,
                        local: placed.is_some_and(|(_, info)| info.flags & backend_flags::LOCAL != 0),
                        weight: candidate.weight,
                    }
                };
                let mut frontends: Vec<FrontendView> = group
                    .places
                    .iter()
                    .map(|(address, frontend)| FrontendView {
                        address: *address,
                        port: frontend.port,
                        kind: frontend.kind,
                    })
                    .collect();
                frontends.sort_by_key(|one| (one.address, one.port));
                views.push(ServiceView {
                    object: definition.object.clone(),
                    number: service,
                    protocol: group.protocol,
                    frontends,
                    algorithm: definition.algorithm,
                    affinity: definition.affinity,
                    backends: candidates.iter().map(backend).collect(),
                });
            }
        }
        views.sort_by(|a, b| (&a.object, a.number).cmp(&(&b.object, b.number)));
        views
    }
}
