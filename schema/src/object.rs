use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    CidrFilterSpec, EndpointSpec, KubernetesNetworkPolicySpec, Metadata, NamespaceSpec, NodeConfigSpec, NodeSpec,
    ObjectKey, PolicyRule,
};

/// SHA-256 of a file's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentHash(pub [u8; 32]);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One file of a source's revision, whatever the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Below the source's root, with `/`.
    pub path: Arc<str>,
    pub bytes: Arc<[u8]>,
    pub hash: ContentHash,
}

/// Where an object stands: its file and the byte offset of its document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub path: Arc<str>,
    pub file: ContentHash,
    /// Index of the document in its file, from 0.
    pub document: usize,
    /// Line of the document's first key, from 1.
    pub line: usize,
}

/// One manifest, parsed, defaulted and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub key: ObjectKey,
    /// As written: `weir/v1alpha1`, `cilium.io/v2`, …
    pub api_version: Arc<str>,
    pub metadata: Metadata,
    pub spec: Spec,
    pub origin: Origin,
    /// Of the canonical content, `fromFiles` included: equal hashes, equal meaning.
    pub hash: ContentHash,
}

/// The kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spec {
    NodeConfig(Arc<NodeConfigSpec>),
    Node(Arc<NodeSpec>),
    Endpoint(Arc<EndpointSpec>),
    CidrFilter(Arc<CidrFilterSpec>),
    /// `weir/v1alpha1 NetworkPolicy` and `cilium.io/v2 CiliumNetworkPolicy`: selects in its own namespace.
    NetworkPolicy(Arc<[PolicyRule]>),
    /// `cilium.io/v2 CiliumClusterwideNetworkPolicy`.
    ClusterwideNetworkPolicy(Arc<[PolicyRule]>),
    /// `networking.k8s.io/v1 NetworkPolicy`.
    KubernetesNetworkPolicy(Arc<KubernetesNetworkPolicySpec>),
    /// `v1 Namespace`: its labels are what `namespaceSelector` selects by.
    Namespace(Arc<NamespaceSpec>),
}
