//! Flow tests: packets through the programs, on tables that are not live yet or on those that are.
use std::sync::Arc;

use weir_compile::FlowCases;
use weir_plan::{Datapath, Store, TableCopy};
use weir_schema::{Object, Options};

use super::Engine;
use crate::{
    Error, FlowSummary, FlowTestsDocument, Judge, Manifests, Snapshot,
    flow_test::{self, FlowResult},
};

impl<D: Datapath, S: Store> Engine<D, S> {
    /// Refuses what does not pass its own tests. `flips`: it stands on the standby side; else the live tables are as it
    /// wants them already.
    pub(super) fn check(&mut self, desired: &Snapshot, flips: bool, allow_failed: bool) -> Result<(), Error> {
        let cases = desired.compiled.flow_cases();
        let copy = if flips { TableCopy::Standby } else { TableCopy::Active };
        let results = self.send(desired, &cases, copy)?;
        if results.is_empty() {
            return Ok(());
        }
        let judge = if flips { Judge::StagedTables } else { Judge::LiveTables };
        let tests = FlowTestsDocument::new(Some(&self.options.node), judge, results);
        self.tested = tests.summary;
        self.tested_in_all = self.tested_in_all.and(tests.summary);
        let (passed, failed, skipped) = (tests.summary.passed, tests.summary.failed, tests.summary.skipped);
        tracing::info!(event = "flow-tests", passed, failed, skipped, "flow tests");
        match failed > 0 && !allow_failed {
            true => Err(Error::FlowTests(Box::new(tests))),
            false => Ok(()),
        }
    }

    /// How the flow tests of the last commit that had any ended, and those of all commits so far.
    pub const fn tested(&self) -> [FlowSummary; 2] {
        [self.tested, self.tested_in_all]
    }

    /// Runs tests on the live tables: those of what is applied, or of other manifests.
    pub fn flow_tests_of(&mut self, manifests: Option<&Manifests>) -> Result<FlowTestsDocument, Error> {
        let tests: Option<Vec<Arc<Object>>> = match manifests {
            Some(manifests) => {
                let options = Options { ignore_foreign: self.options.ignore_foreign };
                let inventory = weir_schema::parse(&manifests.files, &options).map_err(Error::Manifests)?;
                Some(inventory.of_kind("weir", "FlowTest").collect())
            }
            None => None,
        };
        let applied = self.applied()?.ok_or(Error::NothingApplied)?;
        if self.datapath.generation()?.is_none() {
            // Not looked at so far, or cold: then there is nothing that a packet could meet.
            self.datapath.observe()?.ok_or(Error::NothingApplied)?;
        }
        let cases = match tests {
            Some(tests) => applied.compiled.flow_cases_of(tests.into_iter()),
            None => applied.compiled.flow_cases(),
        };
        let results = self.send(&applied, &cases, TableCopy::Active)?;
        Ok(FlowTestsDocument::new(Some(&self.options.node), Judge::LiveTables, results))
    }

    fn send(&mut self, snapshot: &Snapshot, cases: &FlowCases, copy: TableCopy) -> Result<Vec<FlowResult>, Error> {
        let probes: Vec<_> = cases.cases.iter().map(|case| case.probe.clone()).collect();
        let steps = if probes.is_empty() { Vec::new() } else { self.datapath.probe(copy, &probes)? };
        Ok(flow_test::results(snapshot, cases, &steps))
    }
}
