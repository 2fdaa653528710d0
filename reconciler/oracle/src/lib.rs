//! The reference evaluator: manifests and a flow in, verdict out.
//!
//! Slow and obvious: every question walks every object. It shares nothing with the compiler, knows no table, identity
//! or kernel, and so is what the compiler and the programs are compared with. [`World::judge`] answers for a packet
//! that begins a flow; [`World::prefilter`] for the prefilter; [`World::deliver`] for what services make of it before
//! policy is asked; [`World::is_masqueraded`] for the address that it shows outside. Pure: no file, socket or clock.
//!
//! # What a policy means
//!
//! The text is Cilium's documentation; where that leaves a choice, this is the one taken here:
//!
//! - **Who is an address**: an endpoint's address (of any node) is that endpoint; an address of this node is the host;
//!   one of another `Node` is a remote node; everything else is the world. CIDR rules and `ipBlock` match only the
//!   world (Cilium's default `policy-cidr-match-mode`), also for Kubernetes policies.
//! - **Selectors in `fromEndpoints` and `toEndpoints`** select endpoints only, `{}` included: never the host, a remote
//!   node or the world. In a namespaced policy they select in its namespace, unless they name
//!   `io.kubernetes.pod.namespace` or an `io.cilium.k8s.namespace.labels.*` key. A selector that names a `reserved:`
//!   key is different: it is evaluated over every peer, in every namespace, by the labels `reserved:host`,
//!   `reserved:remote-node`, `reserved:world`, `reserved:world-ipv4` and `reserved:world-ipv6` (host and remote nodes
//!   also have their `Node`'s labels).
//! - **`fromNodes` and `toNodes`** select remote nodes by the labels of `Node`; an extension of the `remote-node`
//!   entity, they never select this node.
//! - **The empty rule**: `ingress: [{}]` (no peer, no port, no ICMP field) matches nothing: it is Cilium's form of
//!   "default deny, and allow nobody". With `toPorts` or `icmps` and no peer field, every peer matches. A peer field
//!   that is present and empty matches no peer; an empty `toPorts` or `icmps` list is as good as none.
//! - **Default deny** holds in a direction as soon as a rule that selects the subject has an item for it (`[{}]`; an
//!   empty section is one that is not there), unless `enableDefaultDeny` says otherwise. Deny rules hold where default
//!   deny does not.
//! - **Named ports** are resolved by the `ports` of the endpoint that receives the flow; without such a port, no match.
//! - **Host**: selected by `nodeSelector`, which is matched with the labels of this node's `Node`. Traffic from the host
//!   to its endpoints is policed like any other (Kubernetes would always let it pass; Cilium with
//!   `--allow-localhost=policy` does not).
//! - **Neighbour discovery** (ICMPv6 types 133 to 137) is never judged.
//! - **Which rule is named** when several match: deny before allow; then more port bits (a range counts as the
//!   aligned block of it that holds the port); then an exact protocol before any; then an exact peer before any (`all`
//!   is any; a named port of an egress rule is a port of one peer, so exact); then the smallest (object key, rule path).
//!
//! # What a service means
//!
//! - **Whom services are for**: endpoints of this node, by every frontend; and whoever comes in by a network device, by
//!   node ports and external addresses only. The host itself sends past them.
//! - **The address of a cluster or external frontend** is the service's altogether, unless it is also one of the host, of
//!   a `Node` or of an endpoint: what is on none of its ports, or has no port (ICMP, too), is dropped.
//! - **Policy** is asked about the backend, by its address and port: the sender's for egress, and the backend's for
//!   ingress where it is on this node. Nothing is asked about the frontend's address.
//! - **A selector** selects the endpoints of the service's namespace, of every node, with all their addresses.
//! - **New flows only**: a backend that drains or weighs nothing is none here.
#![forbid(unsafe_code)]

mod cilium;
mod delivery;
mod flow;
mod kubernetes;
mod labels;
mod masquerade;
mod peer;
mod ports;
mod prefilter;
mod rank;
mod service;
mod world;

pub use delivery::{Candidate, Delivery, Sender, ServiceDrop};
pub use flow::{End, Flow, FlowProtocol, Judgement, RuleId, Subject, Verdict};
pub use world::World;
