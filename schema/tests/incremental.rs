//! A set that was made step by step is the set that is made at once: the same objects in the same places, the same
//! warnings, and, word for word, the same errors.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod story;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;
use story::file;
use weir_schema::{File, Inventory, Object, ObjectKey, Options, ParsedFile, check_whole, parse_file, parse_file_after};

/// Few enough names that they meet, and paths beside and below each other.
const PATHS: [&str; 6] = ["a.yaml", "b.yaml", "d/c.yaml", "d/e.yml", "d/drop.txt", "list"];

fn document() -> impl Strategy<Value = String> {
    let node = (0u8..3, 0u8..5, 0u8..3).prop_map(|(name, address, label)| {
        let labels = ["{}", "{rack: a}", "{rack: b}"][usize::from(label)];
        format!(
            "apiVersion: weir/v1alpha1\nkind: Node\nmetadata: {{name: n{name}, labels: {labels}}}\nspec: {{addresses: [192.0.2.{address}]}}\n"
        )
    });
    let endpoint = (0u8..6, 0u8..4, 0u8..8, 0u8..5, any::<bool>()).prop_map(|(name, node, address, attach, label)| {
        let attach = match attach {
            0 => format!("{{netns: x{name}}}"),
            1 => format!("{{netns: x{name}, interface: y}}"),
            2 => format!("{{interface: y{name}}}"),
            3 => "{host: true}".to_owned(),
            _ => "{netns: x1, interface: eth0}".to_owned(),
        };
        let label = if label { "\n    app: web" } else { " {}" };
        format!(
            "apiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata:\n  name: e{name}\n  labels:{label}\nspec:\n  node: n{node}\n  addresses:\n  - 192.0.2.{address}\n  attach: {attach}\n"
        )
    });
    let filter = (0u8..3, 0u8..4, prop::sample::select(vec![
        "drop.txt", "list", "../list", "d/drop.txt", "../../up", "nothing", "a.yaml",
    ]), any::<bool>()).prop_map(|(name, net, list, names)| {
        let list = if names { list } else { "" };
        let list = if names { format!("[\"{list}\"]") } else { "[]".to_owned() };
        format!(
            "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: f{name}}}\nspec:\n  cidrs:\n  - 10.{net}.0.0/16\n  fromFiles: {list}\n"
        )
    });
    let config = (0u8..3, 0u8..3, 0u8..3).prop_map(|(name, mode, rack)| {
        let mode = ["auto", "tcx", "clsact"][usize::from(mode)];
        let selector = ["{}", "{matchLabels: {rack: a}}", "{matchLabels: {rack: b}}"][usize::from(rack)];
        format!(
            "apiVersion: weir/v1alpha1\nkind: NodeConfig\nmetadata: {{name: c{name}}}\nspec: {{attachMode: {mode}, nodeSelector: {selector}}}\n"
        )
    });
    let policy = (0u8..3, any::<bool>()).prop_map(|(name, ours)| {
        let head = if ours { "weir/v1alpha1\nkind: NetworkPolicy" } else { "cilium.io/v2\nkind: CiliumNetworkPolicy" };
        format!("apiVersion: {head}\nmetadata: {{name: p{name}}}\nspec: {{endpointSelector: {{}}, ingress: []}}\n")
    });
    let test = (0u8..3, 0u8..8, 0u8..3, 0u8..8).prop_map(|(name, from, port, service)| {
        let (to, expect) = match service {
            0..4 => (format!("{{service: s{service}}}"), format!("{{verdict: allow, backend: e{from}}}")),
            _ => ("{host: true}".to_owned(), "{verdict: deny}".to_owned()),
        };
        format!(
            "apiVersion: weir/v1alpha1\nkind: FlowTest\nmetadata: {{name: t{name}}}\nspec: {{from: {{endpoint: e{from}}}, to: {to}, protocol: UDP, port: {port}, expect: {expect}}}\n"
        )
    });
    let service = (0u8..4, 0u8..3, 0u8..3, any::<bool>()).prop_map(|(name, address, port, ours)| {
        if ours {
            format!(
                "apiVersion: weir/v1alpha1\nkind: Service\nmetadata: {{name: s{name}}}\nspec: {{frontends: [{{address: 10.96.0.{address}, port: 8{port}}}, {{port: 3008{name}, type: node-port}}], selector: {{}}}}\n"
            )
        } else {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: s{name}}}\nspec: {{type: NodePort, clusterIP: 10.96.0.{address}, ports: [{{port: 8{port}, nodePort: 3008{port}}}]}}\n"
            )
        }
    });
    let several = (0u8..3, 0u8..3).prop_map(|(a, b)| {
        format!(
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {{name: s{a}}}\n- apiVersion: v1\n  kind: Namespace\n  metadata: {{name: t{b}}}\n"
        )
    });
    let odd = prop::sample::select(vec![
        "# nothing\n",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n",
        "apiVersion: weir/v1alpha1\nkind: Endpont\n",
        "apiVersion: weir/v1alpha1\nkind: Node\nmetadata: {name: n9}\nspec: {adresses: []}\n",
        "a: [\n",
        "apiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata: {name: e1}\nspec: {node: n1, addresses: [10.0.0.999], attach: {}}\n",
        "...\n",
    ]);
    prop_oneof![
        3 => node,
        12 => endpoint,
        3 => filter,
        2 => config,
        2 => policy,
        1 => test,
        2 => service,
        1 => several,
        1 => odd.prop_map(str::to_owned),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Vec<String>, String),
    /// A document is put into a file, at a place.
    Insert(usize, usize, String),
    /// A document is taken out.
    Remove(usize, usize),
    /// A comment above all others: everything moves.
    Comment(usize),
    /// Half of a file's documents come to stand in another.
    Move(usize, usize),
    Delete(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let list =
        prop::sample::select(vec!["", "10.0.0.0/8\n", "# x\n10.0.0.0/8\n", "10.0.0.1/8\n", "junk\n", "fd00::/8\n"]);
    let path = 0..PATHS.len();
    prop_oneof![
        4 => (path.clone(), proptest::collection::vec(document(), 0..6), list.prop_map(str::to_owned))
            .prop_map(|(path, documents, list)| Step::Write(path, documents, list)),
        5 => (path.clone(), any::<usize>(), document()).prop_map(|(path, at, document)| Step::Insert(path, at, document)),
        4 => (path.clone(), any::<usize>()).prop_map(|(path, at)| Step::Remove(path, at)),
        1 => path.clone().prop_map(Step::Comment),
        1 => (path.clone(), path.clone()).prop_map(|(from, to)| Step::Move(from, to)),
        1 => path.prop_map(Step::Delete),
    ]
}

/// The documents of each file that is there.
type Texts = BTreeMap<&'static str, Vec<String>>;

fn is_list(path: &str) -> bool {
    !path.ends_with("ml")
}

fn edit(texts: &mut Texts, step: &Step) {
    match step {
        Step::Write(path, documents, list) => {
            let path = PATHS[*path];
            let content = if is_list(path) { vec![list.clone()] } else { documents.clone() };
            texts.insert(path, content);
        }
        Step::Insert(path, at, document) if !is_list(PATHS[*path]) => {
            let documents = texts.entry(PATHS[*path]).or_default();
            documents.insert(at % (documents.len() + 1), document.clone());
        }
        Step::Remove(path, at) if !is_list(PATHS[*path]) => {
            if let Some(documents) = texts.get_mut(PATHS[*path])
                && !documents.is_empty()
            {
                documents.remove(at % documents.len());
            }
        }
        Step::Comment(path) => {
            if let Some(documents) = texts.get_mut(PATHS[*path]) {
                documents.insert(0, "# more\n".to_owned());
            }
        }
        Step::Move(from, to) if !is_list(PATHS[*from]) && !is_list(PATHS[*to]) && from != to => {
            let Some(documents) = texts.get_mut(PATHS[*from]) else { return };
            let half = documents.split_off(documents.len() / 2);
            texts.entry(PATHS[*to]).or_default().extend(half);
        }
        Step::Delete(path) => {
            texts.remove(PATHS[*path]);
        }
        _ => {}
    }
}

fn files(texts: &Texts) -> Vec<File> {
    let text = |path: &str, documents: &[String]| documents.join(if is_list(path) { "" } else { "---\n" });
    let files = texts.iter().map(|(path, documents)| file(path, text(path, documents).as_bytes()));
    files.collect()
}

/// As a caller does it that keeps the set: what is unchanged is not even looked at.
fn parse_after(set: &Inventory, files: &[File], options: &Options) -> Vec<Arc<ParsedFile>> {
    let parse = |file: &File| match set.file(&file.path) {
        Some(former) if former.hash() == file.hash => Arc::clone(former),
        former => Arc::new(parse_file_after(file, options, former.map(|former| &**former))),
    };
    files.iter().map(parse).collect()
}

fn by_key(objects: impl Iterator<Item = Arc<Object>>) -> BTreeMap<ObjectKey, Arc<Object>> {
    objects.map(|object| (object.key.clone(), object)).collect()
}

fn check_changes(before: &Inventory, after: &Inventory, changes: &weir_schema::Changes) -> Result<(), TestCaseError> {
    let (old, new) = (by_key(before.objects()), by_key(after.objects()));
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let (mut added, mut removed, mut replaced) = (Vec::new(), Vec::new(), Vec::new());
    for key in keys {
        match (old.get(key), new.get(key)) {
            (Some(a), None) => removed.push(a.clone()),
            (None, Some(b)) => added.push(b.clone()),
            (Some(a), Some(b)) if a.hash != b.hash => replaced.push((a.clone(), b.clone())),
            _ => {}
        }
    }
    prop_assert_eq!(changes.is_empty(), added.is_empty() && removed.is_empty() && replaced.is_empty());
    prop_assert_eq!(changes.added().collect::<Vec<_>>(), added);
    prop_assert_eq!(changes.removed().collect::<Vec<_>>(), removed);
    prop_assert_eq!(changes.replaced().collect::<Vec<_>>(), replaced);
    Ok(())
}

proptest! {
    // PROPTEST_CASES asks for more.
    #![proptest_config(ProptestConfig { cases: 2 * ProptestConfig::default().cases, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_is_at_once(steps in proptest::collection::vec(step(), 1..40), ignore_foreign: bool) {
        let options = Options { ignore_foreign };
        let mut set = Inventory::default();
        let mut texts = Texts::new();
        for step in &steps {
            let held = texts.clone();
            edit(&mut texts, step);
            let files = files(&texts);
            let at_once: Vec<_> = files.iter().map(|file| Arc::new(parse_file(file, &options))).collect();
            let expected = check_whole(&at_once, &files);
            let former: Vec<_> = set.objects().collect();
            match set.update(&parse_after(&set, &files, &options).into(), &files) {
                Ok((next, changes)) => {
                    let (objects, warnings) = expected.map_err(|errors| TestCaseError::fail(errors.to_string()))?;
                    prop_assert_eq!(next.len(), objects.len());
                    prop_assert_eq!(&next.objects().collect::<Vec<_>>(), &objects);
                    prop_assert_eq!(next.warnings(), &warnings);
                    for object in &objects {
                        let got = next.get(&object.key);
                        prop_assert_eq!(got.as_ref(), Some(object));
                        prop_assert!(next.of_kind(&object.key.group, &object.key.kind).any(|one| one == *object));
                    }
                    check_changes(&set, &next, &changes)?;
                    set = next;
                }
                Err(errors) => {
                    let Err(expected) = expected else { return Err(TestCaseError::fail(errors.to_string())) };
                    prop_assert_eq!(errors.to_string(), expected.to_string());
                    prop_assert_eq!(errors, expected);
                    prop_assert_eq!(set.objects().collect::<Vec<_>>(), former, "an error leaves the set as it is");
                    // Most edits of a wrong set are wrong as well: every other time, take it back.
                    if steps.len() % 2 == 0 {
                        texts = held;
                    }
                }
            }
        }
    }
}

fn endpoint(index: usize) -> String {
    format!(
        "---\napiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata:\n  name: e{index:06}\nspec:\n  node: n\n  addresses: [10.{}.{}.{}]\n  attach: {{netns: ns{index}}}\n",
        index >> 16,
        index >> 8 & 255,
        index & 255
    )
}

#[test]
fn one_document_of_many_is_parsed() {
    let options = Options::default();
    let text: String = (0..512).map(endpoint).collect();
    let before = file("a.yaml", text.as_bytes());
    let former = parse_file(&before, &options);
    assert_eq!((former.counts().documents, former.counts().parsed), (512, 512));
    let set = Inventory::default().update(&vec![Arc::new(former)].into(), std::slice::from_ref(&before)).unwrap().0;

    for (edited, parsed, replaced) in [
        (text.replace("ns77}", "other}"), 1, 1),
        (format!("# a comment\n\n{text}"), 1, 0),
        (text.replacen("---\n", "---\n# a note\n", 1), 1, 0),
    ] {
        let after = [file("a.yaml", edited.as_bytes())];
        let former = set.file("a.yaml").map(|former| &**former);
        let again = Arc::new(parse_file_after(&after[0], &options, former));
        assert!(again.counts().parsed <= parsed, "{:?}", again.counts());
        assert_eq!(again.counts().documents, 512);
        let (next, changes) = set.update(&vec![again].into(), &after).unwrap();
        assert_eq!(changes.replaced().len(), replaced);
        let at_once = check_whole(&[Arc::new(parse_file(&after[0], &options))], &after).unwrap().0;
        assert!(next.objects().eq(at_once));
    }
}

#[test]
fn a_moved_object_is_not_a_changed_one() {
    let options = Options::default();
    let node = |name: &str| format!("apiVersion: weir/v1alpha1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{}}\n");
    let parsed = |files: &[File], set: &Inventory| parse_after(set, files, &options);
    let before = [file("a.yaml", format!("{}---\n{}", node("a"), endpoint(1)).as_bytes()), file("b.yaml", b"")];
    let set = Inventory::default();
    let set = set.update(&parsed(&before, &set).into(), &before).unwrap().0;
    let after = [file("a.yaml", b""), file("b.yaml", format!("# x\n{}---\n{}", node("a"), endpoint(1)).as_bytes())];
    let (next, changes) = set.update(&parsed(&after, &set).into(), &after).unwrap();
    assert!(changes.is_empty());
    assert_eq!(changes.moved(), 2);
    let places: Vec<_> = next.objects().map(|object| (object.origin.path.to_string(), object.origin.line)).collect();
    assert_eq!(places, [("b.yaml".to_owned(), 8), ("b.yaml".to_owned(), 2)]);
    let places: Vec<_> = set.objects().map(|object| (object.origin.path.to_string(), object.origin.line)).collect();
    assert_eq!(places, [("a.yaml".to_owned(), 7), ("a.yaml".to_owned(), 1)], "the former set is what it was");
}
