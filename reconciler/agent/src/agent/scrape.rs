//! What a scrape takes from the engine's thread. It reads no table whole, asks rtnetlink nothing, and writes nothing.
use weir_plan::{DatapathError, Store};

use super::Agent;
use crate::{ConditionStatus, Inspect, Look, Metrics, TableSize, metrics::Scrape, report::table_documents};

/// The kernel's part.
type Read<F> = (Metrics, Vec<TableSize>, Option<F>);

impl<D: Inspect, S: Store> Agent<D, S> {
    /// The numbers of now, and where flows can be counted: that takes longer, and needs no engine.
    pub(crate) fn scrape(&mut self) -> (Scrape, Option<D::Flows>) {
        self.take_note();
        let snapshot = self.engine.snapshot();
        let mut scrape = Scrape {
            tally: self.tally.clone(),
            drift: self.drift,
            written: self.engine.written(),
            tested: self.engine.tested(),
            verified_unix_ms: self.verified_unix_ms,
            source_stale: self.stale_since.map_or_else(Default::default, |since| since.elapsed()),
            commit: self.engine.head().ok().flatten().map(|head| (head.sequence, head.time_unix_ms)),
            pending: snapshot.as_ref().map_or(0, |applied| applied.compiled.pending.len()),
            ..Scrape::default()
        };
        let holds = |status| status == ConditionStatus::True;
        let conditions = self.conditions.list().iter();
        scrape.conditions = conditions.map(|one| (one.kind.clone(), holds(one.status))).collect();
        // Where the tables are not known, reading them would take long: they are left out until the next look.
        if self.engine.knows_live()
            && let Ok(Some(live)) = self.engine.live(Look::Known)
        {
            scrape.tables = table_documents(&live, snapshot.as_deref());
        }
        scrape.snapshot = snapshot;
        scrape.generation = self.engine.datapath().generation().ok().flatten();
        let mut flows = None;
        if scrape.generation.is_some() {
            match self.read_kernel() {
                Ok((packets, sizes, found)) => {
                    (scrape.packets, scrape.sizes, flows) = (Some(packets), sizes, found);
                }
                Err(error) => {
                    self.scrape_errors += 1;
                    tracing::debug!(%error, "a scrape could not read the tables");
                }
            }
        }
        scrape.errors = self.scrape_errors;
        (scrape, flows)
    }

    fn read_kernel(&mut self) -> Result<Read<D::Flows>, DatapathError> {
        let datapath = self.engine.datapath();
        Ok((datapath.metrics()?, datapath.sizes()?, datapath.flows()?))
    }
}
