//! `get flows`: what conntrack holds, with the rules that decided.
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weir_abi::{Address, ConntrackEntry, ConntrackKey, VerdictWord, ct_flags, flow_verdict};
use weir_plan::{Provenance as _, Store};

use crate::{
    Engine, Error, FORMAT_VERSION, FlowSource, Inspect, ObjectDocument, RuleDocument, Snapshot,
    trace::{has_ports, protocol_name},
};

/// Which flows, and how many of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowQuery {
    pub limit: usize,
    /// Either end is inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpNet>,
    /// Of either end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowsDocument {
    pub format_version: String,
    pub node: String,
    pub resource: String,
    /// By protocol, destination and source; of more than the limit, any.
    pub items: Vec<FlowDocument>,
    /// How many were left out.
    pub more: u64,
}

/// One flow, as its first packet went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowDocument {
    pub protocol: String,
    pub source: IpAddr,
    pub source_port: Option<u16>,
    pub source_endpoint: Option<ObjectDocument>,
    pub destination: IpAddr,
    pub destination_port: Option<u16>,
    pub destination_endpoint: Option<ObjectDocument>,
    /// The frontend that the source sent to; the destination is the backend that it got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<SocketAddr>,
    /// Of an ICMP echo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifier: Option<u16>,
    /// TCP: `syn`, `established`, `closing`; others: `unreplied`, `replied`.
    pub state: String,
    /// A packet of the other direction was let through.
    pub replied: bool,
    /// Seconds that it lives yet, unless a packet comes.
    pub expires_in: f64,
    /// Of the source; `None` where nobody judged it.
    pub egress: Option<FlowVerdictDocument>,
    /// Of the destination.
    pub ingress: Option<FlowVerdictDocument>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowVerdictDocument {
    /// `allow` or `deny`.
    pub verdict: String,
    /// Judged in the live epoch; otherwise the next packet is judged afresh, by rules that may be others.
    pub current: bool,
    pub epoch: u64,
    /// `None`: no rule decided, or by now the rule's number may stand for another.
    pub rule: Option<RuleDocument>,
}

/// What it takes to tell of flows; it can be taken to where nobody waits.
#[derive(Debug)]
pub struct FlowView<F> {
    pub(crate) node: Arc<str>,
    pub(crate) applied: Option<Arc<Snapshot>>,
    /// Of the live generation.
    epoch: u64,
    flows: Option<F>,
}

impl<D: Inspect, S: Store> Engine<D, S> {
    pub fn flow_view(&mut self) -> Result<FlowView<D::Flows>, Error> {
        let applied = self.applied()?;
        let epoch = self.datapath().generation()?.map_or(0, |generation| generation.epoch);
        Ok(FlowView { node: self.node().clone(), applied, epoch, flows: self.datapath().flows()? })
    }
}

impl<F: FlowSource> FlowView<F> {
    /// Reads both tables whole, a part at a time, and holds on to what is asked for.
    pub fn list(&self, query: &FlowQuery) -> Result<FlowsDocument, Error> {
        let (mut found, mut matching) = (BTreeMap::new(), 0u64);
        let (mut now, mut hz) = (0, 1);
        if let Some(flows) = &self.flows {
            (now, hz) = (flows.now()?, flows.jiffies_per_second());
            flows.walk(&mut |key, entry| {
                // Which backend a client got is told with the flow to it.
                if entry.flags & ct_flags::SERVICE != 0 {
                    return;
                }
                let flow = Flow::new(key, entry);
                if now < entry.expires && flow.answers(query) {
                    matching += 1;
                    // A flow that changed its place meanwhile comes twice.
                    if found.len() < query.limit && found.insert(flow, *entry).is_some() {
                        matching -= 1;
                    }
                }
            })?;
        }
        let mut rules = HashMap::new();
        let more = matching - found.len() as u64;
        let items = found.into_iter().map(|(flow, entry)| {
            let lives = entry.expires.saturating_sub(now) as f64 / f64::from(hz);
            self.document(&flow, &entry, lives, &mut rules)
        });
        Ok(FlowsDocument {
            format_version: FORMAT_VERSION.to_owned(),
            node: self.node.to_string(),
            resource: "flows".to_owned(),
            items: items.collect(),
            more,
        })
    }

    /// Goes through the live flows that came by a frontend: protocol, frontend and backend of each. One that changes
    /// its place meanwhile may come twice.
    pub(crate) fn served(&self, each: &mut dyn FnMut(u8, SocketAddr, SocketAddr)) -> Result<(), Error> {
        let Some(flows) = &self.flows else { return Ok(()) };
        let now = flows.now()?;
        flows.walk(&mut |key, entry| {
            let flow = Flow::new(key, entry);
            if let Some(frontend) = flow.frontend
                && entry.flags & ct_flags::SERVICE == 0
                && now < entry.expires
            {
                each(flow.protocol, frontend, flow.destination.into());
            }
        })?;
        Ok(())
    }

    fn document(&self, flow: &Flow, entry: &ConntrackEntry, lives: f64, rules: &mut Rules) -> FlowDocument {
        let (source, destination) = (flow.source, flow.destination);
        let endpoint = |address| Some(ObjectDocument::from(&self.applied.as_ref()?.compiled.endpoint_at(address)?));
        let port = |port: u16| has_ports(flow.protocol).then_some(port);
        FlowDocument {
            protocol: protocol_name(flow.protocol),
            source: source.0,
            source_port: port(source.1),
            source_endpoint: endpoint(source.0),
            destination: destination.0,
            destination_port: port(destination.1),
            destination_endpoint: endpoint(destination.0),
            frontend: flow.frontend,
            identifier: matches!(flow.protocol, ICMP | ICMPV6).then_some(source.1),
            state: state(flow.protocol, entry.flags).to_owned(),
            replied: entry.flags & ct_flags::SEEN_REPLY != 0,
            expires_in: (lives * 1000.0).round() / 1000.0,
            egress: self.verdict(entry.egress, rules),
            ingress: self.verdict(entry.ingress, rules),
        }
    }

    fn verdict(&self, word: VerdictWord, rules: &mut Rules) -> Option<FlowVerdictDocument> {
        let verdict = match word.verdict() {
            flow_verdict::NONE => return None,
            flow_verdict::ALLOW => "allow",
            flow_verdict::DENY => "deny",
            _ => "redirect",
        };
        let current = word.epoch() == self.epoch;
        let mut rule = || {
            let applied = self.applied.as_ref()?;
            let rule = applied.compiled.provenance.rule(word.rule())?;
            // Looking up a line means reading a manifest: once per rule.
            Some(rules.entry(word.rule()).or_insert_with(|| applied.rule_document(rule, None)).clone())
        };
        let rule = if current { rule() } else { None };
        Some(FlowVerdictDocument { verdict: verdict.to_owned(), current, epoch: word.epoch(), rule })
    }
}

type Rules = HashMap<u32, RuleDocument>;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;

/// In the order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flow {
    protocol: u8,
    destination: (IpAddr, u16),
    source: (IpAddr, u16),
    frontend: Option<SocketAddr>,
}

impl Flow {
    fn new(key: &ConntrackKey, entry: &ConntrackEntry) -> Self {
        let address = |address: &Address| Ipv6Addr::from(address.0).to_canonical();
        let low = (address(&key.low), u16::from_be(key.low_port_be));
        let high = (address(&key.high), u16::from_be(key.high_port_be));
        let (source, destination) = if entry.flags & ct_flags::SOURCE_IS_HIGH != 0 { (high, low) } else { (low, high) };
        let port = u16::from_be(entry.service_port_be);
        let frontend = (port != 0).then(|| SocketAddr::new(address(&entry.service), port));
        Self { protocol: key.protocol, destination, source, frontend }
    }

    fn answers(&self, query: &FlowQuery) -> bool {
        let frontend = self.frontend.map(|frontend| (frontend.ip(), frontend.port()));
        let mut ends = [self.source, self.destination].into_iter().chain(frontend);
        query.protocol.is_none_or(|protocol| protocol == self.protocol)
            && query.address.is_none_or(|net| ends.clone().any(|(address, _)| net.contains(&address)))
            && query.port.is_none_or(|port| has_ports(self.protocol) && ends.any(|(_, own)| own == port))
    }
}

/// As the programs tell how long a flow lives.
const fn state(protocol: u8, flags: u32) -> &'static str {
    const BOTH_FINS: u32 = ct_flags::FIN_ORIGINAL | ct_flags::FIN_REPLY;
    let replied = flags & ct_flags::SEEN_REPLY != 0;
    match protocol {
        TCP if flags & ct_flags::RST != 0 || flags & BOTH_FINS == BOTH_FINS => "closing",
        TCP if flags & ct_flags::SEEN_NON_SYN != 0 => "established",
        TCP => "syn",
        _ if replied => "replied",
        _ => "unreplied",
    }
}

#[cfg(test)]
mod tests {
    use weir_datapath::FlowCount;
    use weir_plan::DatapathError;

    use super::*;

    struct Fixed(Vec<(ConntrackKey, ConntrackEntry)>);

    const NOW: u64 = (1 << 32) + 7;

    impl FlowSource for Fixed {
        fn now(&self) -> Result<u64, DatapathError> {
            Ok(NOW)
        }

        fn jiffies_per_second(&self) -> u32 {
            250
        }

        fn walk(&self, each: &mut dyn FnMut(&ConntrackKey, &ConntrackEntry)) -> Result<(), DatapathError> {
            self.0.iter().for_each(|(key, entry)| each(key, entry));
            Ok(())
        }

        fn count(&self) -> Result<Vec<FlowCount>, DatapathError> {
            Ok(Vec::new())
        }
    }

    fn flow(protocol: u8, ports: [u16; 2], flags: u32, lives: i64) -> (ConntrackKey, ConntrackEntry) {
        let address = |text: &str| match text.parse().unwrap() {
            IpAddr::V4(address) => Address(address.to_ipv6_mapped().octets()),
            IpAddr::V6(address) => Address(address.octets()),
        };
        let key = ConntrackKey {
            low: address("10.10.0.2"),
            high: address("192.0.2.10"),
            low_port_be: ports[0].to_be(),
            high_port_be: ports[1].to_be(),
            protocol,
            reserved: [0; 3],
        };
        let expires = NOW.wrapping_add_signed(lives);
        (key, ConntrackEntry { flags, expires, ingress: VerdictWord::new(9, 0, 1), ..ConntrackEntry::default() })
    }

    fn listed(flows: &[(ConntrackKey, ConntrackEntry)], query: FlowQuery) -> FlowsDocument {
        let view = FlowView { node: "n1".into(), applied: None, epoch: 9, flows: Some(Fixed(flows.to_vec())) };
        view.list(&query).unwrap()
    }

    fn all() -> FlowQuery {
        FlowQuery { limit: 10, address: None, port: None, protocol: None }
    }

    #[test]
    fn a_flow_goes_as_its_first_packet_went_and_lives_in_seconds() {
        let flows = [flow(6, [80, 4000], ct_flags::SOURCE_IS_HIGH | ct_flags::SEEN_NON_SYN, 250)];
        let [one] = &listed(&flows, all()).items[..] else { panic!("one") };
        assert_eq!((one.source.to_string(), one.source_port), ("192.0.2.10".to_owned(), Some(4000)));
        assert_eq!((one.destination.to_string(), one.destination_port), ("10.10.0.2".to_owned(), Some(80)));
        assert_eq!((&*one.protocol, &*one.state, one.expires_in, one.replied), ("tcp", "established", 1.0, false));
        assert_eq!(one.egress, None);
        let ingress = one.ingress.as_ref().unwrap();
        assert_eq!((&*ingress.verdict, ingress.current, ingress.epoch), ("allow", true, 9));
        let turned = listed(&[flow(1, [7, 7], 0, 1)], all());
        assert_eq!((turned.items[0].source.to_string(), turned.items[0].identifier), ("10.10.0.2".to_owned(), Some(7)));
        assert_eq!(turned.items[0].source_port, None);
    }

    #[test]
    fn a_services_flow_names_backend_and_frontend_and_is_told_once() {
        let (key, entry) = flow(6, [8080, 4000], ct_flags::SOURCE_IS_HIGH, 250);
        let vip = Address([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 96, 0, 10]);
        let served = ConntrackEntry { service: vip, service_port_be: 80u16.to_be(), ..entry };
        let picked = ConntrackEntry { service: key.low, flags: entry.flags | ct_flags::SERVICE, ..served };
        let flows = [(key, served), (ConntrackKey { low: vip, ..key }, picked)];
        let found = listed(&flows, all());
        assert_eq!((found.items.len(), found.more), (1, 0));
        assert_eq!(found.items[0].frontend, Some("10.96.0.10:80".parse().unwrap()));
        assert_eq!(found.items[0].destination.to_string(), "10.10.0.2");
        for (query, expected) in [
            (FlowQuery { address: Some("10.96.0.10/32".parse().unwrap()), ..all() }, 1),
            (FlowQuery { port: Some(80), ..all() }, 1),
            (FlowQuery { port: Some(81), ..all() }, 0),
        ] {
            assert_eq!(listed(&flows, query).items.len(), expected);
        }
    }

    #[test]
    fn states_are_those_that_lifetimes_follow() {
        use ct_flags::{FIN_ORIGINAL, FIN_REPLY, RST, SEEN_NON_SYN, SEEN_REPLY};
        for (protocol, flags, expected) in [
            (6, 0, "syn"),
            (6, SEEN_REPLY, "syn"),
            (6, SEEN_NON_SYN, "established"),
            (6, SEEN_NON_SYN | FIN_REPLY, "established"),
            (6, SEEN_NON_SYN | FIN_ORIGINAL | FIN_REPLY, "closing"),
            (6, RST, "closing"),
            (17, 0, "unreplied"),
            (17, SEEN_REPLY, "replied"),
        ] {
            assert_eq!(state(protocol, flags), expected, "{protocol} {flags:b}");
        }
    }

    #[test]
    fn what_has_expired_is_not_there() {
        let flows = [flow(17, [1, 1], 0, 0), flow(17, [2, 2], 0, -5), flow(17, [3, 3], 0, 1)];
        let found = listed(&flows, all());
        assert_eq!((found.items.len(), found.more, found.items[0].source_port), (1, 0, Some(3)));
    }

    #[test]
    fn filters_look_at_both_ends_and_the_rest_is_counted() {
        let flows: Vec<_> = (1..=5).map(|port| flow(17, [port, 4000], 0, 100)).chain([flow(1, [4, 4], 0, 9)]).collect();
        let of = |query: FlowQuery| {
            let found = listed(&flows, query);
            (found.items.len(), found.more)
        };
        assert_eq!(of(all()), (6, 0));
        assert_eq!(of(FlowQuery { limit: 2, ..all() }), (2, 4));
        assert_eq!(of(FlowQuery { limit: 0, ..all() }), (0, 6));
        assert_eq!(of(FlowQuery { port: Some(4), ..all() }), (1, 0), "an identifier is no port");
        assert_eq!(of(FlowQuery { port: Some(4000), ..all() }), (5, 0));
        assert_eq!(of(FlowQuery { protocol: Some(1), ..all() }), (1, 0));
        for (net, expected) in [("192.0.2.0/24", 6), ("10.10.0.2/32", 6), ("10.10.0.3/32", 0), ("::/0", 0)] {
            assert_eq!(of(FlowQuery { address: Some(net.parse().unwrap()), ..all() }).0, expected, "{net}");
        }
    }
}
