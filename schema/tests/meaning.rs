//! What counts as the same object, where things stand, and what is kept between two readings.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod story;

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use story::file;
use weir_schema::{
    ContentHash, File, Inventory, Object, Options, Position, Spec, assemble, locate, locate_list_entry, parse,
    parse_file,
};

fn read(files: &[File]) -> Inventory {
    parse(files, &Options::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn one(text: &str) -> Arc<Object> {
    let set = read(&[file("a.yaml", text.as_bytes())]);
    assert_eq!(set.len(), 1);
    set.objects().next().unwrap()
}

fn hashes(set: &Inventory) -> BTreeMap<String, ContentHash> {
    set.objects().map(|object| (object.key.to_string(), object.hash)).collect()
}

const FILTER: &str = "apiVersion: weir/v1alpha1
kind: CidrFilter
metadata: {name: f}
spec:
  cidrs:
  - 192.0.2.0/24
  - 10.0.0.0/8
  - 10.1.0.0/16
  - '2001:db8::/32'
";

#[test]
fn form_does_not_change_the_hash() {
    let plain = one(FILTER);
    for same in [
        "# a comment\n---\nkind: CidrFilter\napiVersion: weir/v1alpha1\nspec: {cidrs: [10.1.0.0/16, 10.0.0.0/8, 192.0.2.0/24,
          192.0.2.0/24, '2001:db8:0::/32'], match: source, mode: auto}\nmetadata: {namespace: default, name: f, labels: {}}\n",
        "\u{feff}{\"apiVersion\": \"weir/v1alpha1\", \"kind\": \"CidrFilter\", \"metadata\": {\"name\": \"f\"}, \"spec\":
          {\"cidrs\": [\"10.0.0.0/8\", \"10.1.0.0/16\", \"192.0.2.0/24\", \"2001:db8::/32\"]}}",
        &FILTER.replace('\n', "\r\n"),
    ] {
        assert_eq!(one(same).hash, plain.hash, "{same}");
    }
    for other in [
        FILTER.replace("10.1.0.0/16", "10.1.0.0/17"),
        FILTER.replace("name: f", "name: g"),
        FILTER.replace("name: f", "name: f, labels: {a: b}"),
        FILTER.replace("  cidrs", "  match: destination\n  cidrs"),
        FILTER.replace("  cidrs", "  allow"),
        FILTER.replace("  - 10.1.0.0/16\n", ""),
    ] {
        assert_ne!(one(&other).hash, plain.hash, "{other}");
    }
}

#[test]
fn a_list_counts_by_its_prefixes() {
    let manifest =
        "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {name: f}\nspec: {fromFiles: [a.txt, b.txt]}\n";
    let of = |a: &str, b: &str| {
        let files = [file("m.yaml", manifest.as_bytes()), file("a.txt", a.as_bytes()), file("b.txt", b.as_bytes())];
        hashes(&read(&files))
    };
    let hash = of("10.0.0.0/8\n192.0.2.0/24\n", "");
    assert_eq!(of("; new\r\n192.0.2.0/24 # x\n10.0.0.0/8\n10.0.0.0/8\n", "# nothing\n"), hash);
    assert_ne!(of("10.0.0.0/8\n", "192.0.2.0/24\n"), hash, "another rule counts it");
    assert_ne!(of("10.0.0.0/8\n192.0.2.0/25\n", ""), hash);
}

/// Long lists take another way than short ones: both must read the same.
#[test]
fn long_lists_read_like_short_ones() {
    let entries: Vec<String> = (0..2000u32)
        .map(|n| match n % 4 {
            0 => format!("  - 10.{}.{}.0/24\n", n / 256, n % 256),
            1 => format!("  - \"2001:db8:{n:x}::/48\" # x\n"),
            2 => format!("  - 172.16.{}.{}\n\n", n / 256, n % 256),
            _ => format!("  # a note\n  - 'fd00::{n:x}'\n"),
        })
        .collect();
    let text = |entries: &str| {
        format!(
            "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: f}}\nspec:\n  cidrs:\n{entries}  mode: native\n"
        )
    };
    let lifted = one(&text(&entries.concat()));
    // An alias is nothing that lines show.
    let parsed = one(&text(&format!("  - &a 10.0.0.0/24\n  - *a\n{}", entries.concat())));
    let (Spec::CidrFilter(lifted), Spec::CidrFilter(parsed)) = (&lifted.spec, &parsed.spec) else {
        panic!("no filters")
    };
    assert_eq!(lifted, parsed);
    assert_eq!(lifted.lists[0].prefixes.len(), 2000);
}

/// Every example, written out by [`Object::to_value`], is the same object.
#[test]
fn objects_survive_being_written_and_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut files = vec![file("q/lists/drop.txt", &fs::read(root.join("quickstart/lists/drop.txt")).unwrap())];
    for folder in ["quickstart", "policies"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = format!("q/{folder}-{}", path.file_name().unwrap().to_str().unwrap());
                files.push(file(&name, &fs::read(&path).unwrap()));
            }
        }
    }
    let set = read(&files);
    assert!(set.len() >= 16);
    for (form, write) in [
        ("yaml", (|object| serde_yaml::to_string(&object.to_value()).unwrap()) as fn(&Object) -> String),
        ("json", |object| object.to_value().to_string()),
    ] {
        let text: String = set.objects().map(|object| format!("---\n{}\n", write(&object))).collect();
        let again = read(&[files[0].clone(), file("q/all.yaml", text.as_bytes())]);
        assert_eq!(hashes(&again), hashes(&set), "{form}");
        for (a, b) in set.objects().zip(again.objects()) {
            assert_eq!((&a.spec, &a.metadata), (&b.spec, &b.metadata));
        }
    }
}

#[test]
fn places_are_found_again() {
    let text = "# a comment
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Namespace
  metadata: {name: a}
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: p}
  spec:
    podSelector: {}
    ingress:
    - from: []
    - ports:
      - {port: 1}
      - {port: 2}
---
# nothing
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: c}
specs:
- {endpointSelector: {}, ingress: [{}]}
- endpointSelector: {}
  egress:
  - toPorts: &x
    - ports: [{port: 3}]
  - toPorts: *x
";
    let set = [file("a.yaml", text.as_bytes())];
    let objects = read(&set);
    let at = |name: &str, path: &str| {
        let object = objects.objects().find(|object| &*object.key.name == name).unwrap();
        locate(&set[0], object.origin.document, path).map(|Position { line, column }| (line, column))
    };
    assert_eq!(at("p", "spec.ingress[1].ports[1]"), Some((17, 9)));
    assert_eq!(at("p", "spec.ingress[1].ports[1].port"), Some((17, 16)));
    assert_eq!(at("c", "specs[1].egress[0].toPorts[0].ports[0]"), Some((29, 15)));
    assert_eq!(at("c", "specs[1].egress[1].toPorts[0].ports[0]"), Some((30, 14)), "the alias");
    assert_eq!(at("c", "specs[2]"), None);
    assert_eq!(locate(&set[0], 3, "metadata"), None);
    let lines: Vec<_> = objects.objects().map(|object| (object.key.to_string(), object.origin.line)).collect();
    let expected = [("Namespace a", 5), ("CiliumNetworkPolicy default/c", 21), ("NetworkPolicy default/p", 8)];
    assert_eq!(lines, expected.map(|(key, line)| (key.to_owned(), line)));
    let Spec::NetworkPolicy(rules) = &objects.objects().nth(1).unwrap().spec else { panic!("no policy") };
    assert_eq!(rules.iter().map(|rule| &*rule.path).collect::<Vec<_>>(), ["specs[0]", "specs[1]"]);
}

#[test]
fn the_longest_entry_is_the_one_that_is_shown() {
    let files = [
        file("x/f.yaml", FILTER.replace("spec:", "spec:\n  fromFiles: [../l.txt]").as_bytes()),
        file("l.txt", b"; x\n10.0.0.0/8\n10.1.2.0/24 ; this\n10.1.0.0/16\n"),
    ];
    let set = read(&files);
    let object = set.objects().next().unwrap();
    let find = |rule: &str, address: &str| {
        let of = |path: &str| files.iter().find(|file| &*file.path == path);
        let (path, place) = locate_list_entry(&object, rule, address.parse().unwrap(), of)?;
        Some((path.to_string(), place.line, place.column))
    };
    assert_eq!(find("spec.fromFiles[0]", "10.1.2.3"), Some(("l.txt".to_owned(), 3, 1)));
    assert_eq!(find("spec.cidrs", "10.1.2.3"), Some(("x/f.yaml".to_owned(), 9, 5)));
    assert_eq!(find("spec.cidrs", "2001:db8::9"), Some(("x/f.yaml".to_owned(), 10, 5)));
    assert_eq!(find("spec.cidrs", "8.8.8.8"), None);
    assert_eq!(find("spec.fromFiles[1]", "10.1.2.3"), None);
}

#[test]
fn unchanged_files_keep_their_objects() {
    let node = |name: &str| format!("apiVersion: weir/v1alpha1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{}}\n");
    let before = [file("a.yaml", node("a").as_bytes()), file("b.yaml", node("b").as_bytes())];
    let after = [before[0].clone(), file("b.yaml", node("c").as_bytes())];
    let options = Options::default();
    let mut parsed: Vec<_> = before.iter().map(|file| Arc::new(parse_file(file, &options))).collect();
    let first = assemble(&parsed.clone().into(), &before).unwrap();
    parsed[1] = Arc::new(parse_file(&after[1], &options));
    let second = assemble(&parsed.into(), &after).unwrap();
    let same = |set: &Inventory| set.objects().find(|object| &*object.key.name == "a").unwrap();
    assert!(Arc::ptr_eq(&same(&first), &same(&second)));
    assert_eq!(second.objects().map(|object| object.key.name.to_string()).collect::<Vec<_>>(), ["a", "c"]);
    assert!(first.get(&same(&first).key).is_some() && second.get(&first.objects().nth(1).unwrap().key).is_none());
}

#[test]
fn an_empty_set_is_a_valid_one() {
    for files in
        [vec![], vec![file("a.yaml", b"")], vec![file("a.yaml", b"---\n# x\n---\n...\n")], vec![file("x", b"\xff")]]
    {
        assert!(read(&files).is_empty());
    }
}

#[test]
fn kubernetes_fields_are_read_over() {
    let object = one("apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: p
  namespace: shop
  uid: 0b0e
  resourceVersion: \"12\"
  creationTimestamp: null
  generation: 3
  labels:
  annotations: {kubectl.kubernetes.io/last-applied-configuration: \"{}\\n\"}
  managedFields:
  - {manager: kubectl, fieldsV1: {\"f:spec\": {}}}
  ownerReferences: []
spec:
  endpointSelector: {}
  egress: []
status: {conditions: [{type: Valid}]}
");
    assert_eq!(object.key.to_string(), "CiliumNetworkPolicy shop/p");
    assert_eq!(
        one(
            "{apiVersion: v1, kind: Namespace, metadata: {name: n, namespace: x}, spec: {finalizers: [a]}, status: {}}"
        )
        .key
        .to_string(),
        "Namespace n"
    );
}
