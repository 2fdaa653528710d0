//! A scraper that takes Prometheus' text format literally.
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
};

use super::Node;

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// One request over a connection of its own.
pub fn request(mut stream: impl Read + Write, method: &str, path: &str) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("the server listens");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the server answers");
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status: {text}"));
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

pub fn tcp(address: &str) -> TcpStream {
    let address: SocketAddr = address.parse().expect("an address");
    TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"))
}

/// By the agent's socket.
pub fn scrape(node: &Node) -> Metrics {
    let socket = UnixStream::connect(node.directory().join("agent.sock")).expect("the agent's socket");
    Metrics::of(&request(socket, "GET", "/metrics"))
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
}

/// Every sample of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: BTreeMap<Series, f64>,
    /// Name and type of each family.
    pub families: BTreeMap<String, String>,
}

impl Metrics {
    pub fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{answer:?}");
        let kind = "\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8";
        assert!(answer.head.contains(kind), "{}", answer.head);
        Self::parse(&answer.body)
    }

    /// Panics at whatever Prometheus' parser, or promtool's lint, would find wrong.
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n') && !text.contains('\r'), "lines end with a line feed");
        let mut metrics = Self::default();
        // Of the family whose samples come now.
        let (mut family, mut help): (Option<(String, String)>, Option<String>) = (None, None);
        let mut seen = BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, said) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
                assert!(is_name(name) && !said.trim().is_empty() && help.is_none(), "{line}");
                assert!(seen.insert(name.to_owned()), "a family comes once: {line}");
                help = Some(name.to_owned());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
                assert_eq!(help.take().as_deref(), Some(name), "HELP comes just before TYPE: {line}");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                metrics.families.insert(name.to_owned(), kind.to_owned());
                family = Some((name.to_owned(), kind.to_owned()));
            } else {
                let (series, value) = sample(line);
                let (name, kind) = family.as_ref().unwrap_or_else(|| panic!("a sample without a type: {line}"));
                let suffix = series.name.strip_prefix(&**name).unwrap_or_else(|| panic!("not of {name}: {line}"));
                let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(suffixes.contains(&suffix), "not of {name}: {line}");
                assert!(help.is_none(), "a sample between HELP and TYPE: {line}");
                assert_eq!(suffix == "_bucket", series.labels.contains_key("le"), "{line}");
                assert!(kind == "gauge" || value >= 0.0, "{line}");
                assert!(metrics.samples.insert(series, value).is_none(), "a series comes once: {line}");
            }
        }
        assert!(help.is_none(), "HELP without TYPE");
        metrics.check_families();
        metrics
    }

    fn check_families(&self) {
        for (name, kind) in &self.families {
            if kind != "histogram" {
                assert!(self.samples.keys().any(|series| series.name == *name), "{name} has no sample");
                continue;
            }
            let bucket = format!("{name}_bucket");
            let of = self.samples.iter().filter(|(series, _)| series.name == bucket);
            let mut buckets: Vec<(f64, f64)> =
                of.map(|(series, count)| (number(&series.labels["le"]), *count)).collect();
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name} is cumulative: {buckets:?}");
            let count = self.get(&format!("{name}_count"), &[]);
            assert_eq!(buckets.last().copied(), Some((f64::INFINITY, count)), "{name}");
            self.get(&format!("{name}_sum"), &[]);
        }
    }

    /// The one sample with these labels, whatever others it has.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found = self.find(name, labels);
        let [value] = found[..] else { panic!("{name} {labels:?}: {} samples in {self:#?}", found.len()) };
        value
    }

    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        !self.find(name, labels).is_empty()
    }

    fn find(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let holds =
            |series: &Series| labels.iter().all(|(key, value)| series.labels.get(*key).is_some_and(|v| v == value));
        let samples = self.samples.iter().filter(|(series, _)| series.name == name && holds(series));
        samples.map(|(_, value)| *value).collect()
    }

    pub fn series(&self) -> usize {
        self.samples.len()
    }
}

fn is_name(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    text.starts_with(first) && text.chars().all(|c| first(c) || c.is_ascii_digit())
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        _ => {
            let plain = |c: char| c.is_ascii_digit() || "+-.e".contains(c);
            assert!(text.chars().all(plain), "no number: {text}");
            text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
        }
    }
}

fn sample(line: &str) -> (Series, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let (name, labels) = match series.split_once('{') {
        None => (series, BTreeMap::new()),
        Some((name, rest)) => {
            let inside = rest.strip_suffix('}').unwrap_or_else(|| panic!("no end: {line}"));
            (name, pairs(inside, line))
        }
    };
    assert!(is_name(name), "{line}");
    (Series { name: name.to_owned(), labels }, number(value))
}

fn pairs(mut text: &str, line: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    loop {
        let (name, rest) = text.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        assert!(is_name(name) && !name.contains(':'), "{line}");
        let (mut value, mut escaped, mut end) = (String::new(), false, None);
        for (at, c) in rest.char_indices() {
            match (escaped, c) {
                (true, 'n') => value.push('\n'),
                (true, '\\' | '"') => value.push(c),
                (true, _) => panic!("a wrong escape: {line}"),
                (false, '\\') => {}
                (false, '"') => end = Some(at + 1),
                (false, _) => value.push(c),
            }
            escaped = !escaped && c == '\\';
            if end.is_some() {
                break;
            }
        }
        assert!(!value.is_empty(), "an empty label is none: {line}");
        assert!(labels.insert(name.to_owned(), value).is_none(), "a label comes once: {line}");
        text = &rest[end.unwrap_or_else(|| panic!("no end: {line}"))..];
        match text.strip_prefix(',') {
            Some(next) => text = next,
            None if text.is_empty() => return labels,
            None => panic!("what is this: {line}"),
        }
    }
}
