//! What the agent tells Prometheus, in its text format.
//!
//! Everything is read when somebody asks. The number of time series depends on the build alone, never on rules, addresses,
//! endpoints or devices.
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prometheus::{
    TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};
use weir_abi::{Direction, Generation, Reason};
use weir_datapath::FlowCount;

use crate::{Error, FlowSummary, Metrics, Snapshot, TableDocument, TableSize, WrittenDocument, tally::Tally};

/// The numbers of one moment.
#[derive(Debug, Default)]
pub(crate) struct Scrape {
    pub tally: Tally,
    /// Type, and whether it is true.
    pub conditions: Vec<(String, bool)>,
    /// Entries that differ now.
    pub drift: u64,
    pub written: WrittenDocument,
    /// Flow tests of the last commit that had any, and since the agent started.
    pub tested: [FlowSummary; 2],
    pub pending: usize,
    pub verified_unix_ms: Option<u64>,
    /// Since when the source has delivered nothing; zero while it does.
    pub source_stale: Duration,
    /// Of the commit that was applied last: number and time.
    pub commit: Option<(u64, u64)>,
    /// `None` where the kernel holds nothing of Weir's.
    pub generation: Option<Generation>,
    /// Of the tables that manifests fill, where the agent knows them.
    pub tables: Vec<TableDocument>,
    pub sizes: Vec<TableSize>,
    pub packets: Option<Metrics>,
    pub flows: Vec<FlowCount>,
    pub snapshot: Option<Arc<Snapshot>>,
    /// Scrapes so far that could not read all of the kernel.
    pub errors: u64,
}

/// As content types have it.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Scrape {
    /// The text, with what else was collected of the process.
    pub fn text(&self, process: Vec<MetricFamily>) -> Result<String, Error> {
        let mut families = Families::default();
        self.agent(&mut families);
        self.kernel(&mut families);
        families.0.extend(process);
        let failed =
            |cause: prometheus::Error| Error::Failed { what: "write the metrics".to_owned(), cause: cause.to_string() };
        TextEncoder::new().encode_to_string(&families.0).map_err(failed)
    }

    fn agent(&self, out: &mut Families) {
        out.gauges("weir_build_info", "What runs; always 1.", [(vec![("version", env!("CARGO_PKG_VERSION"))], 1.0)]);
        let conditions = self.conditions.iter().map(|(kind, holds)| (vec![("type", &**kind)], f64::from(*holds)));
        out.gauges(
            "weir_condition",
            "Whether a condition of the node is true; 0 is false or not known yet.",
            conditions,
        );
        let outcomes = self.tally.outcomes().map(|(outcome, count)| (vec![("result", outcome.name())], count as f64));
        out.counters(
            "weir_reconcile_total",
            "Attempts to bring the node into the wanted state since the agent started, by what they came to.",
            outcomes,
        );
        out.histogram(
            "weir_reconcile_duration_seconds",
            "How long these attempts took, those that found nothing to do included.",
            &self.tally.durations,
        );
        out.counter("weir_flips_total", "Flips since the agent started.", self.tally.flips as f64);
        out.counter(
            "weir_drift_found_total",
            "Entries that somebody else was found to have changed since the agent started, on either side.",
            self.tally.drift_found as f64,
        );
        out.counter(
            "weir_drift_healed_total",
            "Of these, entries that were written again.",
            self.tally.drift_healed as f64,
        );
        out.gauge("weir_drift_entries", "Entries that differ from what was applied now.", self.drift as f64);
        let [last, all] =
            self.tested.map(|tested| tested.named().map(|(result, count)| (vec![("result", result)], count as f64)));
        out.gauges(
            "weir_flow_tests",
            "Flow tests of the last commit that had any, refused or not, by how they ended.",
            last,
        );
        out.counters("weir_flow_tests_total", "The same of every commit since the agent started.", all);
        let WrittenDocument { syscalls, stores } = self.written;
        out.counters(
            "weir_kernel_writes_total",
            "Writes to the kernel since the agent started: system calls, and stores through mapped tables.",
            [(vec![("kind", "syscall")], syscalls as f64), (vec![("kind", "store")], stores as f64)],
        );
        let times = [
            ("weir_last_apply_timestamp_seconds", "When the last commit was made.", self.commit.map(|(_, time)| time)),
            (
                "weir_last_reconcile_success_timestamp_seconds",
                "When an attempt last succeeded, whether or not there was anything to do.",
                self.tally.succeeded_unix_ms,
            ),
            (
                "weir_last_verification_timestamp_seconds",
                "When the live tables were last compared with what was applied.",
                self.verified_unix_ms,
            ),
        ];
        for (name, help, time) in times {
            out.known(name, help, time.map(|ms| ms as f64 / 1000.0));
        }
        out.gauge(
            "weir_source_stale_seconds",
            "For how long the source has delivered nothing; 0 while it does.",
            self.source_stale.as_secs_f64(),
        );
        let sequence = self.commit.map(|(sequence, _)| sequence as f64);
        out.known("weir_commit_sequence", "The commit that was applied last.", sequence);
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, kind, count) in self.snapshot.iter().flat_map(|snapshot| snapshot.inventory.counts()) {
            *kinds.entry(kind).or_default() += count;
        }
        let kinds = kinds.into_iter().map(|(kind, count)| (vec![("kind", kind)], count as f64));
        out.gauges("weir_objects", "Applied objects, by kind.", kinds);
        out.gauge("weir_pending_objects", "Objects that wait for something on the node.", self.pending as f64);
        out.counter(
            "weir_scrape_errors_total",
            "Scrapes since the agent started that could not read all of the kernel's tables, and left these out.",
            self.errors as f64,
        );
    }

    fn kernel(&self, out: &mut Families) {
        if let Some(generation) = self.generation {
            out.gauge("weir_epoch", "Epoch of the live generation: it grows with every flip.", generation.epoch as f64);
            let side = f64::from(generation.side.index());
            out.gauge("weir_active_side", "Side of the tables that programs read: 0 or 1.", side);
        }
        if let Some(packets) = &self.packets {
            let of = |value: fn(&weir_abi::Counter) -> u64| {
                move |(reason, direction, counter): (Reason, Direction, weir_abi::Counter)| {
                    let verdict = if reason.is_drop() { "dropped" } else { "forwarded" };
                    let direction = direction.name();
                    let labels = vec![("reason", reason.name()), ("direction", direction), ("verdict", verdict)];
                    (labels, value(&counter) as f64)
                }
            };
            // A rate wants to begin at zero.
            let all: Vec<_> = Reason::ALL
                .iter()
                .flat_map(|reason| [Direction::Ingress, Direction::Egress].map(|direction| (*reason, direction)))
                .map(|(reason, direction)| {
                    let same = |(found, way, _): &&_| (*found, *way) == (reason, direction);
                    (
                        reason,
                        direction,
                        packets.reasons.iter().find(same).map_or_else(Default::default, |found| found.2),
                    )
                })
                .collect();
            out.counters(
                "weir_packets_total",
                "Packets by what became of them and why; as long as the kernel's tables live.",
                all.iter().copied().map(of(|counter| counter.packets)),
            );
            out.counters(
                "weir_bytes_total",
                "Bytes of these packets.",
                all.iter().copied().map(of(|counter| counter.bytes)),
            );
            out.counter(
                "weir_lost_events_total",
                "Drop events that found the ring buffer full.",
                packets.lost_events as f64,
            );
        }
        self.tables(out);
    }

    /// Tables of two sides are told by which side is live: it changes with every flip.
    fn tables(&self, out: &mut Families) {
        let labels = |table: &str, side: &'static str| vec![("table", table.to_lowercase()), ("side", side.to_owned())];
        let sides = |table: &TableDocument| [("active", table.active), ("standby", table.standby)];
        let flows = self.flows.iter().map(|count| (labels(count.table, SHARED), count.entries as f64));
        let entries = self
            .tables
            .iter()
            .flat_map(|table| sides(table).map(|(side, entries)| (labels(&table.table, side), entries as f64)));
        out.gauges(
            "weir_table_entries",
            "Entries of a table. Flows of a conntrack table with more than 65536 are estimated.",
            entries.chain(flows),
        );
        let limits = self.tables.iter().flat_map(|table| {
            let limit = table.limit.map(|limit| limit as f64);
            sides(table).into_iter().filter_map(move |(side, _)| Some((labels(&table.table, side), limit?)))
        });
        let of_traffic = |size: &&TableSize| TRAFFIC.contains(&&*size.table);
        let sizes = self.sizes.iter().filter(of_traffic);
        out.gauges(
            "weir_table_max_entries",
            "Entries that a table may have. ipcache4 and ipcache6 share one limit, prefilter4 and prefilter6 as well.",
            limits.chain(sizes.map(|size| (labels(&size.table, SHARED), size.max_entries as f64))),
        );
        let active = self.generation.map(|generation| generation.side.index());
        let bytes = self.sizes.iter().map(|size| {
            let side = match size.side {
                None => SHARED,
                side if side == active => "active",
                Some(_) => "standby",
            };
            (labels(&size.table, side), size.bytes as f64)
        });
        out.gauges("weir_table_bytes", "Memory of a table, as the kernel accounts for it.", bytes);
    }
}

/// The side of a table that exists once.
const SHARED: &str = "shared";
/// What traffic fills, and has a limit.
const TRAFFIC: [&str; 3] = ["CONNTRACK_TCP", "CONNTRACK_OTHER", "FRAGMENTS"];

type Labels<V> = Vec<(&'static str, V)>;

#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges::<String>(name, help, [(vec![], value)]);
    }

    /// A gauge, once it has a value.
    fn known(&mut self, name: &str, help: &str, value: Option<f64>) {
        self.gauges::<String>(name, help, value.map(|value| (vec![], value)));
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.counters::<String>(name, help, [(vec![], value)]);
    }

    fn gauges<V: Into<String>>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels<V>, f64)>) {
        let metrics = samples.into_iter().map(|(labels, value)| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            let mut metric = metric(labels);
            metric.set_gauge(gauge);
            metric
        });
        self.add(MetricType::GAUGE, name, help, metrics.collect());
    }

    fn counters<V: Into<String>>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<V>, f64)>,
    ) {
        let metrics = samples.into_iter().map(|(labels, value)| {
            let mut counter = Counter::default();
            counter.set_value(value);
            let mut metric = metric(labels);
            metric.set_counter(counter);
            metric
        });
        self.add(MetricType::COUNTER, name, help, metrics.collect());
    }

    fn histogram(&mut self, name: &str, help: &str, durations: &crate::tally::Durations) {
        let buckets = durations.cumulative().map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(durations.count);
        histogram.set_sample_sum(durations.sum.as_secs_f64());
        let mut metric = metric::<String>(vec![]);
        metric.set_histogram(histogram);
        self.add(MetricType::HISTOGRAM, name, help, vec![metric]);
    }

    /// A family without a sample is left out.
    fn add(&mut self, kind: MetricType, name: &str, help: &str, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

fn metric<V: Into<String>>(labels: Labels<V>) -> Metric {
    let pair = |(name, value): (&str, V)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.into());
        pair
    };
    Metric::from_label(labels.into_iter().map(pair).collect())
}

#[cfg(test)]
mod tests {
    use weir_abi::Side;

    use super::*;

    fn lines(scrape: &Scrape) -> Vec<String> {
        scrape.text(Vec::new()).unwrap().lines().map(str::to_owned).collect()
    }

    /// Without tables there is nothing of the kernel's, and what there is has no hole in it.
    #[test]
    fn a_cold_node_has_the_agents_own_metrics() {
        let lines = lines(&Scrape::default());
        for line in ["weir_flips_total 0", "weir_pending_objects 0", "weir_reconcile_total{result=\"applied\"} 0"] {
            assert!(lines.iter().any(|found| found == line), "{line}: {lines:#?}");
        }
        for absent in ["weir_packets_total", "weir_table_", "weir_epoch", "weir_objects", "weir_last_"] {
            assert!(!lines.iter().any(|line| line.contains(absent)), "{absent}: {lines:#?}");
        }
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let mut tally = Tally::default();
        let start = tally.begin();
        tally.end(start, true);
        let dropped = (Reason::Prefilter, Direction::Ingress, weir_abi::Counter { packets: 3, bytes: 180 });
        let size = |table: &str, side| TableSize { table: table.to_owned(), side, max_entries: 256, bytes: 4096 };
        let scrape = Scrape {
            tally,
            conditions: vec![("Ready".to_owned(), true), ("Stalled".to_owned(), false)],
            commit: Some((7, 1_795_420_856_250)),
            generation: Some(Generation { side: Side::B, epoch: 1_795_420_856 }),
            tables: vec![TableDocument { table: "policy".to_owned(), active: 4, standby: 3, limit: Some(16) }],
            sizes: vec![size("POLICY", Some(0)), size("POLICY", Some(1)), size("CONNTRACK_TCP", None)],
            packets: Some(Metrics { reasons: vec![dropped], lost_events: 2 }),
            flows: vec![FlowCount { table: "CONNTRACK_TCP", entries: 9, estimated: false }],
            ..Scrape::default()
        };
        let lines = lines(&scrape);
        for line in [
            "# HELP weir_packets_total Packets by what became of them and why; as long as the kernel's tables live.",
            "# TYPE weir_packets_total counter",
            r#"weir_packets_total{reason="prefilter",direction="ingress",verdict="dropped"} 3"#,
            r#"weir_packets_total{reason="forwarded",direction="egress",verdict="forwarded"} 0"#,
            r#"weir_bytes_total{reason="prefilter",direction="ingress",verdict="dropped"} 180"#,
            "weir_lost_events_total 2",
            r#"weir_condition{type="Ready"} 1"#,
            r#"weir_condition{type="Stalled"} 0"#,
            r#"weir_reconcile_total{result="unchanged"} 1"#,
            "# TYPE weir_reconcile_duration_seconds histogram",
            r#"weir_reconcile_duration_seconds_bucket{le="+Inf"} 1"#,
            "weir_reconcile_duration_seconds_count 1",
            "weir_commit_sequence 7",
            "weir_last_apply_timestamp_seconds 1795420856.25",
            "weir_epoch 1795420856",
            "weir_active_side 1",
            r#"weir_table_entries{table="policy",side="active"} 4"#,
            r#"weir_table_entries{table="policy",side="standby"} 3"#,
            r#"weir_table_entries{table="conntrack_tcp",side="shared"} 9"#,
            r#"weir_table_max_entries{table="policy",side="active"} 16"#,
            r#"weir_table_max_entries{table="conntrack_tcp",side="shared"} 256"#,
            r#"weir_table_bytes{table="policy",side="active"} 4096"#,
        ] {
            assert!(lines.iter().any(|found| found == line), "{line}: {lines:#?}");
        }
        let of = |name: &str| lines.iter().filter(|line| line.starts_with(name)).count();
        assert_eq!(of("weir_packets_total{"), Reason::ALL.len() * 2);
        assert_eq!(of("weir_table_bytes{"), 3);
    }
}
