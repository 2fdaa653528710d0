use std::sync::Arc;

use weir_compile::Compiled;
use weir_plan::{NodeFacts, RuleRef, Target};
use weir_schema::Inventory;

use crate::Manifests;

/// One revision, compiled for one node as it was seen.
#[derive(Debug)]
pub struct Snapshot {
    pub manifests: Manifests,
    pub node: Arc<str>,
    pub facts: NodeFacts,
    pub inventory: Inventory,
    pub compiled: Arc<Compiled>,
}

impl Snapshot {
    /// Every rule with its number, ascending.
    pub fn rules(&self) -> impl Iterator<Item = (u32, &RuleRef)> {
        self.compiled.provenance.rules()
    }

    pub fn target(&self) -> Target<'_> {
        Target { tables: &self.compiled.tables, wiring: &self.compiled.wiring, provenance: &*self.compiled.provenance }
    }
}
