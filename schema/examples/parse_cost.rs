//! What reading manifests costs, a file of each form at a time: `cargo run --release --example parse_cost`.
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
use std::{hint::black_box, sync::Arc, time::Instant};

use sha2::{Digest, Sha256};
use weir_schema::{ContentHash, File, Inventory, Options, ParsedFile, check_whole, parse_file, parse_file_after};

fn file(path: &str, text: &str) -> File {
    File { path: path.into(), hash: ContentHash(Sha256::digest(text).into()), bytes: text.as_bytes().into() }
}

fn address(n: usize) -> String {
    format!("{}.{}.{}.{}", 10 + (n >> 24), n >> 16 & 255, n >> 8 & 255, n & 255)
}

fn list(first: usize, count: usize, comment: &str) -> String {
    let entries: String = (first..first + count).map(|n| format!("  - {}/32{comment}\n", address(n))).collect();
    format!("apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: f{first}}}\nspec:\n  cidrs:\n{entries}")
}

fn endpoints(first: usize, count: usize) -> String {
    let one = |n: usize| {
        format!(
            "---\napiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata:\n  name: ep-{n:06}\n  labels: {{app: app{}, tier: web}}\nspec:\n  node: node{}\n  addresses: [{}]\n  attach: {{netns: ep-{n:06}}}\n",
            n % 100,
            n % 50,
            address(n)
        )
    };
    (first..first + count).map(one).collect()
}

/// Median of several runs, in nanoseconds.
fn time<T>(mut work: impl FnMut() -> T) -> f64 {
    let mut times: Vec<_> = (0..15)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed().as_nanos() as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

fn main() {
    let options = Options::default();
    println!(
        "{:34} {:>8} {:>14} {:>14} {:>14}",
        "one file", "entries", "parse ns/entry", "yaml ns/entry", "edit of one, us"
    );
    for (name, text, entries) in [
        ("list of 512", list(0, 512, ""), 512),
        (
            "list with comments, 45 KB",
            list(0, 600, "  # from the abuse desk, case 4711, kept until the end of the year"),
            600,
        ),
        ("256 endpoints", endpoints(0, 256), 256),
        ("512 endpoints", endpoints(0, 512), 512),
    ] {
        let whole = file("a.yaml", &text);
        let parse = time(|| parse_file(&whole, &options));
        let yaml = time(|| {
            let documents = text.split_inclusive("---\n").filter(|part| part.len() > 4);
            let value = |part: &str| serde_yaml::from_str::<serde_yaml::Value>(part.trim_end_matches("---\n")).unwrap();
            documents.map(value).collect::<Vec<_>>()
        });
        let former = parse_file(&whole, &options);
        let edited = file("a.yaml", &text.replacen(&address(77), &address(70_000), 1));
        let edit = time(|| parse_file_after(&edited, &options, Some(&former)));
        println!(
            "{name:34} {entries:>8} {:>14.0} {:>14.0} {:>14.1}   ({} bytes)",
            parse / entries as f64,
            yaml / entries as f64,
            edit / 1000.0,
            text.len()
        );
    }

    println!();
    for count in [2, 1000] {
        let before = resident();
        let files: Vec<File> = (0..count)
            .map(|n| match n % 2 {
                0 => file(&format!("{n:04}-endpoints.yaml"), &endpoints(n / 2 * 512, 512)),
                _ => {
                    file(&format!("{n:04}-filter.yaml"), &list(n / 2 * 512, 512, "  # from the abuse desk, case 4711"))
                }
            })
            .collect();
        let bytes: usize = files.iter().map(|file| file.bytes.len()).sum();
        let files_resident = resident();
        let start = Instant::now();
        let mut parsed: Vec<_> = files.iter().map(|file| Arc::new(parse_file(file, &options))).collect();
        let parse = start.elapsed();
        let start = Instant::now();
        let encoded: Vec<_> = parsed.iter().zip(&files).map(|(parsed, file)| parsed.encode(file).unwrap()).collect();
        let encode = start.elapsed();
        let start = Instant::now();
        let decoded: Vec<_> =
            encoded.iter().zip(&files).map(|(bytes, file)| ParsedFile::decode(bytes, file).unwrap()).collect();
        println!(
            "{count} files: encode {encode:?}, decode {:?}, {} KiB",
            start.elapsed(),
            encoded.iter().map(Vec::len).sum::<usize>() / 1024
        );
        drop((encoded, decoded));
        let start = Instant::now();
        let (set, changes) = Inventory::default().update(&parsed.clone().into(), &files).unwrap();
        let assemble = start.elapsed();
        let start = Instant::now();
        assert_eq!(changes.added().count(), set.len());
        let read = start.elapsed();
        drop(changes);
        let held = resident();
        let mut files_after = files.clone();
        let text = String::from_utf8(files[0].bytes.to_vec()).unwrap();
        files_after[0] = file(&files[0].path, &text.replacen(&address(77), "10.255.0.1", 1));
        let edit = time(|| {
            parsed[0] = Arc::new(parse_file_after(&files_after[0], &options, set.file(&files[0].path).map(|f| &**f)));
            let (next, changes) = set.update(&parsed.clone().into(), &files_after).unwrap();
            assert_eq!((changes.replaced().len(), next.len()), (1, set.len()));
        });
        let start = Instant::now();
        check_whole(&parsed, &files_after).unwrap();
        println!(
            "{count} files, {} objects, {} KiB: parse {parse:?}, assemble {assemble:?}, read all {read:?}; an edit of one endpoint {:.0} us (a whole check {:?}); RssAnon: files {} KiB, set {} KiB",
            set.len(),
            bytes / 1024,
            edit / 1000.0,
            start.elapsed(),
            (files_resident - before) / 1024,
            (held - files_resident) / 1024,
        );
    }
}
