//! `cargo xtask soak`: the campaigns at full count until the time is up, each round with a new seed.

use std::{
    fmt::Write as _,
    fs,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{campaign::Campaign, command::heading, failure::Failure, libtest::Tally, privilege, setup, workspace};

struct Round {
    seed: u64,
    seconds: u64,
    tally: Tally,
    /// Lines in which a test says its seed or its counts.
    said: Vec<String>,
}

pub fn run(minutes: u64) -> Result<(), Failure> {
    setup::all()?;
    privilege::check()?;
    workspace::build_binary()?;
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    let mut rounds = Vec::new();
    while rounds.is_empty() || Instant::now() < end {
        rounds.push(round(rounds.len() + 1)?);
        write_report(minutes, &rounds)?;
    }
    let mut total = Tally::default();
    rounds.iter().for_each(|round| total.add(round.tally));
    println!("{total}");
    if total.failed > 0 || total.passed == 0 {
        return Err(Failure::Failed("the soak failed; its seeds are above and in the report".to_owned()));
    }
    Ok(())
}

fn round(number: usize) -> Result<Round, Failure> {
    let seed = seed();
    heading(&format!("round {number}, seed {seed}"));
    let start = Instant::now();
    let mut round = Round { seed, seconds: 0, tally: Tally::default(), said: Vec::new() };
    let call = Campaign::Soak
        .tell(workspace::cargo())
        .env("WEIR_SEED", seed.to_string())
        .args(["test", "--release", "--workspace", "--no-fail-fast"])
        .args(campaigns()?.iter().flat_map(|name| ["--test", name.as_str()]))
        .args(["--", "--nocapture"])
        .show();
    let ended_well = call.lines(|line| {
        println!("{line}");
        round.tally.line(line);
        if line.contains("seed") || line.starts_with("campaign") {
            round.said.push(line.to_owned());
        }
    })?;
    if !ended_well && round.tally.failed == 0 {
        round.tally.failed += 1;
    }
    round.seconds = start.elapsed().as_secs();
    Ok(round)
}

/// The test binaries of `tests/`: the campaigns, and what is as quick as ever.
fn campaigns() -> Result<Vec<String>, Failure> {
    let directory = workspace::root().join("tests/tests");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).map_err(Failure::file("reading", &directory))? {
        let path = entry.map_err(Failure::file("reading", &directory))?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// New each time: what the clock and the address space layout happen to be.
fn seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u128(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos());
    hasher.finish()
}

fn write_report(minutes: u64, rounds: &[Round]) -> Result<(), Failure> {
    let mut json = format!("{{\n  \"minutes\": {minutes},\n  \"rounds\": [");
    for (index, round) in rounds.iter().enumerate() {
        let said: Vec<String> = round.said.iter().map(|line| quote(line)).collect();
        let _ = write!(
            json,
            "{}\n    {{\"seed\": {}, \"seconds\": {}, \"passed\": {}, \"failed\": {}, \"said\": [{}]}}",
            if index == 0 { "" } else { "," },
            round.seed,
            round.seconds,
            round.tally.passed,
            round.tally.failed,
            said.join(", ")
        );
    }
    json.push_str("\n  ]\n}\n");
    let directory = workspace::root().join("bench/results");
    fs::create_dir_all(&directory).map_err(Failure::file("making", &directory))?;
    let path = directory.join("soak.json");
    fs::write(&path, json).map_err(Failure::file("writing", &path))
}

/// A JSON string.
fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    #[test]
    fn quotes_what_json_must_not_hold() {
        assert_eq!(super::quote("a\"b\\c\td"), r#""a\"b\\c\u0009d""#);
    }
}
