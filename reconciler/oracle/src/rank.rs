//! Which of several matching rules decides, and is named.
use crate::RuleId;

/// A rule that matches a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    pub deny: bool,
    pub ports: PortShape,
    pub any_peer: bool,
    pub rule: RuleId,
}

/// How much of protocol and port a rule names; the greater, the more specific.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PortShape {
    AnyProtocol,
    /// The protocol, and so many leading bits of the port: 0 is every port, 16 is one.
    Protocol {
        bits: u32,
    },
}

/// How the ports of a rule match a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortMatch {
    pub shape: PortShape,
    /// By a name, which is a port of one endpoint.
    pub named: bool,
}

impl PortMatch {
    pub(crate) const fn number(shape: PortShape) -> Self {
        Self { shape, named: false }
    }
}

/// The match that wins.
pub(crate) fn best(matches: Vec<Match>) -> Option<Match> {
    matches.into_iter().reduce(|best, other| if outranks(&other, &best) { other } else { best })
}

fn outranks(a: &Match, b: &Match) -> bool {
    if a.deny != b.deny {
        return a.deny;
    }
    if a.ports != b.ports {
        return a.ports > b.ports;
    }
    if a.any_peer != b.any_peer {
        return b.any_peer;
    }
    a.rule < b.rule
}
