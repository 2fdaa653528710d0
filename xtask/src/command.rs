use std::{
    ffi::OsStr,
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    process::{Command, Output, Stdio},
};

use crate::failure::Failure;

/// Says what comes next.
pub fn heading(text: &str) {
    println!("==> {text}");
}

/// A command that is printed, or not, and whose failure is an error that names it.
pub struct Call {
    command: Command,
    program: String,
}

impl Call {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(&program);
        command.stdin(Stdio::null());
        Self { command, program: program.as_ref().to_string_lossy().into_owned() }
    }

    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn without(mut self, names: &[&str]) -> Self {
        for name in names {
            self.command.env_remove(name);
        }
        self
    }

    pub fn inside(mut self, directory: impl AsRef<std::path::Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// As a person would type it.
    pub fn line(&self) -> String {
        let mut line = shorten(&self.program);
        for argument in self.command.get_args() {
            let argument = argument.to_string_lossy();
            let plain = !argument.is_empty()
                && argument.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\$|&;<>()*?`".contains(&b));
            let _ = if plain { write!(line, " {argument}") } else { write!(line, " '{argument}'") };
        }
        line
    }

    pub fn show(self) -> Self {
        println!("$ {}", self.line());
        self
    }

    /// Runs it on the terminal; anything but exit code 0 is an error.
    pub fn run(mut self) -> Result<(), Failure> {
        let status = self.command.status().map_err(|cause| self.start_failure(cause))?;
        if status.success() { Ok(()) } else { Err(Failure::Exit { command: self.line(), status: status.to_string() }) }
    }

    /// Runs it on the terminal, whatever its exit code; a signal's death is no exit code, and an error.
    pub fn code(mut self) -> Result<i32, Failure> {
        let status = self.command.status().map_err(|cause| self.start_failure(cause))?;
        status.code().ok_or_else(|| Failure::Exit { command: self.line(), status: status.to_string() })
    }

    /// Runs it on the terminal, and gives each line of its standard output to `each` as it comes.
    /// Returns whether it ended with exit code 0.
    pub fn lines(mut self, mut each: impl FnMut(&str)) -> Result<bool, Failure> {
        let mut child = self.command.stdout(Stdio::piped()).spawn().map_err(|cause| self.start_failure(cause))?;
        if let Some(stdout) = child.stdout.take() {
            let mut reader = BufReader::new(stdout);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).map_err(|cause| self.start_failure(cause))? > 0 {
                each(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
                line.clear();
            }
        }
        Ok(child.wait().map_err(|cause| self.start_failure(cause))?.success())
    }

    /// Runs it silently, whatever its exit code.
    pub fn output(mut self) -> Result<Output, Failure> {
        self.command.output().map_err(|cause| self.start_failure(cause))
    }

    /// Its standard output; anything but exit code 0 is an error that carries its standard error.
    pub fn text(self) -> Result<String, Failure> {
        let line = self.line();
        let output = self.output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let status = format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        Err(Failure::Exit { command: line, status })
    }

    fn start_failure(&self, cause: std::io::Error) -> Failure {
        Failure::Start { program: self.program.clone(), cause }
    }
}

/// The last component of a program given by its full path.
fn shorten(program: &str) -> String {
    program.rsplit('/').next().unwrap_or(program).to_owned()
}
