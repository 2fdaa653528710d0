//! What is wrong, where, and what to write instead.
use std::{fmt, sync::Arc};

/// One error (or warning) with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable, of [`crate::code`].
    pub code: &'static str,
    pub path: Arc<str>,
    /// From 1; 0 when the diagnostic is about the file as a whole.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Characters to underline, at least 1.
    pub span_len: usize,
    /// The line as it stands in the file; `None` where it is not text or too long to show.
    pub source_line: Option<String>,
    pub message: String,
    pub help: Option<String>,
    /// Other places that belong to it: path, line, column, what is there.
    pub related: Vec<(Arc<str>, usize, usize, String)>,
}

impl Diagnostic {
    fn sort_key(&self) -> (&str, usize, usize, &str, &str) {
        (&self.path, self.line, self.column, self.code, &self.message)
    }

    fn render(&self, severity: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{severity}[{}]: {}", self.code, self.message)?;
        let gutter = " ".repeat(self.line.to_string().len());
        if self.line == 0 {
            writeln!(f, "{gutter}--> {}", self.path)?;
        } else {
            writeln!(f, "{gutter}--> {}:{}:{}", self.path, self.line, self.column)?;
        }
        if let Some(source) = &self.source_line {
            // Tabs are kept, so that the caret stands under its character at any tab width.
            let before = source.chars().take(self.column.saturating_sub(1));
            let padding: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let room = source.chars().count().saturating_sub(self.column.saturating_sub(1)).max(1);
            let carets = "^".repeat(self.span_len.clamp(1, room));
            writeln!(f, "{gutter} |\n{} | {source}\n{gutter} | {padding}{carets}", self.line)?;
        }
        for (path, line, column, what) in &self.related {
            writeln!(f, "{gutter} ::: {path}:{line}:{column}: {what}")?;
        }
        if let Some(help) = &self.help {
            writeln!(f, "{gutter} = help: {help}")?;
        }
        Ok(())
    }
}

/// As rustc prints an error.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.render("error", f)
    }
}

impl Diagnostic {
    /// The same text, headed `warning` instead of `error`.
    pub fn as_warning(&self) -> impl fmt::Display + '_ {
        struct Warning<'a>(&'a Diagnostic);
        impl fmt::Display for Warning<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.render("warning", f)
            }
        }
        Warning(self)
    }
}

/// Every error of a set, sorted by place, without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    pub(crate) fn sorted(mut list: Vec<Diagnostic>) -> Self {
        list.sort_by(|a, b| a.sort_key().cmp(&b.sort_key()));
        list.dedup();
        Self(list)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.0 {
            writeln!(f, "{diagnostic}")?;
        }
        match self.0.len() {
            1 => write!(f, "1 error"),
            count => write!(f, "{count} errors"),
        }
    }
}

impl std::error::Error for Diagnostics {}
