//! What an object says of services, whatever its kind.
use std::{cmp::Ordering, collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use weir_plan::ObjectRef;
use weir_schema::{
    Algorithm, BackendState, FrontendType, LabelSelector, NoBackends, Object, PortNumber, ServiceProtocol, ServiceSpec,
    Spec, TrafficPolicy,
};

use super::{index::Index, kubernetes};
use crate::objects::reference;

/// An object's services in one form.
#[derive(Clone, Debug)]
pub(crate) struct Definition<'o> {
    pub object: ObjectRef,
    pub frontends: Vec<Frontend<'o>>,
    pub source: Source<'o>,
    pub algorithm: Algorithm,
    pub no_backends: NoBackends,
    /// Seconds, 0 for none.
    pub affinity: u32,
    pub ranges: &'o [IpNet],
    pub external_local: bool,
    pub internal_local: bool,
    /// Why nothing, or not all, of it is balanced.
    pub skipped: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Frontend<'o> {
    /// `None`: every address of the host.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub protocol: ServiceProtocol,
    pub kind: FrontendType,
    pub rule: PortRule<'o>,
}

/// How the port of a backend is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortRule<'o> {
    /// `targetPort`.
    Target(&'o PortNumber),
    /// Each backend's own, or this one.
    Own(u16),
    /// The port of this name in the slices.
    Slice(&'o str),
}

#[derive(Clone, Debug)]
pub(crate) enum Source<'o> {
    List(&'o [weir_schema::Backend]),
    Endpoints(Selection),
    Slices(Vec<Arc<Object>>, Readiness),
}

/// Which slices' endpoints are backends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readiness {
    /// Whether they answer does not matter.
    pub all: bool,
}

/// Endpoints of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    pub namespace: Arc<str>,
    pub labels: LabelSelector,
    /// Kubernetes': labels that the namespace adds do not count.
    pub own_labels_only: bool,
}

/// One backend before it has a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub weight: u16,
    pub state: BackendState,
    /// Its slice says that it is on this node.
    pub here: bool,
}

/// By address and port: the order of slots.
pub(crate) type Candidates = BTreeMap<(IpAddr, u16), Candidate>;

/// Whom an object selects, whether or not slices make that moot.
pub(crate) fn selection(object: &Object) -> Option<Selection> {
    let namespace = Arc::clone(&object.key.namespace);
    match &object.spec {
        Spec::Service(spec) => {
            let labels = spec.selector.clone()?;
            Some(Selection { namespace, labels, own_labels_only: false })
        }
        Spec::KubernetesService(spec) if !spec.selector.is_empty() => {
            let labels = LabelSelector { match_labels: spec.selector.clone(), ..LabelSelector::default() };
            Some(Selection { namespace, labels, own_labels_only: true })
        }
        _ => None,
    }
}

impl<'o> Definition<'o> {
    /// `None` for an object that is no service.
    pub fn of(object: &'o Object, index: &Index) -> Option<Self> {
        match &object.spec {
            Spec::Service(spec) => Some(of_weir(object, spec)),
            Spec::KubernetesService(spec) => Some(kubernetes::definition(object, spec, index)),
            _ => None,
        }
    }

    /// Whether packets from outside are to meet it on the node's network devices: where it has cluster addresses only,
    /// they end there.
    pub const fn is_at_the_edge(&self) -> bool {
        !self.frontends.is_empty()
    }

    /// The addresses that it takes for itself.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.frontends.iter().filter_map(|frontend| frontend.address)
    }

    /// What tells the services of one object and protocol apart: stable, whatever the backends are.
    pub fn rule_key(&self, frontend: &Frontend<'_>) -> String {
        let key = match &frontend.rule {
            PortRule::Target(PortNumber::Number(port)) => return port.to_string(),
            PortRule::Target(PortNumber::Name(name)) => name.clone(),
            PortRule::Slice(name) => format!("name {name}"),
            PortRule::Own(port) => match &self.source {
                Source::List(list) if list.iter().all(|backend| backend.port.is_some()) => "own".to_owned(),
                _ => return format!("port {port}"),
            },
        };
        match frontend.protocol {
            // Only backends on the same port are its backends.
            ServiceProtocol::Sctp => format!("{key} {}", frontend.port),
            _ => key,
        }
    }

    /// The backends of one family for a frontend.
    pub fn candidates(&self, frontend: &Frontend<'_>, v4: bool, index: &Index, node: &str) -> Candidates {
        let mut found = Candidates::new();
        let mut put = |address: IpAddr, port: u16, candidate: Candidate| {
            let rewritten = frontend.protocol == ServiceProtocol::Sctp && port != frontend.port;
            if address.is_ipv4() != v4 || rewritten {
                return;
            }
            let known = found.entry((address, port)).or_insert(candidate);
            // Where it is say those that say the best of it.
            match candidate.state.cmp(&known.state) {
                Ordering::Less => *known = candidate,
                Ordering::Equal => known.here |= candidate.here,
                Ordering::Greater => {}
            }
        };
        let one = Candidate { weight: 1, state: BackendState::Active, here: false };
        match &self.source {
            Source::List(list) => {
                for backend in *list {
                    let port = match &frontend.rule {
                        PortRule::Target(PortNumber::Number(port)) => *port,
                        PortRule::Own(port) => backend.port.unwrap_or(*port),
                        _ => continue,
                    };
                    put(backend.address, port, Candidate { weight: backend.weight, state: backend.state, here: false });
                }
            }
            Source::Endpoints(selection) => {
                for member in index.selected(selection) {
                    let port = match &frontend.rule {
                        PortRule::Target(PortNumber::Number(port)) | PortRule::Own(port) => Some(*port),
                        PortRule::Target(PortNumber::Name(name)) => member.port(name, frontend.protocol),
                        PortRule::Slice(_) => None,
                    };
                    let Some(port) = port else { continue };
                    member.addresses.iter().for_each(|address| put(*address, port, one));
                }
            }
            Source::Slices(slices, readiness) => {
                let PortRule::Slice(name) = &frontend.rule else { return found };
                for (address, port, candidate) in
                    kubernetes::backends(slices, name, frontend.protocol, *readiness, node)
                {
                    put(address, port, candidate);
                }
                // Whoever is on the way out gets new flows where nobody else is.
                if found.values().all(|candidate| candidate.state != BackendState::Active) {
                    found.values_mut().for_each(|candidate| candidate.state = BackendState::Active);
                }
            }
        }
        found
    }
}

fn of_weir<'o>(object: &'o Object, spec: &'o ServiceSpec) -> Definition<'o> {
    let frontend = |frontend: &'o weir_schema::Frontend| Frontend {
        address: frontend.address,
        port: frontend.port,
        protocol: frontend.protocol,
        kind: frontend.kind,
        rule: frontend.target_port.as_ref().map_or(PortRule::Own(frontend.port), PortRule::Target),
    };
    let seconds = |timeout: std::time::Duration| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
    Definition {
        object: reference(object),
        frontends: spec.frontends.iter().map(frontend).collect(),
        source: selection(object).map_or(Source::List(&spec.backends), Source::Endpoints),
        algorithm: spec.algorithm,
        no_backends: spec.no_backends,
        affinity: spec.session_affinity.as_ref().map_or(0, |affinity| seconds(affinity.timeout)),
        ranges: &spec.source_ranges,
        external_local: spec.external_traffic_policy == TrafficPolicy::Local,
        internal_local: spec.internal_traffic_policy == TrafficPolicy::Local,
        skipped: None,
    }
}
