//! From the ring buffer to `monitor`: one reader, and everybody who listens gets explained lines.
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use axum::body::Bytes;
use tokio::sync::{broadcast, watch};
use weir_abi::{Address, Direction, PacketEvent, Reason, next_hook};
use weir_plan::Provenance;

use crate::{
    DropDocument, EventSource, ObjectDocument, RuleDocument, Snapshot,
    api::line,
    trace::{has_ports, protocol_name},
};

/// The wait for events: how long a stop takes at most.
const WAIT: Duration = Duration::from_millis(200);

/// Reads events until `stop` is set. Explaining costs more than reading: without listeners nothing is explained.
pub(crate) fn follow(
    mut events: impl EventSource,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    listeners: Listeners,
    stop: Arc<AtomicBool>,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("weir-events".to_owned()).spawn(move || {
        let mut explainer = Explainer::new(snapshots);
        while !stop.load(Ordering::Relaxed) {
            let Listeners { drops, all } = &listeners;
            let (to_drops, to_all) = (drops.receiver_count() > 0, all.receiver_count() > 0);
            let asked = if to_all { events.tell_flows() } else { Ok(()) };
            let read = asked.and_then(|()| {
                events.read(WAIT, &mut |event| {
                    let is_drop = Reason::from_code(event.reason).is_none_or(Reason::is_drop);
                    if !(to_all || to_drops && is_drop) {
                        return;
                    }
                    let line = line(&explainer.explain(event));
                    // The last listener may have gone in between.
                    if is_drop {
                        let _ = drops.send(line.clone());
                    }
                    let _ = all.send(line);
                })
            });
            if let Err(error) = read {
                tracing::error!(%error, "events can no longer be read");
                return;
            }
        }
    })
}

/// Those who listen.
#[derive(Clone, Debug)]
pub(crate) struct Listeners {
    /// To drops alone.
    pub drops: broadcast::Sender<Bytes>,
    /// To flows that begin, too.
    pub all: broadcast::Sender<Bytes>,
}

impl Listeners {
    /// `backlog`: lines that a slow one may lag behind by.
    pub fn new(backlog: usize) -> Self {
        Self { drops: broadcast::channel(backlog).0, all: broadcast::channel(backlog).0 }
    }
}

struct Explainer {
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    snapshot: Option<Arc<Snapshot>>,
    /// Looking up a line means reading a manifest: once per rule. Entries of lists differ per address, and are bounded.
    rules: HashMap<(u32, Option<IpAddr>), Option<RuleDocument>>,
    interfaces: HashMap<u32, String>,
}

const REMEMBERED: usize = 4096;

impl Explainer {
    fn new(snapshots: watch::Receiver<Option<Arc<Snapshot>>>) -> Self {
        Self { snapshots, snapshot: None, rules: HashMap::new(), interfaces: HashMap::new() }
    }

    fn explain(&mut self, event: &PacketEvent) -> DropDocument {
        if self.snapshot.is_none() || self.snapshots.has_changed().unwrap_or(false) {
            self.snapshot = self.snapshots.borrow_and_update().clone();
            self.rules.clear();
            self.interfaces.clear();
            if let Some(snapshot) = &self.snapshot {
                let known = snapshot.facts.interfaces.iter();
                self.interfaces.extend(known.map(|known| (known.ifindex, known.name.to_string())));
            }
        }
        let (source, destination) = (address(&event.source), address(&event.destination));
        let endpoint = self.snapshot.as_ref().filter(|_| event.endpoint != 0).and_then(|snapshot| {
            snapshot.compiled.endpoint_numbered(event.endpoint).map(|object| ObjectDocument::from(&object))
        });
        let ported = has_ports(event.protocol);
        let reason = Reason::from_code(event.reason);
        let frontend_port = u16::from_be(event.frontend_port_be);
        let frontend = (frontend_port != 0).then(|| SocketAddr::new(address(&event.frontend), frontend_port));
        DropDocument {
            time_ns: event.time_ns,
            verdict: if reason.is_none_or(Reason::is_drop) { "deny" } else { "allow" }.to_owned(),
            reason: reason.map_or_else(|| event.reason.to_string(), |r| r.name().to_owned()),
            direction: if event.direction == Direction::Ingress as u8 { "ingress" } else { "egress" }.to_owned(),
            hook: hook(event.hook).to_owned(),
            interface: self.interfaces.get(&event.ifindex).cloned().unwrap_or_else(|| name_now(event.ifindex)),
            endpoint,
            source,
            destination,
            frontend,
            protocol: protocol_name(event.protocol),
            source_port: ported.then(|| u16::from_be(event.source_port_be)),
            destination_port: ported.then(|| u16::from_be(event.destination_port_be)),
            subject: event.subject,
            peer: event.peer,
            rule: self.rule(event, source, destination),
            length: event.length,
            epoch: event.epoch,
        }
    }

    fn rule(&mut self, event: &PacketEvent, source: IpAddr, destination: IpAddr) -> Option<RuleDocument> {
        if event.rule == 0 {
            return None;
        }
        let snapshot = self.snapshot.clone()?;
        let rule = snapshot.compiled.provenance.rule(event.rule)?;
        // A filter's rule is a list: the entry that covers one of the two ends is what decided.
        let in_list = &*rule.object.kind == "CidrFilter";
        if self.rules.len() > REMEMBERED {
            self.rules.clear();
        }
        let mut explained = |address: Option<IpAddr>| {
            let key = (event.rule, address);
            self.rules.entry(key).or_insert_with(|| Some(snapshot.rule_document(rule, address))).clone()
        };
        if !in_list {
            return explained(None);
        }
        let whole = explained(None);
        let differs = |found: &Option<RuleDocument>| found != &whole;
        [source, destination].into_iter().map(|end| explained(Some(end))).find(differs).unwrap_or(whole.clone())
    }
}

/// A device that an apply has made is not among the facts that it began with.
fn name_now(ifindex: u32) -> String {
    let name = nix::net::if_::if_indextoname(ifindex).ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("#{ifindex}"))
}

fn address(address: &Address) -> IpAddr {
    Ipv6Addr::from(address.0).to_canonical()
}

const fn hook(hook: u8) -> &'static str {
    match hook {
        next_hook::XDP_INGRESS => "xdp_ingress",
        next_hook::FROM_ENDPOINT => "from_endpoint",
        next_hook::TO_ENDPOINT => "to_endpoint",
        next_hook::FROM_NETWORK => "from_network",
        next_hook::TO_NETWORK => "to_network",
        next_hook::FROM_HOST => "from_host",
        _ => "unknown",
    }
}
