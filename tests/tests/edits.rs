//! Sets that change step by step: compiling what changed gives what compiling everything gives.
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    thread,
};

use serde_json::Value;
use weir_compile::{Compiled, Input, compile, compile_after};
use weir_plan::Numbering;
use weir_schema::{ContentHash, File, Inventory, Options, ParsedFile, assemble, parse_file};
use weir_tests::property::{compiled::facts, generate::generate_on, random::Random, seeds::seeds, topology::NODE};

/// Edits of one sequence.
const STEPS: usize = 6;

/// Kind, namespace and name.
type Key = String;

fn key(document: &Value) -> Key {
    let metadata = &document["metadata"];
    format!("{} {} {} {}", document["apiVersion"], document["kind"], metadata["namespace"], metadata["name"])
}

/// The objects of a set, each in a file of its own.
struct Files {
    parsed: HashMap<String, (File, Arc<ParsedFile>)>,
}

impl Files {
    fn inventory(&mut self, set: &BTreeMap<Key, Value>) -> Option<Inventory> {
        let (mut files, mut parsed) = (Vec::new(), Vec::new());
        for (key, document) in set {
            let text = serde_json::to_string(document).expect("a tree of plain values");
            let known = self.parsed.entry(format!("{key}|{text}")).or_insert_with(|| {
                let mut hash = [0u8; 32];
                text.bytes().enumerate().for_each(|(at, byte)| hash[at % 32] = hash[at % 32].wrapping_mul(31) ^ byte);
                let file = File {
                    path: format!("{}.yaml", key.replace(['"', '/', ' '], "_")).into(),
                    bytes: text.as_bytes().into(),
                    hash: ContentHash(hash),
                };
                let parsed = Arc::new(parse_file(&file, &Options::default()));
                (file, parsed)
            });
            files.push(known.0.clone());
            parsed.push(known.1.clone());
        }
        assemble(&parsed.into(), &files).ok()
    }
}

/// A set and what may become of it: documents that sets of other seeds have under the same or other names.
struct Sequence {
    random: Random,
    set: BTreeMap<Key, Value>,
    others: Vec<Value>,
    files: Files,
}

impl Sequence {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed.rotate_left(17));
        let topology = random.bits();
        let first = generate_on(topology, random.bits());
        // The same nodes with other policies, and other nodes with other endpoints.
        let others = [generate_on(topology, random.bits()), generate_on(random.bits(), random.bits())];
        let others: Vec<Value> = others.into_iter().flat_map(|set| set.documents).collect();
        let set = first.documents.into_iter().map(|document| (key(&document), document)).collect();
        Self { random, set, others, files: Files { parsed: HashMap::new() } }
    }

    fn edit(&mut self) -> Option<Inventory> {
        for _ in 0..20 {
            let mut set = self.set.clone();
            for _ in 0..self.random.weighted(&[(6, 1), (3, 2), (1, 4)]) {
                self.edit_one(&mut set);
            }
            if let Some(inventory) = self.files.inventory(&set) {
                self.set = set;
                return Some(inventory);
            }
        }
        None
    }

    fn edit_one(&mut self, set: &mut BTreeMap<Key, Value>) {
        let keys: Vec<Key> = set.keys().cloned().collect();
        match self.random.within(0..=9) {
            0..=2 if !keys.is_empty() => drop(set.remove(self.random.pick(&keys))),
            3..=6 => {
                let document = self.random.pick(&self.others).clone();
                if let Some(former) = set.insert(key(&document), document) {
                    self.others.push(former);
                }
            }
            _ if !keys.is_empty() => {
                let key = self.random.pick(&keys).clone();
                if let Some(document) = set.get_mut(&key) {
                    let before = document.clone();
                    mutate(&mut self.random, document);
                    self.others.push(before);
                }
            }
            _ => {}
        }
    }
}

/// A change inside an object: labels, addresses, prefixes, items of lists.
fn mutate(random: &mut Random, document: &mut Value) {
    let kind = document["kind"].as_str().unwrap_or_default().to_owned();
    if random.chance(40) && document["metadata"].is_object() && kind != "CidrFilter" {
        let app = *random.pick(&["web", "db", "cache", "new"]);
        document["metadata"]["labels"]["app"] = Value::from(app);
        return;
    }
    let mut lists = Vec::new();
    collect(&document["spec"], "/spec", &mut lists);
    if lists.is_empty() {
        return;
    }
    let list = random.pick(&lists).clone();
    let Some(Value::Array(items)) = document.pointer_mut(&list) else { return };
    let nets = ["203.0.113.0/24", "203.0.113.128/25", "2001:db8:77::/48", "10.0.0.0/8"];
    let is_cidrs = items.iter().all(|item| item.as_str().is_some_and(|text| text.contains('/')));
    match random.within(0..=2) {
        0 if is_cidrs => items.push(Value::from(*random.pick(&nets))),
        1 if items.len() > 1 => drop(items.remove(random.within(0..=items.len() - 1))),
        _ if items.len() > 1 => items.rotate_left(1),
        _ => {}
    }
}

fn collect(value: &Value, path: &str, lists: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            lists.push(path.to_owned());
            items.iter().enumerate().for_each(|(at, item)| collect(item, &format!("{path}/{at}"), lists));
        }
        Value::Object(fields) => fields.iter().for_each(|(name, item)| {
            let name = name.replace('~', "~0").replace('/', "~1");
            collect(item, &format!("{path}/{name}"), lists);
        }),
        _ => {}
    }
}

/// Which parts of two results differ, for the message.
fn differences(edited: &Compiled, whole: &Compiled) -> String {
    let mut parts = Vec::new();
    let delta = whole.tables.diff(&edited.tables);
    for change in delta.changes() {
        parts.push(format!("{} {:?}", change.table(), change.show()));
    }
    for (name, same) in [
        ("wiring", edited.wiring == whole.wiring),
        ("capacity", edited.capacity == whole.capacity),
        ("provenance", edited.provenance == whole.provenance),
        ("pending", edited.pending == whole.pending),
        ("usage", edited.usage == whole.usage),
        ("identities", edited.identities == whole.identities),
        ("host addresses", edited.host_addresses == whole.host_addresses),
    ] {
        if !same {
            parts.push(name.to_owned());
        }
    }
    if edited.provenance != whole.provenance {
        parts.push(format!(
            "edited {:#?}\nwhole {:#?}",
            edited.provenance.without_places(),
            whole.provenance.without_places()
        ));
    }
    if edited.identities != whole.identities {
        parts.push(format!("edited {:?}\nwhole {:?}", edited.identities, whole.identities));
    }
    parts.join("\n")
}

/// (edits, those that were compiled whole)
fn run(seed: u64) -> Result<(usize, usize), String> {
    let facts = facts();
    let mut sequence = Sequence::new(seed);
    let Some(inventory) = sequence.files.inventory(&sequence.set.clone()) else { return Ok((0, 0)) };
    let mut numbering = Numbering::default();
    let input = Input { inventory: &inventory, node: NODE, facts: &facts, sequence: 1 };
    let Ok(mut former) = compile(&input, &mut numbering) else { return Ok((0, 0)) };
    let (mut edits, mut wholes) = (0, 0);
    for step in 2..STEPS as u64 + 2 {
        let Some(inventory) = sequence.edit() else { break };
        let input = Input { inventory: &inventory, node: NODE, facts: &facts, sequence: step };
        let mut after = numbering.clone();
        let edited = compile_after(&former, &input, &mut after);
        let mut again = after.clone();
        let whole = compile(&input, &mut again);
        let (edited, whole) = match (edited, whole) {
            (Ok(edited), Ok(whole)) => (edited, whole),
            (Err(edited), Err(whole)) if edited == whole => continue,
            (edited, whole) => {
                return Err(format!(
                    "seed {seed:#x} step {step}: edited {:?}, whole {:?}",
                    edited.is_ok(),
                    whole.is_ok()
                ));
            }
        };
        edits += 1;
        wholes += usize::from(edited.1.whole);
        if edited.0 != whole {
            return Err(format!("seed {seed:#x} step {step}:\n{}", differences(&edited.0, &whole)));
        }
        former = edited.0;
        numbering = after;
        numbering.retire(step - 1);
    }
    Ok((edits, wholes))
}

#[test]
fn an_edit_gives_what_the_whole_gives() {
    let all: Vec<u64> = seeds(10_000).collect();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<Result<(usize, usize), String>> = thread::scope(|scope| {
        let parts = all.chunks(all.len().div_ceil(threads));
        let running: Vec<_> =
            parts.map(|part| scope.spawn(|| part.iter().map(|seed| run(*seed)).collect::<Vec<_>>())).collect();
        running.into_iter().flat_map(|part| part.join().expect("the comparison does not panic")).collect()
    });
    let (mut edits, mut wholes) = (0, 0);
    for outcome in outcomes {
        let (made, whole) = outcome.unwrap_or_else(|difference| panic!("{difference}"));
        edits += made;
        wholes += whole;
    }
    println!("{} sequences, {edits} edits, {wholes} of them compiled whole", all.len());
    assert!(edits > all.len() * STEPS / 2, "most sequences have their edits");
    assert!(wholes * 2 < edits, "most edits are not compiled whole");
}
