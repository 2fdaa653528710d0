//! The verifier's count of instructions, per program and kernel, as `weir doctor` prints it.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use crate::{failure::Failure, privilege};

/// Program, and what the verifier counted.
pub type Counts = BTreeMap<String, u64>;

const HEAD: &str = "PROGRAM ";

/// Reads the table out of the doctor's lines, given one at a time.
#[derive(Debug, Default)]
pub struct Reader {
    inside: bool,
    pub counts: Counts,
}

impl Reader {
    pub fn line(&mut self, line: &str) {
        if line.starts_with(HEAD) {
            self.inside = true;
            return;
        }
        let mut words = line.split_whitespace();
        match (self.inside, words.next(), words.next().map(str::parse)) {
            (true, Some(program), Some(Ok(count))) => {
                self.counts.insert(program.to_owned(), count);
            }
            _ => self.inside = false,
        }
    }
}

/// On this machine's own kernel, in a BPF file system that goes with the process.
pub fn here(weir: &Path) -> Result<Counts, Failure> {
    let script = format!("mount -t bpf bpf /sys/fs/bpf && exec '{}' doctor", weir.display());
    let call = privilege::root("unshare").args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let mut reader = Reader::default();
    call.text()?.lines().for_each(|line| reader.line(line));
    Ok(reader.counts)
}

/// One column per kernel.
pub fn table(kernels: &[(&str, &Counts)]) -> String {
    let mut text = format!("{:<16}", "program");
    for (kernel, _) in kernels {
        let _ = write!(text, "{kernel:>24}");
    }
    text.push('\n');
    let mut programs: Vec<&String> = kernels.iter().flat_map(|(_, counts)| counts.keys()).collect();
    programs.sort();
    programs.dedup();
    for program in programs {
        let _ = write!(text, "{program:<16}");
        for (_, counts) in kernels {
            let count = counts.get(program).map_or("not loaded".to_owned(), u64::to_string);
            let _ = write!(text, "{count:>24}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_doctors_table_and_nothing_around_it() {
        let mut reader = Reader::default();
        for line in [
            "ok  kernel  6.1.0",
            "    tcx: no",
            "PROGRAM        VERIFIED INSTRUCTIONS  MACHINE CODE",
            "xdp_ingress    174580                 9912 bytes",
            "from_endpoint  77169                  16890 bytes",
            "weir-vm: ok doctor",
            "later 5 things",
        ] {
            reader.line(line);
        }
        assert_eq!(reader.counts, [("from_endpoint".to_owned(), 77169), ("xdp_ingress".to_owned(), 174_580)].into());
        let none = Counts::new();
        let text = table(&[("6.1", &reader.counts), ("6.18", &none)]);
        assert!(text.contains("from_endpoint                      77169              not loaded\n"), "{text}");
    }
}
