//! Bad input, told as stories: the files, and word for word what a user is shown.
//!
//! Each `tests/diagnostics/*.txt` holds its files and, under `-- errors --` and `-- warnings --`, the expected text.
//! `WEIR_UPDATE=1` writes what is shown now: read it before you commit it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
mod story;

use std::{collections::BTreeSet, fs, path::Path};

use story::{file, files};
use weir_schema::{Options, code, parse};

fn shown(story: &str) -> (String, BTreeSet<&'static str>) {
    let mut text = String::new();
    let mut codes = BTreeSet::new();
    let set: Vec<_> = files(story)
        .iter()
        .filter(|(path, _)| path != "errors" && path != "warnings")
        // Bytes that a text file cannot hold, or that an editor would mend.
        .map(|(path, text)| {
            let text = text.replace("<TAB>", "\t").replace("<CR>", "\r").replace("<LS>", "\u{2028}");
            let mut bytes = text.into_bytes();
            while let Some(at) = bytes.windows(4).position(|window| window == b"<FF>") {
                bytes.splice(at..at + 4, [0xff]);
            }
            file(path, &bytes)
        })
        .collect();
    let options = Options { ignore_foreign: story.starts_with("ignore foreign\n") };
    match parse(&set, &options) {
        Ok(inventory) => {
            text += "-- warnings --\n";
            for warning in inventory.warnings() {
                codes.insert(warning.code);
                text += &format!("{}\n", warning.as_warning());
            }
        }
        Err(diagnostics) => {
            codes.extend(diagnostics.0.iter().map(|error| error.code));
            text += &format!("-- errors --\n{diagnostics}\n");
        }
    }
    (text, codes)
}

#[test]
fn every_story_ends_as_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
    let mut codes = BTreeSet::new();
    let mut wrong = Vec::new();
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let story = fs::read_to_string(&path).unwrap();
        let end = ["\n-- errors --\n", "\n-- warnings --\n"].iter().find_map(|mark| story.find(mark)).map(|at| at + 1);
        let (told, expected) = story.split_at(end.unwrap_or(story.len()));
        let (text, found) = shown(told);
        codes.extend(found);
        if text != expected {
            if std::env::var_os("WEIR_UPDATE").is_some() {
                fs::write(&path, format!("{told}{text}")).unwrap();
            }
            wrong.push(format!("{}\n{text}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "these stories end in another way:\n{}", wrong.join("\n"));
    let untold: Vec<_> = code::ALL.iter().map(|(code, _)| *code).filter(|code| !codes.contains(code)).collect();
    assert!(untold.is_empty(), "codes without a story: {untold:?}");
}
