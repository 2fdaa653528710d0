//! What a check finds, before anybody looked up where it stands.
use std::fmt::{self, Write};

/// Where a value is inside its document; built on the stack, written out only for a problem.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    pub fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }
}

/// `spec.ingress[0].toPorts`; a field that is no plain name is quoted: `metadata.labels["a.b/c"]`.
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(parent, name) => {
                parent.fmt(f)?;
                if name.is_empty() || name.contains(['.', '[', ']', '"']) {
                    f.write_str("[\"")?;
                    for c in name.chars() {
                        if matches!(c, '"' | '\\') {
                            f.write_char('\\')?;
                        }
                        f.write_char(c)?;
                    }
                    f.write_str("\"]")
                } else if matches!(parent, Path::Root) {
                    f.write_str(name)
                } else {
                    write!(f, ".{name}")
                }
            }
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// One step of a written path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Field(String),
    Index(usize),
}

/// The steps of a path as [`Path`] writes it; `None` when it is none.
pub(crate) fn parse_path(text: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let mut name = String::new();
            let mut chars = quoted.char_indices();
            let end = loop {
                match chars.next()? {
                    (_, '\\') => name.push(chars.next()?.1),
                    (at, '"') => break at + 1,
                    (_, c) => name.push(c),
                }
            };
            rest = quoted[end..].strip_prefix(']')?;
            steps.push(Step::Field(name));
        } else if let Some(index) = rest.strip_prefix('[') {
            let (digits, after) = index.split_once(']')?;
            steps.push(Step::Index(digits.parse().ok()?));
            rest = after;
        } else {
            let name = match rest.strip_prefix('.') {
                Some(name) if !steps.is_empty() => name,
                None if steps.is_empty() => rest,
                _ => return None,
            };
            let end = name.find(['.', '[']).unwrap_or(name.len());
            if end == 0 {
                return None;
            }
            steps.push(Step::Field(name[..end].to_owned()));
            rest = &name[end..];
        }
    }
    Some(steps)
}

/// One thing that is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub code: &'static str,
    pub path: String,
    /// Point at the key instead of its value.
    pub at_key: bool,
    pub message: String,
    pub help: Option<String>,
    /// Paths in the same document, and what is there.
    pub related: Vec<(String, String)>,
}

/// Collects what the checks of one object find.
#[derive(Debug, Default)]
pub(crate) struct Problems(pub Vec<Problem>);

impl Problems {
    pub fn push(&mut self, code: &'static str, path: &Path<'_>, message: impl Into<String>) -> &mut Problem {
        self.0.push(Problem {
            code,
            path: path.to_string(),
            at_key: false,
            message: message.into(),
            help: None,
            related: Vec::new(),
        });
        let last = self.0.len() - 1;
        &mut self.0[last]
    }
}

impl Problem {
    pub fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    pub fn at_key(&mut self) -> &mut Self {
        self.at_key = true;
        self
    }

    pub fn related(&mut self, path: &Path<'_>, what: impl Into<String>) -> &mut Self {
        self.related.push((path.to_string(), what.into()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_and_read_back() {
        let (spec, labels) = (Path::Root.field("spec"), Path::Root.field("metadata"));
        let labels = labels.field("labels");
        let ingress = spec.field("ingress");
        let first = ingress.index(0);
        for (path, text) in [
            (first.field("toPorts"), "spec.ingress[0].toPorts"),
            (labels.field("app.kubernetes.io/name"), "metadata.labels[\"app.kubernetes.io/name\"]"),
            (labels.field("a\"]b\\"), "metadata.labels[\"a\\\"]b\\\\\"]"),
        ] {
            assert_eq!(path.to_string(), text);
            let steps = parse_path(text).unwrap();
            let mut fields = 0;
            let mut at = &path;
            while let Path::Field(parent, _) | Path::Index(parent, _) = at {
                fields += 1;
                at = parent;
            }
            assert_eq!(steps.len(), fields);
        }
        assert_eq!(parse_path("a[\"x.\\\"y\"][3]").unwrap()[1], Step::Field("x.\"y".to_owned()));
        for bad in ["a[", "a[x]", "a..b", ".a", "a[\"x", "a.", "[\"\\"] {
            assert_eq!(parse_path(bad), None, "{bad}");
        }
        assert_eq!(parse_path(""), Some(vec![]));
    }
}
