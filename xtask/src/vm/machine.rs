//! qemu, and what comes out of its serial line.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use super::{job::Outcome, kernel::Kernel};
use crate::failure::Failure;

/// The whole run, boot included.
const LIMIT: Duration = Duration::from_secs(8 * 60);

/// Boots, prints the serial line, and returns what it said.
pub fn boot(kernel: &Kernel, initramfs: &std::path::Path) -> Result<Outcome, Failure> {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "4G"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"])
        .args(["-append", "console=ttyS0 quiet panic=-1 loglevel=4"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let start = |cause| Failure::Start { program: "qemu-system-x86_64".to_owned(), cause };
    let mut child = command.spawn().map_err(start)?;
    let result = follow(&mut child);
    // Already gone, unless the time was up.
    let _ = child.kill();
    child.wait().map_err(start)?;
    result
}

fn follow(child: &mut Child) -> Result<Outcome, Failure> {
    let (sender, lines) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
    let end = Instant::now() + LIMIT;
    let mut outcome = Outcome::default();
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("  | {line}");
                outcome.line(&line);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(outcome),
            Err(RecvTimeoutError::Timeout) => {
                println!("FAILED: the emulated machine was not done after {} s", LIMIT.as_secs());
                return Ok(outcome);
            }
        }
    }
}
