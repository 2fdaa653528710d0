//! What Rust's test harness prints.

use std::fmt;

/// Sums over test binaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
}

impl Tally {
    /// Takes in one line of output; any line that is no summary changes nothing.
    pub fn line(&mut self, line: &str) {
        if let Some(one) = summary(line) {
            self.add(one);
        }
    }

    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// The closing line of a whole run.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// `test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s`
fn summary(line: &str) -> Option<Tally> {
    let counts = line.trim().strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut tally = Tally::default();
    let mut seen = 0;
    for part in counts.split(';') {
        let Some((number, what)) = part.trim().split_once(' ') else { continue };
        let Ok(number) = number.parse() else { continue };
        match what {
            "passed" => tally.passed = number,
            "failed" => tally.failed = number,
            "ignored" => tally.ignored = number,
            _ => continue,
        }
        seen += 1;
    }
    (seen == 3).then_some(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_the_summaries_and_nothing_else() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 1 passed; 2 failed; 4 ignored; 0 measured; 0 filtered out; finished in 1.20s",
            "I passed; 7 failed;",
            "test result: gibberish",
        ] {
            tally.line(line);
        }
        assert_eq!(tally, Tally { passed: 4, failed: 2, ignored: 4 });
        assert_eq!(tally.to_string(), "4 passed, 2 failed");
    }

    #[test]
    fn a_serial_console_ends_lines_with_a_carriage_return() {
        let mut tally = Tally::default();
        tally.line("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\r");
        assert_eq!(tally.passed, 1);
    }
}
