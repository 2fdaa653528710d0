//! Flow tests: what became of their packets, beside what was expected.
mod changes;
mod oracle;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};
use weir_compile::{FlowCase, Untestable};
use weir_plan::{ObjectRef, ProbeStep, Provenance as _};
use weir_schema::{Expectation, ExpectedVerdict};

pub use changes::{BackendFateDocument, FateDocument, FlowChangeDocument};
pub use oracle::flow_tests_by_oracle;

use crate::{FORMAT_VERSION, ObjectDocument, Place, Problem, RuleDocument, Snapshot, trace::protocol_name};

/// Who judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Judge {
    /// The programs, with real packets, on the tables that decide about traffic.
    LiveTables,
    /// The programs, with real packets, on tables that are not live yet.
    StagedTables,
    /// The reference evaluator, from the manifests alone.
    Oracle,
}

impl fmt::Display for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LiveTables => "by packets through the programs, on the live tables",
            Self::StagedTables => "by packets through the programs, on the staged tables",
            Self::Oracle => "by the oracle, from the manifests alone: no packet was sent",
        })
    }
}

/// `weir test`, and what a refused commit says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowTestsDocument {
    pub format_version: String,
    /// `None`: every node that the tests concern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    pub judge: Judge,
    pub results: Vec<FlowResult>,
    pub summary: FlowSummary,
}

/// Tests, not packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSummary {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl FlowSummary {
    pub const fn total(self) -> usize {
        self.passed + self.failed + self.skipped
    }

    pub(crate) const fn and(self, more: Self) -> Self {
        let Self { passed, failed, skipped } = more;
        Self { passed: self.passed + passed, failed: self.failed + failed, skipped: self.skipped + skipped }
    }

    pub(crate) const fn named(self) -> [(&'static str, usize); 3] {
        [("passed", self.passed), ("failed", self.failed), ("skipped", self.skipped)]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Result {
    Skipped,
    Passed,
    Failed,
}

/// One packet of a test, or that it made none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowResult {
    pub test: ObjectDocument,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    pub result: Result,
    /// What was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<PacketDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<VerdictDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<VerdictDocument>,
    /// What decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleDocument>,
    /// Where it was decided: a program and its device, or a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// It was the answer that was dropped.
    #[serde(default)]
    pub answer: bool,
    /// Why nothing was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PacketDocument {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The device by which it comes from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

impl PacketDocument {
    fn new(source: IpAddr, destination: IpAddr, protocol: u8, port: u16) -> Self {
        let port = (port != 0).then_some(port);
        Self { source, destination, protocol: protocol_name(protocol), port, interface: None }
    }
}

impl fmt::Display for PacketDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} {}", self.source, self.destination, self.protocol)?;
        match self.port {
            Some(port) => write!(f, "/{port}")?,
            None => f.write_str(" echo")?,
        }
        self.interface.iter().try_for_each(|interface| write!(f, " by {interface}"))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictDocument {
    /// `allow` or `deny`.
    pub verdict: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The backend that a service sends it to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

impl VerdictDocument {
    /// What became of a flow: `reason` why it was dropped, `None` when it was not.
    fn actual(reason: Option<&str>, backend: Option<(IpAddr, u16)>) -> Self {
        let verdict = if reason.is_some() { "deny" } else { "allow" }.to_owned();
        let backend = backend.map(|(address, port)| SocketAddr::new(address, port).to_string());
        Self { verdict, reason: reason.map(str::to_owned), backend }
    }
}

impl From<&Expectation> for VerdictDocument {
    fn from(expected: &Expectation) -> Self {
        let verdict = match expected.verdict {
            ExpectedVerdict::Allow => "allow",
            ExpectedVerdict::Deny => "deny",
        };
        let reason = expected.reason.map(|reason| reason.name().to_owned());
        Self { verdict: verdict.to_owned(), reason, backend: expected.backend.clone() }
    }
}

impl fmt::Display for VerdictDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.verdict)?;
        self.reason.iter().try_for_each(|reason| write!(f, " ({reason})"))?;
        self.backend.iter().try_for_each(|backend| write!(f, " via {backend}"))
    }
}

/// Whether what was dropped, or was not, is as expected. `answer`: it was the answer that was dropped.
fn is_as_expected(expected: &Expectation, dropped: Option<&str>, answer: bool) -> bool {
    match (expected.verdict, dropped) {
        (ExpectedVerdict::Allow, dropped) => dropped.is_none(),
        (ExpectedVerdict::Deny, None) => false,
        (ExpectedVerdict::Deny, Some(reason)) => {
            !answer && expected.reason.is_none_or(|expected| expected.name() == reason)
        }
    }
}

impl FlowTestsDocument {
    pub(crate) fn new(node: Option<&str>, judge: Judge, results: Vec<FlowResult>) -> Self {
        let mut summary = FlowSummary::default();
        for packets in results.chunk_by(|a, b| a.test == b.test) {
            match packets.iter().map(|packet| packet.result).max() {
                Some(Result::Failed) => summary.failed += 1,
                Some(Result::Passed) => summary.passed += 1,
                Some(Result::Skipped) | None => summary.skipped += 1,
            }
        }
        Self { format_version: FORMAT_VERSION.to_owned(), node: node.map(str::to_owned), judge, results, summary }
    }

    pub fn failed(&self) -> impl Iterator<Item = &FlowResult> {
        self.results.iter().filter(|result| result.result == Result::Failed)
    }
}

impl FlowResult {
    /// A test that made no packet.
    fn untested(snapshot: &Snapshot, test: &ObjectRef, why: &Untestable) -> Self {
        let result = if why.is_failure() { Result::Failed } else { Result::Skipped };
        Self { result, why: Some(why.to_string()), ..Self::about(test, snapshot.place_of_object(test)) }
    }

    fn about(test: &ObjectRef, place: Option<Place>) -> Self {
        Self {
            test: ObjectDocument::from(test),
            line: place.as_ref().map(|place| place.line),
            file: place.map(|place| place.file.to_string()),
            result: Result::Skipped,
            flow: None,
            expected: None,
            actual: None,
            rule: None,
            at: None,
            answer: false,
            why: None,
        }
    }

    /// What the programs made of a packet.
    fn of(snapshot: &Snapshot, case: &FlowCase, steps: &[ProbeStep]) -> Self {
        let probe = &case.probe;
        let dropped = steps.iter().find(|step| step.reason.is_drop());
        let said = |step: &&ProbeStep| !step.answer && step.rule != 0;
        let decided = dropped.or_else(|| steps.iter().rfind(said));
        let reason = dropped.map(|step| step.reason.name());
        let answer = dropped.is_some_and(|step| step.answer);
        let sent_to = steps.iter().rev().filter(|step| !step.answer).find_map(|step| step.destination);
        // One packet tells of one backend; the tables, of all.
        let strayed = case.backend.as_ref().and_then(|wanted| {
            let is_another = |(address, port): &(IpAddr, u16)| !wanted.is(*address, *port);
            sent_to.filter(is_another).or(case.astray)
        });
        let is_there = case.backend.is_none() || sent_to.is_some() && strayed.is_none();
        let is_right = is_as_expected(&case.expect, reason, answer) && is_there;
        let rule = decided.and_then(|step| snapshot.compiled.provenance.rule(step.rule));
        let rule = rule.map(|rule| {
            let destination = sent_to.map_or(probe.destination, |(address, _)| address);
            snapshot.rule_between(rule, [Some(probe.source), Some(destination)])
        });
        let interface = case.interface.as_ref().map(ToString::to_string);
        let flow = PacketDocument::new(probe.source, probe.destination, probe.protocol, probe.port);
        Self {
            result: if is_right { Result::Passed } else { Result::Failed },
            flow: Some(PacketDocument { interface, ..flow }),
            expected: Some((&case.expect).into()),
            actual: Some(VerdictDocument::actual(reason, if reason.is_none() { strayed.or(sent_to) } else { sent_to })),
            rule,
            at: decided.map(|step| format!("{} on {}", step.at.hook.program(), step.at.place)),
            answer,
            ..Self::about(&case.test, snapshot.place_of_object(&case.test))
        }
    }

    /// What is wrong, in one line.
    pub fn complaint(&self) -> String {
        let text = |verdict: &Option<VerdictDocument>| verdict.as_ref().map(ToString::to_string).unwrap_or_default();
        let flow = self.flow.as_ref().map(ToString::to_string).unwrap_or_default();
        match &self.why {
            Some(why) => why.clone(),
            None => {
                let answer = if self.answer { ", for the answer" } else { "" };
                let at = self.at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
                let rule = self.rule.as_ref().map(|rule| format!(", {rule}")).unwrap_or_default();
                format!("{flow}: expected {}, got {}{answer}{at}{rule}", text(&self.expected), text(&self.actual))
            }
        }
    }
}

impl From<&FlowResult> for Problem {
    fn from(failed: &FlowResult) -> Self {
        Self {
            code: "flow-test".to_owned(),
            object: Some(failed.test.to_string()),
            file: failed.file.clone(),
            line: failed.line,
            column: None,
            message: failed.complaint(),
            help: None,
        }
    }
}

/// The results of all cases, in the order of the tests.
pub(crate) fn results(
    snapshot: &Snapshot,
    cases: &weir_compile::FlowCases,
    steps: &[Vec<ProbeStep>],
) -> Vec<FlowResult> {
    let sent = cases.cases.iter().zip(steps).map(|(case, steps)| (&case.test, FlowResult::of(snapshot, case, steps)));
    let unsent = cases.untested.iter().map(|(test, why)| (test, FlowResult::untested(snapshot, test, why)));
    let mut all: Vec<_> = sent.chain(unsent).collect();
    all.sort_by(|a, b| a.0.cmp(b.0));
    all.into_iter().map(|(_, result)| result).collect()
}
