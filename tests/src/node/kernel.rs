//! The kernel's objects as somebody else sees them: by bpftool, by tc, by ip. Nothing here uses Weir's own code, so
//! that a mistake of it cannot hide itself.
use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use weir_abi::Side;

use super::{Node, Ran, tool};

/// Runs bpftool, which must succeed, and reads its JSON.
pub fn bpftool(words: &str) -> Value {
    let ran = tool("bpftool", &format!("-j {words}"));
    assert!(ran.status.success(), "{ran}");
    if ran.stdout.trim().is_empty() { Value::Null } else { ran.json() }
}

/// As [`bpftool`], for what may fail.
pub fn try_bpftool(words: &str) -> Ran {
    tool("bpftool", words)
}

/// Where a table's outer map is pinned: the ABI's hash stands between.
pub fn table_pin(node: &Node, table: &str) -> PathBuf {
    let directories = fs::read_dir(node.pins()).expect("the pin directory");
    let found = directories.map(|entry| entry.expect("an entry").path().join(table)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no pin of {table} below {}", node.pins().display()))
}

/// The id of the map that holds one side of a table.
pub fn side_map(node: &Node, table: &str, side: Side) -> u32 {
    let pin = table_pin(node, table);
    let found = bpftool(&format!("map lookup pinned {} key hex {:02x} 00 00 00", pin.display(), side.index()));
    let id = found["inner_map_id"].as_u64().or_else(|| found["value"]["inner_map_id"].as_u64());
    id.and_then(|id| u32::try_from(id).ok()).unwrap_or_else(|| panic!("no inner map of {table}: {found}"))
}

/// Bytes as bpftool takes them.
pub fn hex(bytes: &[u8]) -> String {
    let words: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("hex {}", words.join(" "))
}

/// Bytes as bpftool's JSON gives them.
pub fn bytes(value: &Value) -> Vec<u8> {
    let byte = |value: &Value| {
        let text = value.as_str().expect("bpftool writes bytes as text");
        u8::from_str_radix(text.trim_start_matches("0x"), 16).expect("a byte")
    };
    value.as_array().expect("an array of bytes").iter().map(byte).collect()
}

/// Everything in a map that is no array.
pub fn dump(id: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
    let entries = bpftool(&format!("map dump id {id}"));
    let entry = |entry: &Value| (bytes(&entry["key"]), bytes(&entry["value"]));
    entries.as_array().expect("an array of entries").iter().map(entry).collect()
}

pub fn update(id: u32, key: &[u8], value: &[u8]) {
    bpftool(&format!("map update id {id} key {} value {}", hex(key), hex(value)));
}

pub fn delete(id: u32, key: &[u8]) {
    bpftool(&format!("map delete id {id} key {}", hex(key)));
}

/// What is left of Weir: pins, programs on devices, clsact qdiscs, devices beyond `devices`.
pub fn residue(node: &Node, devices: &[&str]) -> Vec<String> {
    let mut residue = Vec::new();
    if node.pins().exists() {
        walk(&node.pins(), &mut residue);
    }
    let links = tool("ip", "-brief link");
    for name in links.stdout.lines().filter_map(|line| line.split([' ', '@']).next()) {
        if !devices.contains(&name) {
            residue.push(format!("device {name}"));
        }
    }
    let attached = tool("bpftool", "-j net list").stdout;
    if attached.contains("\"id\":") || attached.contains("\"prog_id\":") {
        residue.push(format!("attached programs {attached}"));
    }
    let qdiscs = tool("tc", "qdisc show").stdout;
    residue.extend(qdiscs.lines().filter(|line| line.contains("clsact")).map(|line| format!("qdisc {line}")));
    residue
}

fn walk(directory: &Path, residue: &mut Vec<String>) {
    residue.push(format!("pin {}", directory.display()));
    for entry in fs::read_dir(directory).expect("the pin directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, residue);
        } else {
            residue.push(format!("pin {}", path.display()));
        }
    }
}
