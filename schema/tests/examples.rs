//! Every example is valid, alone and together with the others of its folder.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
mod story;

use std::{fs, path::Path};

use weir_schema::{File, Options, Spec, parse};

fn read(root: &Path, below: &Path, files: &mut Vec<File>) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            files.push(story::file(name, &fs::read(&path).unwrap()));
        }
    }
}

fn folder(name: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
    let mut files = Vec::new();
    read(&root, &root, &mut files);
    files
}

#[test]
fn the_quickstart_is_one_valid_set() {
    let set = parse(&folder("quickstart"), &Options::default()).unwrap_or_else(|errors| panic!("{errors}"));
    let keys: Vec<_> = set.objects().map(|object| object.key.to_string()).collect();
    let expected = [
        "CidrFilter default/drop",
        "Endpoint default/db",
        "Endpoint default/web",
        "NetworkPolicy default/db",
        "NetworkPolicy default/web",
        "Node node1",
        "NodeConfig small",
    ];
    assert_eq!(keys, expected);
    let Spec::CidrFilter(filter) = &set.objects().next().unwrap().spec else { panic!("not a filter") };
    assert_eq!(filter.lists[0].prefixes.len(), 4);
}

#[test]
fn every_policy_example_is_valid() {
    let files = folder("policies");
    assert!(files.len() >= 9);
    for file in &files {
        let set = parse(std::slice::from_ref(file), &Options::default());
        let set = set.unwrap_or_else(|errors| panic!("{errors}"));
        assert!(!set.is_empty(), "{}", file.path);
    }
    parse(&files, &Options::default()).unwrap_or_else(|errors| panic!("{errors}"));
}
