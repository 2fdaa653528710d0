//! What can be a name.
use crate::{
    code,
    problem::{Path, Problems},
};

/// The names of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// DNS subdomain: lower-case letters, digits, `-` and `.`, as in Kubernetes.
    Subdomain,
    /// A DNS label: no dots.
    Label,
    /// A host name as machines have them: upper case and `_`, too.
    Host,
}

impl NameRule {
    fn holds(self, name: &str) -> bool {
        let most = if self == Self::Label { 63 } else { 253 };
        let inside = |byte: u8| match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => true,
            b'.' => self != Self::Label,
            b'A'..=b'Z' | b'_' => self == Self::Host,
            _ => false,
        };
        let ends = [name.bytes().next(), name.bytes().last()];
        let edge = |end: &Option<u8>| end.is_some_and(|byte| byte.is_ascii_alphanumeric());
        name.len() <= most && name.bytes().all(inside) && ends.iter().all(edge)
    }

    pub fn check(self, name: &str, at: &Path<'_>, problems: &mut Problems) {
        if self.holds(name) {
            return;
        }
        let help = match self {
            Self::Subdomain => "use lower-case letters, digits, `-` and `.`, and begin and end with a letter or digit",
            Self::Label => {
                "use lower-case letters, digits and `-`, and begin and end with a letter or digit; at most 63"
            }
            Self::Host => "use letters, digits, `-`, `_` and `.`, and begin and end with a letter or digit",
        };
        problems.push(code::INVALID_NAME, at, format!("`{name}` cannot be a name")).help(help);
    }
}

/// What the kernel takes as the name of a network device.
pub(crate) fn check_interface(name: &str, at: &Path<'_>, problems: &mut Problems) {
    let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(odd) {
        problems
            .push(code::INVALID_NAME, at, format!("`{name}` cannot be the name of a network device"))
            .help("such names have 1 to 15 characters, without `/`, `:` and blanks");
    }
}

/// A pattern of device names: `*`, `?` and `[a-z]`.
pub(crate) fn check_interface_glob(glob: &str, at: &Path<'_>, problems: &mut Problems) {
    let mut open = false;
    let mut well_formed = !glob.is_empty();
    for c in glob.chars() {
        match c {
            '[' if !open => open = true,
            ']' if open => open = false,
            '[' | ']' | '/' | '{' | '}' | '\\' => well_formed = false,
            c => well_formed &= !c.is_whitespace() && !c.is_control(),
        }
    }
    if !well_formed || open || glob.contains("[]") {
        problems
            .push(code::INVALID_NAME, at, format!("`{glob}` is not a pattern of device names"))
            .help("write a name, with `*` for any text, `?` for one character, `[0-9]` for one of several");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (rule, name, good) in [
            (NameRule::Subdomain, "web-1.example", true),
            (NameRule::Subdomain, "Web", false),
            (NameRule::Subdomain, "", false),
            (NameRule::Subdomain, "-a", false),
            (NameRule::Subdomain, "a/b", false),
            (NameRule::Label, "a.b", false),
            (NameRule::Host, "Node_1", true),
            (NameRule::Host, "a b", false),
        ] {
            assert_eq!(rule.holds(name), good, "{name:?}");
        }
        assert!(NameRule::Label.holds(&"a".repeat(63)) && !NameRule::Label.holds(&"a".repeat(64)));
    }

    #[test]
    fn globs() {
        for (glob, good) in [
            ("eth*", true),
            ("eth[0-9]", true),
            ("[!e]*", true),
            ("", false),
            ("a[", false),
            ("a b", false),
            ("[]", false),
        ] {
            let mut problems = Problems::default();
            check_interface_glob(glob, &Path::Root, &mut problems);
            assert_eq!(problems.0.is_empty(), good, "{glob:?}");
        }
    }
}
