//! The comparison of compiled services with the reference evaluator, in memory.
use std::sync::Arc;

use weir_abi::identity;
use weir_oracle::{Delivery, Flow, World};
use weir_plan::Tables;
use weir_schema::Object;

use super::{
    model::{self, Delivered},
    outward,
};
use crate::property::{
    check::{Disagreement, RuleOf, compare_end},
    generate::Generated,
    topology::NODE,
};

/// How often each answer was given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub direct: usize,
    pub balanced: usize,
    /// Of those that are balanced: by backends, and by what policy makes of them.
    pub backends: usize,
    pub denied: usize,
    /// From an endpoint to itself.
    pub own: usize,
    pub no_service: usize,
    pub no_backend: usize,
    pub source_range: usize,
    /// What leaves under the node's address, and what an endpoint sends under its own.
    pub masqueraded: usize,
    pub spared: usize,
}

/// Every disagreement over these flows.
pub fn compare(
    set: &Generated,
    objects: &[Arc<Object>],
    tables: &Tables,
    rule_of: RuleOf<'_>,
    flows: &[Flow],
    counts: &mut Counts,
) -> Vec<Disagreement> {
    let world = World::new(objects, NODE, &set.topology.host);
    let mut found = Vec::new();
    for flow in flows {
        let expected = world.deliver(flow);
        let to = match &expected {
            Delivery::Direct(_) => {
                counts.direct += 1;
                Delivered::Direct
            }
            Delivery::Dropped(drop) => {
                match drop.reason() {
                    "no_service" => counts.no_service += 1,
                    "no_backend" => counts.no_backend += 1,
                    _ => counts.source_range += 1,
                }
                Delivered::Dropped(drop.reason())
            }
            Delivery::Balanced { backends, .. } => {
                counts.balanced += 1;
                counts.backends += backends.len();
                counts.denied += backends.iter().filter(|backend| !backend.judgement.allowed()).count();
                Delivered::To(backends.iter().map(|backend| (backend.address, backend.port)).collect())
            }
        };
        let delivered = model::deliver(tables, flow);
        if delivered != to {
            found.push(Disagreement {
                seed: set.seed,
                what: flow.to_string(),
                expected: format!("{to:?}"),
                found: format!("{delivered:?}"),
                differs_in_verdict: true,
            });
            continue;
        }
        let Delivery::Balanced { backends, .. } = expected else { continue };
        for backend in backends {
            let on = Flow { destination: backend.address, protocol: flow.protocol.to_port(backend.port), ..*flow };
            // By the tables, an endpoint's packet to itself goes back before anybody is asked.
            let hairpin = backend.address == flow.source
                && tables.endpoints.get(&flow.source).is_some_and(|info| info.identity != identity::HOST);
            counts.own += usize::from(hairpin);
            let (egress, ingress) = if hairpin { (None, None) } else { crate::property::model::judge(tables, &on) };
            let what = |end| format!("{flow}, to {}:{}, {end}", backend.address, backend.port);
            found.extend(compare_end(set, what("egress"), &backend.judgement.egress, egress, rule_of));
            found.extend(compare_end(set, what("ingress"), &backend.judgement.ingress, ingress, rule_of));
        }
    }
    found
}

/// Every disagreement over the address under which somebody is seen outside.
pub fn compare_masquerade(
    set: &Generated,
    objects: &[Arc<Object>],
    tables: &Tables,
    counts: &mut Counts,
) -> Vec<Disagreement> {
    let world = World::new(objects, NODE, &set.topology.host);
    let mut found = Vec::new();
    for (source, destination) in outward(&set.topology) {
        let expected = world.is_masqueraded(source, destination);
        counts.masqueraded += usize::from(expected);
        counts.spared += usize::from(!expected && set.topology.interface_of(source).is_some());
        let masqueraded = model::is_masqueraded(tables, source, destination);
        if masqueraded != expected {
            let name = |masqueraded| if masqueraded { "the node's address" } else { "its own address" };
            found.push(Disagreement {
                seed: set.seed,
                what: format!("{source} to {destination}"),
                expected: name(expected).to_owned(),
                found: name(masqueraded).to_owned(),
                differs_in_verdict: true,
            });
        }
    }
    found
}
