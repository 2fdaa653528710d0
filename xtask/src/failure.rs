use std::{fmt, io};

/// Why a verb did not do its work. Every text is a whole sentence for the person at the terminal.
#[derive(Debug)]
pub enum Failure {
    /// The command line made no sense.
    Usage(String),
    /// A program could not be started.
    Start { program: String, cause: io::Error },
    /// A program ended with something other than 0.
    Exit { command: String, status: String },
    /// A file or directory could not be read or written.
    File { doing: &'static str, path: String, cause: io::Error },
    /// The machine lacks something that cannot be installed from here.
    Machine(String),
    /// Checks or tests failed; they have been printed.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) | Self::Machine(what) | Self::Failed(what) => write!(f, "{what}"),
            Self::Start { program, cause } => write!(f, "cannot start `{program}`: {cause}"),
            Self::Exit { command, status } => write!(f, "`{command}` ended with {status}"),
            Self::File { doing, path, cause } => write!(f, "{doing} {path}: {cause}"),
        }
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// For `map_err` on a file operation.
    pub fn file(doing: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |cause| Self::File { doing, path, cause }
    }
}
