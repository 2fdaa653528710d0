//! The live tables as they mean something: without the numbers that were given out, which may be others once the state
//! that knew them is lost.
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use weir_datapath::{Kernel, Options};
use weir_plan::{Datapath as _, Show as _, Tables};
use weir_tests::node::Node;

const POLL: Duration = Duration::from_millis(20);

/// Every entry, with identities called by the addresses that have them.
pub type Meaning = BTreeSet<String>;

fn meaning(tables: &Tables) -> Meaning {
    let mut names: BTreeMap<u32, String> = BTreeMap::new();
    let prefixes = tables.ipcache4.iter().map(|(prefix, identity)| (prefix.to_string(), *identity));
    for (prefix, identity) in prefixes.chain(tables.ipcache6.iter().map(|(p, identity)| (p.to_string(), *identity))) {
        let name = names.entry(identity).or_default();
        name.push_str(&prefix);
        name.push(' ');
    }
    let name = |identity: u32| names.get(&identity).cloned().unwrap_or_else(|| identity.to_string());
    let mut all = Meaning::new();
    all.extend(names.values().cloned());
    all.extend(tables.prefilter4.iter().map(|(prefix, _)| format!("filter {prefix}")));
    all.extend(tables.prefilter6.iter().map(|(prefix, _)| format!("filter {prefix}")));
    all.extend(tables.endpoints.iter().map(|(address, _)| format!("endpoint {address}")));
    all.extend(tables.interfaces.iter().map(|(interface, _)| format!("interface {}", interface.show())));
    all.extend(tables.subjects.iter().map(|(identity, info)| format!("subject {} {info:?}", name(*identity))));
    all.extend(tables.policy.iter().map(|(key, entry)| {
        let (subject, peer) = (name(key.subject), name(key.peer));
        let (class, protocol, port, verdict) = (key.direction_class, key.protocol, key.port, entry.verdict);
        format!("policy {subject} {peer} {class} {protocol} {port} {verdict}")
    }));
    all
}

/// What is live, if it was live from the beginning of the look to its end.
fn look(pins: &Path) -> Option<Meaning> {
    let mut kernel = Kernel::open(Options::new(pins)).ok()?;
    let before = kernel.generation().ok()?;
    let observed = kernel.observe().ok()?;
    if kernel.generation().ok()? != before {
        return None;
    }
    Some(observed.map(|observed| meaning(observed.active())).unwrap_or_default())
}

#[derive(Debug, Default)]
struct Seen {
    polls: u64,
    /// Looks during which sides were swapped.
    discarded: u64,
    allowed: Vec<Meaning>,
    /// The first look that was none of the allowed.
    wrong: Option<Meaning>,
}

/// Looks again and again.
#[derive(Debug)]
pub struct Watch {
    pins: PathBuf,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// What is live now is right.
    pub fn start(node: &Node) -> Self {
        let pins = node.pins();
        let now = look(&pins).unwrap();
        assert!(now.len() > 150, "{now:?}");
        let seen = Arc::new(Mutex::new(Seen { allowed: vec![now], ..Seen::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = node.inside("node", {
            let (pins, stop, seen) = (pins.clone(), stop.clone(), seen.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    // Held throughout: what is allowed now is what is looked for.
                    let mut seen = seen.lock().unwrap();
                    seen.polls += 1;
                    match look(&pins) {
                        Some(look) if !seen.allowed.contains(&look) => seen.wrong = seen.wrong.take().or(Some(look)),
                        Some(_) => {}
                        None => seen.discarded += 1,
                    }
                    drop(seen);
                    thread::sleep(POLL.saturating_sub(begun.elapsed()).max(POLL / 4));
                }
            }
        });
        Self { pins, stop, seen, thread: Some(thread) }
    }

    /// What was right, with `added` and without `removed`, is right from now on as well.
    pub fn allow(&self, removed: &str, added: &str) {
        let mut seen = self.seen.lock().unwrap();
        let mut next = seen.allowed[0].clone();
        assert!(next.remove(removed), "{removed} is there");
        next.insert(added.to_owned());
        seen.allowed.push(next);
    }

    /// The newest of what is allowed is live, and nothing else was seen; from now on only that is right.
    pub fn settle(&self, context: &str) {
        let mut seen = self.seen.lock().unwrap();
        let allowed = seen.allowed.clone();
        let differs = |wrong: &Meaning| {
            let wanted = allowed.last().unwrap();
            let (lacks, has): (Vec<_>, Vec<_>) =
                (wanted.difference(wrong).collect(), wrong.difference(wanted).collect());
            format!("lacks {lacks:?}, has {has:?}")
        };
        if let Some(wrong) = &seen.wrong {
            panic!("{context}: wrong entries were live: {}", differs(wrong));
        }
        let now = look(&self.pins).unwrap();
        assert!(Some(&now) == allowed.last(), "{context}: what is live {}", differs(&now));
        seen.allowed = vec![now];
    }

    pub fn finish(mut self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let seen = self.seen.lock().unwrap();
        assert!(seen.discarded * 4 < seen.polls, "the watch looked away: {} of {}", seen.discarded, seen.polls);
        format!("{} looks, {} discarded", seen.polls, seen.discarded)
    }
}
