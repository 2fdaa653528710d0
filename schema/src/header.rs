//! The first pass: `apiVersion` and `kind` pick the type.
use std::borrow::Cow;

use serde::Deserialize;

use crate::{
    code, document,
    kinds::{KINDS, Kind, group},
    marked::Node,
    suggest::nearest,
};

/// What picks the type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    pub api_version: Option<Cow<'a, str>>,
    pub kind: Option<Cow<'a, str>>,
}

/// What a header leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    Kind(&'static Kind),
    /// Kubernetes' `List`: its items are objects.
    List,
    Incomplete,
    Unknown,
}

impl<'a> Header<'a> {
    /// Of a document's text; `None` when it cannot be read.
    pub fn of_text(text: &'a str) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Loose {
            api_version: Option<String>,
            kind: Option<String>,
        }
        if let Some((api_version, kind)) = document::scan_header(text) {
            return Some(Self { api_version: Some(Cow::Borrowed(api_version)), kind: Some(Cow::Borrowed(kind)) });
        }
        let loose: Loose = serde_yaml::from_str(text).ok()?;
        Some(Self { api_version: loose.api_version.map(Cow::Owned), kind: loose.kind.map(Cow::Owned) })
    }

    pub fn of_tree(root: &'a Node) -> Self {
        let text = |name| root.entry(name).and_then(|(_, value)| value.text()).filter(|text| !text.is_empty());
        Self { api_version: text("apiVersion").map(Cow::Borrowed), kind: text("kind").map(Cow::Borrowed) }
    }
}

pub(crate) fn target(header: &Header<'_>) -> Target {
    let (Some(api_version), Some(kind)) = (header.api_version.as_deref(), header.kind.as_deref()) else {
        return Target::Incomplete;
    };
    let known = KINDS.iter().find(|known| known.api_version == api_version && known.kind == kind);
    match known {
        Some(known) => Target::Kind(known),
        None if api_version == "v1" && kind == "List" => Target::List,
        None => Target::Unknown,
    }
}

/// Why a document is not read.
pub(crate) struct Refusal {
    pub code: &'static str,
    /// The header's field to point at.
    pub field: &'static str,
    pub message: String,
    pub help: Option<String>,
    /// It belongs to another system, and may be skipped.
    pub foreign: bool,
}

pub(crate) fn refuse(header: &Header<'_>, target: Target) -> Refusal {
    let (Some(api_version), Some(kind)) = (header.api_version.as_deref(), header.kind.as_deref()) else {
        let field = if header.api_version.is_none() { "apiVersion" } else { "kind" };
        return Refusal {
            code: code::MISSING_HEADER,
            field,
            message: format!("`{field}` is missing, or is no text"),
            help: Some(
                "a manifest begins for example with `apiVersion: weir/v1alpha1` and `kind: Endpoint`".to_owned(),
            ),
            foreign: false,
        };
    };
    let refusal =
        |code, field, message: String, help: Option<String>, foreign| Refusal { code, field, message, help, foreign };
    if matches!(target, Target::List) {
        return refusal(code::NOT_SUPPORTED, "kind", "a List inside a List".to_owned(), None, false);
    }
    let api_versions = || KINDS.iter().map(|known| known.api_version);
    let kinds_here: Vec<_> =
        KINDS.iter().filter(|known| known.api_version == api_version).map(|known| known.kind).collect();
    if !kinds_here.is_empty() {
        return unknown_kind(api_version, kind, &kinds_here);
    }
    // A known kind under another version of its group, or a misspelt apiVersion, is nobody else's object.
    let same_group: Vec<_> =
        api_versions().filter(|known| group(known) == group(api_version) && !group(known).is_empty()).collect();
    if let Some(near) = same_group.first().copied().or_else(|| nearest(api_version, api_versions())) {
        let of_kind = KINDS.iter().any(|known| known.kind == kind);
        let foreign = !of_kind && !same_group.is_empty() && group(api_version) != "weir";
        let message = format!("`{api_version}` is not an apiVersion that Weir reads");
        return refusal(
            code::UNKNOWN_API_VERSION,
            "apiVersion",
            message,
            Some(format!("did you mean `{near}`?")),
            foreign,
        );
    }
    let message = format!("`{kind}` of `{api_version}` is not Weir's");
    let help = "keep it out of the set, or skip such objects with `--ignore-foreign`".to_owned();
    refusal(code::FOREIGN_OBJECT, "apiVersion", message, Some(help), true)
}

fn unknown_kind(api_version: &str, kind: &str, kinds_here: &[&'static str]) -> Refusal {
    let near = nearest(kind, kinds_here.iter().copied());
    let elsewhere = KINDS.iter().find(|known| known.kind == kind);
    let ours = group(api_version) == "weir";
    let help = match (near, elsewhere) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, Some(known)) => format!("`{kind}` is of `{}`", known.api_version),
        (None, None) if ours => format!("its kinds are {}", kinds_here.join(", ")),
        (None, None) => {
            format!("Weir reads {} of it; skip others with `--ignore-foreign`", kinds_here.join(", "))
        }
    };
    Refusal {
        code: code::UNKNOWN_KIND,
        field: "kind",
        message: format!("`{api_version}` has no kind `{kind}` that Weir reads"),
        help: Some(help),
        foreign: !ours && near.is_none() && elsewhere.is_none(),
    }
}
