//! What the policy of one subject says about one peer, protocol and port.
//!
//! Functions that are called `weir_…` here and elsewhere are global functions of the object: the verifier looks at each
//! once, whoever calls it, and knows of their arguments no more than their types.
use weir_abi::{
    DIRECTION_EGRESS, DIRECTION_INGRESS, PolicyEntry, PolicyKey, RULE_NONE, SubjectInfo, TupleClass, VerdictWord,
    flow_verdict, policy_verdict,
};

use crate::{case::Subject, maps::Hash, run::Run, tables};

/// What is asked about: packed, for a subprogram takes five registers.
#[derive(Clone, Copy)]
pub struct What(u32);

impl What {
    /// `direction` is the subject's; `port` is in host order, or an ICMP type.
    #[inline(always)]
    pub fn new(direction: u8, protocol: u8, port: u16) -> Self {
        Self((direction as u32) << 24 | (protocol as u32) << 16 | port as u32)
    }

    #[inline(always)]
    fn direction(self) -> u8 {
        (self.0 >> 24) as u8 & 1
    }

    #[inline(always)]
    fn protocol(self) -> u8 {
        (self.0 >> 16) as u8
    }

    #[inline(always)]
    fn port(self) -> u16 {
        self.0 as u16
    }
}

/// The answer, stamped with the run's epoch.
///
/// Any deny entry denies. Else the most specific allow entry decides, else the default of the direction.
#[inline(always)]
pub fn judge(run: Run, subject: u32, peer: u32, what: What) -> VerdictWord {
    VerdictWord(weir_judge(run.word, subject, peer, what.0))
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_judge(word: u64, subject: u32, peer: u32, what: u32) -> u64 {
    judge_here(Run { word }, subject, peer, What(what)).0
}

/// As [`judge`], without the call: for the one place where it is felt.
#[inline(always)]
pub fn judge_here(run: Run, subject: u32, peer: u32, what: What) -> VerdictWord {
    let epoch = run.epoch();
    let allow = |rule| VerdictWord::new(epoch, rule, flow_verdict::ALLOW);
    let deny = |rule| VerdictWord::new(epoch, rule, flow_verdict::DENY);

    let Some(info) = tables::subject(run.side(), subject) else { return allow(RULE_NONE) };
    let (deny_classes, allow_classes, default_deny) = of_direction(info, what.direction());
    if let Some(policy) = tables::policy(run.side()) {
        if let Some(rule) = probe(policy, subject, peer, what, deny_classes, true) {
            return deny(rule);
        }
        if let Some(rule) = probe(policy, subject, peer, what, allow_classes, false) {
            return allow(rule);
        }
    }
    if default_deny { deny(RULE_NONE) } else { allow(RULE_NONE) }
}

/// Whether anything could deny a packet of this subject in this direction.
#[inline(always)]
pub fn may_deny(run: Run, subject: &Subject, is_source: bool) -> bool {
    let direction = if is_source { DIRECTION_EGRESS } else { DIRECTION_INGRESS };
    tables::subject(run.side(), subject.identity).is_some_and(|info| {
        let (deny_classes, _, default_deny) = of_direction(info, direction);
        deny_classes != 0 || default_deny
    })
}

#[inline(always)]
fn of_direction(subject: &SubjectInfo, direction: u8) -> (u64, u64, bool) {
    if direction == DIRECTION_INGRESS {
        (subject.deny_classes[0], subject.allow_classes[0], subject.default_deny[0] != 0)
    } else {
        (subject.deny_classes[1], subject.allow_classes[1], subject.default_deny[1] != 0)
    }
}

/// The rule of the most specific entry of that kind, among the classes that the subject uses.
#[inline(always)]
fn probe(
    policy: &'static Hash<PolicyKey, PolicyEntry>,
    subject: u32,
    peer: u32,
    what: What,
    classes: u64,
    denies: bool,
) -> Option<u32> {
    let mut rest = classes;
    for _ in 0..TupleClass::COUNT {
        if rest == 0 {
            break;
        }
        let class = TupleClass(rest.trailing_zeros() as u8);
        rest &= rest - 1;
        let key = PolicyKey::new(subject, peer, what.direction(), class, what.protocol(), what.port());
        if let Some(entry) = tables::policy_entry(policy, &key)
            && (entry.verdict == policy_verdict::DENY) == denies
        {
            return Some(entry.rule);
        }
    }
    None
}
