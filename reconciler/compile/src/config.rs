//! What `NodeConfig` says for this node.
use std::time::Duration;

use weir_plan::{Capacity, HookState, NodeFacts, Numbering, Space, XdpAttach};
use weir_schema::{Acceleration, AttachMode, LocalDelivery};

use crate::{
    masquerade::Masquerade,
    objects::{ObjectId, Objects},
    selector::matches_plain,
};

/// Most entries each table may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub ipcache: u32,
    pub endpoints: u32,
    pub conntrack_tcp: u32,
    pub conntrack_other: u32,
    pub policy_per_identity: u32,
    pub policy_total: u32,
    pub prefilter: u32,
    pub frontends: u32,
    pub services: u32,
    pub backends: u32,
    pub affinity: u32,
    pub nat: u32,
    pub sockets: u32,
}

/// The fields of every `NodeConfig` that selects this node, merged; that they do not contradict each other was checked
/// before.
#[derive(Clone, Debug)]
pub(crate) struct NodeSettings {
    pub limits: Limits,
    pub attach_mode: AttachMode,
    pub local_delivery: LocalDelivery,
    /// Globs and the object that says so.
    pub devices: Option<(ObjectId, Vec<String>)>,
    /// Whole seconds.
    pub tcp_syn: u32,
    pub tcp_established: u32,
    pub tcp_closing: u32,
    pub other: u32,
    pub masquerade: Masquerade,
    /// Sockets of the host reach services by themselves, where there are any.
    pub socket_load_balancing: bool,
    /// How XDP is attached to network devices for the load balancer, and the object that says so.
    pub acceleration: Option<(ObjectId, XdpAttach)>,
    /// The first object that selects this node.
    pub object: Option<ObjectId>,
}

impl NodeSettings {
    pub fn new(objects: &Objects<'_>, node: &str) -> Self {
        let defaults = weir_abi::Settings::default();
        let mut this = Self {
            limits: Limits {
                ipcache: 524_288,
                endpoints: 65_536,
                conntrack_tcp: 1_048_576,
                conntrack_other: 262_144,
                policy_per_identity: 16_384,
                policy_total: 1_048_576,
                prefilter: 4_194_304,
                frontends: 262_144,
                services: 65_536,
                backends: 1_048_576,
                affinity: 65_536,
                nat: 262_144,
                sockets: 65_536,
            },
            attach_mode: AttachMode::Auto,
            local_delivery: LocalDelivery::Redirect,
            devices: None,
            tcp_syn: defaults.tcp_syn,
            tcp_established: defaults.tcp_established,
            tcp_closing: defaults.tcp_closing,
            other: defaults.other,
            masquerade: Masquerade::default(),
            socket_load_balancing: true,
            acceleration: None,
            object: None,
        };
        let mut ports = (defaults.nat_first_port, defaults.nat_last_port);
        let none = std::collections::BTreeMap::new();
        let labels = objects.node(node).map_or(&none, |node| &node.metadata.labels);
        for config in objects.node_configs.iter().filter(|config| matches_plain(&config.spec.node_selector, labels)) {
            let spec = config.spec;
            this.object = this.object.or(Some(config.id));
            this.attach_mode = spec.attach_mode.unwrap_or(this.attach_mode);
            this.local_delivery = spec.local_delivery.unwrap_or(this.local_delivery);
            this.socket_load_balancing = spec.socket_load_balancing.unwrap_or(this.socket_load_balancing);
            if let Some(devices) = &spec.devices {
                this.devices = Some((config.id, devices.clone()));
            }
            let (limits, said) = (&mut this.limits, &spec.limits);
            limits.ipcache = said.ipcache.unwrap_or(limits.ipcache);
            limits.endpoints = said.endpoints.unwrap_or(limits.endpoints);
            limits.conntrack_tcp = said.conntrack_tcp.unwrap_or(limits.conntrack_tcp);
            limits.conntrack_other = said.conntrack_other.unwrap_or(limits.conntrack_other);
            limits.policy_per_identity = said.policy_per_identity.unwrap_or(limits.policy_per_identity);
            limits.policy_total = said.policy_total.unwrap_or(limits.policy_total);
            limits.prefilter = said.prefilter.unwrap_or(limits.prefilter);
            limits.frontends = said.frontends.unwrap_or(limits.frontends);
            limits.services = said.services.unwrap_or(limits.services);
            limits.backends = said.backends.unwrap_or(limits.backends);
            limits.affinity = said.affinity.unwrap_or(limits.affinity);
            limits.nat = said.nat.unwrap_or(limits.nat);
            limits.sockets = said.sockets.unwrap_or(limits.sockets);
            let said = &spec.timeouts;
            this.tcp_syn = said.tcp_syn.map_or(this.tcp_syn, seconds);
            this.tcp_established = said.tcp_established.map_or(this.tcp_established, seconds);
            this.tcp_closing = said.tcp_closing.map_or(this.tcp_closing, seconds);
            this.other = said.other.map_or(this.other, seconds);
            match spec.load_balancer.acceleration {
                None | Some(Acceleration::Disabled) => {}
                Some(Acceleration::Auto) => this.acceleration = Some((config.id, XdpAttach::Auto)),
                Some(Acceleration::Native) => this.acceleration = Some((config.id, XdpAttach::Native)),
                Some(Acceleration::Generic) => this.acceleration = Some((config.id, XdpAttach::Generic)),
            }
            let said = &spec.masquerade;
            if said.enabled == Some(true) {
                this.masquerade.by = Some(config.id);
            }
            this.masquerade.exempt.extend(said.exclude.iter().flatten());
            ports = (said.first_port.unwrap_or(ports.0), said.last_port.unwrap_or(ports.1));
        }
        this.masquerade.ports = Some(ports);
        this.masquerade.spare_nodes(objects);
        this
    }

    /// How programs are attached at tc.
    pub fn tc_attach(&self, facts: &NodeFacts) -> HookState {
        match self.attach_mode {
            AttachMode::Tcx => HookState::Tcx,
            AttachMode::Clsact => HookState::Clsact,
            AttachMode::Auto if facts.tcx => HookState::Tcx,
            AttachMode::Auto => HookState::Clsact,
        }
    }

    /// `lends`: the node's address may be lent; `serves`: there are services. The tables of traffic that only these fill
    /// are small without them.
    pub fn capacity(&self, numbering: &Numbering, lends: bool, serves: bool) -> Capacity {
        let small = |limit: u32, used: bool| if used { limit } else { limit.min(UNUSED) };
        Capacity {
            conntrack_tcp: self.limits.conntrack_tcp,
            conntrack_other: self.limits.conntrack_other,
            affinity: small(self.limits.affinity, serves),
            nat: small(self.limits.nat, lends),
            sockets: small(self.limits.sockets, serves && self.socket_load_balancing),
            rules: numbering.bound(Space::Rule).max(1024).next_power_of_two(),
            ..Capacity::default()
        }
    }
}

/// Entries of a table of traffic that nothing fills.
const UNUSED: u32 = 64;

/// The schema has made sure of whole seconds, at least one.
fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).max(1)
}
