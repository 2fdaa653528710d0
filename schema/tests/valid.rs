//! Valid input, from bytes to objects.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
use std::sync::Arc;

use sha2::{Digest, Sha256};
use weir_schema::{ContentHash, File, Options, Spec, parse};

fn file(path: &str, text: &str) -> File {
    let bytes: Arc<[u8]> = text.as_bytes().into();
    File { path: path.into(), hash: ContentHash(Sha256::digest(&bytes).into()), bytes }
}

#[test]
fn a_set_of_several_kinds() {
    let files = [
        file(
            "a/filter.yaml",
            "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {name: drop}\nspec:\n  cidrs:\n  - 198.51.100.0/24\n  \
             - 192.0.2.7\n  fromFiles: [lists/drop.txt]\n",
        ),
        file("a/lists/drop.txt", "203.0.113.0/24 ; x\n"),
        file(
            "b.yml",
            "apiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata:\n  name: web\n  labels: {app: web}\nspec:\n  node: node1\n  \
             addresses: [10.10.0.2, \"fd00:10::2\"]\n  attach: {netns: web}\n---\napiVersion: cilium.io/v2\nkind: \
             CiliumNetworkPolicy\nmetadata: {name: p, uid: x}\nspec:\n  endpointSelector: {}\n  ingress: [{}]\nstatus: {a: 1}\n",
        ),
    ];
    let set = parse(&files, &Options::default()).unwrap();
    let keys: Vec<_> = set.objects().map(|object| object.key.to_string()).collect();
    assert_eq!(keys, ["CiliumNetworkPolicy default/p", "CidrFilter default/drop", "Endpoint default/web"]);
    let Spec::CidrFilter(filter) = &set.objects().nth(1).unwrap().spec else { panic!("no filter") };
    let lists: Vec<_> = filter.lists.iter().map(|list| (list.rule_path.as_str(), list.prefixes.len())).collect();
    assert_eq!(lists, [("spec.cidrs", 2), ("spec.fromFiles[0]", 1)]);
}
