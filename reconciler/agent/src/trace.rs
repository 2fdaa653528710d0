//! Which rule decides about a flow, with its line.
use std::net::IpAddr;

use weir_compile::{BackendTrace, Decision, Outcome, Party, ServiceTrace, TraceError, TraceFlow, TraceVerdict};
use weir_plan::RuleRef;

use crate::{
    Error, FORMAT_VERSION, ObjectDocument, PartyDocument, RuleDocument, Snapshot, StepDocument, TraceDocument,
    TracedBackendDocument, TracedServiceDocument,
};

/// `tcp/80`, `udp/53`, `icmp/8`, `icmpv6/128`, `sctp/3868`.
pub fn parse_port(text: &str) -> Result<(u8, u16), Error> {
    let refused =
        || Error::Usage { what: format!("`{text}` is no protocol and port: write for example tcp/80 or icmp/8") };
    let (protocol, port) = text.split_once('/').ok_or_else(refused)?;
    let protocol = PROTOCOLS.iter().find(|(_, name)| *name == protocol.to_ascii_lowercase()).ok_or_else(refused)?.0;
    let port: u16 = port.parse().map_err(|_| refused())?;
    if matches!(protocol, 1 | 58) && port > 255 { Err(refused()) } else { Ok((protocol, port)) }
}

const PROTOCOLS: [(u8, &str); 5] = [(1, "icmp"), (6, "tcp"), (17, "udp"), (58, "icmpv6"), (132, "sctp")];

/// `tcp`, or a number.
pub fn parse_protocol(text: &str) -> Result<u8, Error> {
    let known = PROTOCOLS.iter().find(|(_, name)| *name == text.to_ascii_lowercase());
    let refused = || Error::Usage { what: format!("`{text}` is no protocol: write for example tcp, udp, icmp or 132") };
    known.map_or_else(|| text.parse().map_err(|_| refused()), |(number, _)| Ok(*number))
}

/// Others have an identifier at most.
pub(crate) const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 132)
}

pub(crate) fn protocol_name(protocol: u8) -> String {
    let known = PROTOCOLS.iter().find(|(number, _)| *number == protocol);
    known.map_or_else(|| protocol.to_string(), |(_, name)| (*name).to_owned())
}

impl Snapshot {
    /// What would become of a new flow.
    pub fn trace(&self, source: &str, destination: &str, port: &str) -> Result<TraceDocument, Error> {
        let (protocol, port) = parse_port(port)?;
        let flow = TraceFlow {
            source: self.compiled.resolve(source).map_err(refused)?,
            destination: self.compiled.resolve(destination).map_err(refused)?,
            protocol,
            port,
        };
        let trace = self.compiled.trace(&flow).map_err(refused)?;
        let mut steps = Vec::new();
        for device in &trace.prefilter {
            let ends = [trace.source.address, trace.destination.address];
            let rule = device.rule.as_ref().map(|rule| self.rule_between(rule, ends));
            steps.push(StepDocument {
                step: "prefilter".to_owned(),
                interface: Some(device.interface.to_string()),
                decision: if device.drops { "drop" } else { "pass" }.to_owned(),
                rule,
            });
        }
        steps.extend(self.policy_steps(&trace.egress, &trace.ingress));
        let verdict = match trace.verdict() {
            TraceVerdict::Allowed => "allowed",
            TraceVerdict::Dropped => "dropped",
            TraceVerdict::Varies => "varies",
        };
        Ok(TraceDocument {
            format_version: FORMAT_VERSION.to_owned(),
            verdict: verdict.to_owned(),
            source: party(&trace.source),
            destination: party(&trace.destination),
            protocol: protocol_name(protocol),
            port,
            steps,
            service: trace.service.as_ref().map(|service| self.traced_service(service)),
        })
    }

    fn policy_steps(&self, egress: &Option<Decision>, ingress: &Option<Decision>) -> Vec<StepDocument> {
        let step = |(step, decision): (&str, &Option<Decision>)| {
            let decision = decision.as_ref()?;
            let said = match decision.outcome {
                Outcome::NotEnforced => "not enforced",
                Outcome::Allow => "allow",
                Outcome::Deny => "deny",
                Outcome::DefaultDeny => "default deny",
            };
            Some(StepDocument {
                step: step.to_owned(),
                interface: None,
                decision: said.to_owned(),
                rule: decision.rule.as_ref().map(|rule| self.rule_document(rule, None)),
            })
        };
        [("egress", egress), ("ingress", ingress)].into_iter().filter_map(step).collect()
    }

    fn traced_service(&self, service: &ServiceTrace) -> TracedServiceDocument {
        let backend = |backend: &BackendTrace| TracedBackendDocument {
            backend: party(&backend.backend),
            port: backend.port,
            verdict: if backend.passes() { "allowed" } else { "dropped" }.to_owned(),
            hairpin: backend.is_client,
            steps: self.policy_steps(&backend.egress, &backend.ingress),
        };
        let place = service.service.as_ref().and_then(|object| self.place_of_object(object));
        TracedServiceDocument {
            object: service.service.as_ref().map(ObjectDocument::from),
            line: place.as_ref().map(|place| place.line),
            file: place.map(|place| place.file.to_string()),
            reason: service.dropped.map(|reason| reason.name().to_owned()),
            backends: service.backends.iter().map(backend).collect(),
        }
    }

    /// A rule that decided about a flow: of a list, the entry that covers whichever end the rule looks at.
    pub(crate) fn rule_between(&self, rule: &RuleRef, ends: [Option<IpAddr>; 2]) -> RuleDocument {
        let of_an_end = |address| Some(self.rule_document(rule, Some(address))).filter(|found| found.line.is_some());
        ends.into_iter().flatten().find_map(of_an_end).unwrap_or_else(|| self.rule_document(rule, None))
    }

    pub(crate) fn rule_document(&self, rule: &RuleRef, address: Option<IpAddr>) -> RuleDocument {
        let place = self.place_of_rule(rule, address);
        RuleDocument {
            object: ObjectDocument::from(&rule.object),
            path: rule.path.to_string(),
            line: place.as_ref().map(|place| place.line),
            file: place.map(|place| place.file.to_string()),
        }
    }
}

fn party(party: &Party) -> PartyDocument {
    PartyDocument {
        address: party.address,
        identity: party.identity,
        labels: party.labels.clone(),
        endpoint: party.endpoint.as_ref().map(ObjectDocument::from),
    }
}

fn refused(error: TraceError) -> Error {
    let what = error.to_string();
    match error {
        TraceError::Ambiguous { name, matches } => {
            Error::Ambiguous { what: format!("`{name}` is {} endpoints", matches.len()), candidates: matches }
        }
        TraceError::Unknown(_) | TraceError::Families => Error::Usage { what },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_as_people_write_them() {
        for (text, number) in [("tcp", 6), ("ICMPv6", 58), ("132", 132), ("0", 0), ("255", 255)] {
            assert_eq!(parse_protocol(text).unwrap(), number, "{text}");
        }
        for bad in ["", "gre", "256", "-1", "tcp/80"] {
            assert_eq!(parse_protocol(bad).unwrap_err().exit(), crate::Exit::USAGE, "{bad}");
        }
    }

    #[test]
    fn ports_as_people_write_them() {
        assert_eq!(parse_port("tcp/80").unwrap(), (6, 80));
        assert_eq!(parse_port("UDP/65535").unwrap(), (17, 65535));
        assert_eq!(parse_port("icmp/8").unwrap(), (1, 8));
        assert_eq!(parse_port("icmpv6/128").unwrap(), (58, 128));
        for bad in ["", "80", "tcp", "tcp/", "tcp/65536", "tcp/-1", "icmp/256", "gre/1", "tcp/80/tcp"] {
            assert_eq!(parse_port(bad).unwrap_err().exit(), crate::Exit::USAGE, "{bad}");
        }
    }
}
