use std::{fmt, sync::Arc};

use crate::AnyChange;

/// An object as plans name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    pub api_version: Arc<str>,
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return write!(f, "{} {}", self.kind, self.name);
        }
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// What a rule number stands for: never a line, so that a comment above a rule changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleRef {
    pub object: ObjectRef,
    /// `spec.ingress[0].toPorts[1].ports[0]`
    pub path: Arc<str>,
}

/// An object that cannot take effect yet: the rest is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub object: ObjectRef,
    /// Stable: `interface-missing`, `netns-missing`, …
    pub code: &'static str,
    pub message: String,
}

/// The object behind an entry.
pub trait Owner {
    /// Equal for one object of one side. Cheap: half a million entries have one owner, and are asked one by one.
    fn token(&self) -> usize;

    fn reference(&self) -> ObjectRef;
}

/// Where entries come from. The compiler's result implements it.
pub trait Provenance {
    /// The object behind an entry as it stands on this side of the change, `None` for what belongs to the node as a
    /// whole.
    fn owner(&self, change: &AnyChange<'_>) -> Option<&dyn Owner>;

    /// File and line of an object of this side.
    fn place(&self, object: &ObjectRef) -> Option<(Arc<str>, usize)>;

    /// What a rule number stands for.
    fn rule(&self, rule: u32) -> Option<&RuleRef>;
}
