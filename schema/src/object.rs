use std::{fmt, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    CidrFilterSpec, EndpointSliceSpec, EndpointSpec, FlowTestSpec, KubernetesNetworkPolicySpec, KubernetesServiceSpec,
    Metadata, NamespaceSpec, NodeConfigSpec, NodeSpec, ObjectKey, PolicyRule, Prefixes, ServiceSpec,
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

/// Where an object stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub path: Arc<str>,
    /// Index of the object among those of its file, from 0: empty documents do not count, the items of a `List` count
    /// one each.
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
    FlowTest(Arc<FlowTestSpec>),
    Service(Arc<ServiceSpec>),
    /// `weir/v1alpha1 NetworkPolicy` and `cilium.io/v2 CiliumNetworkPolicy`: selects in its own namespace.
    NetworkPolicy(Arc<[PolicyRule]>),
    /// `cilium.io/v2 CiliumClusterwideNetworkPolicy`.
    ClusterwideNetworkPolicy(Arc<[PolicyRule]>),
    /// `networking.k8s.io/v1 NetworkPolicy`.
    KubernetesNetworkPolicy(Arc<KubernetesNetworkPolicySpec>),
    /// `v1 Namespace`: its labels are what `namespaceSelector` selects by.
    Namespace(Arc<NamespaceSpec>),
    /// `v1 Service`.
    KubernetesService(Arc<KubernetesServiceSpec>),
    /// `discovery.k8s.io/v1 EndpointSlice`: the backends of a `v1 Service`.
    EndpointSlice(Arc<EndpointSliceSpec>),
}

impl Spec {
    /// The canonical fields below the header: `spec`, or `spec` and `specs`.
    fn to_fields(&self) -> Vec<(String, Value)> {
        // The types have no maps with other than text keys and no failing serializers.
        let value = |spec: Result<Value, serde_json::Error>| spec.unwrap_or(Value::Null);
        match self {
            Self::NodeConfig(spec) => vec![("spec".to_owned(), value(serde_json::to_value(&**spec)))],
            Self::Node(spec) => vec![("spec".to_owned(), value(serde_json::to_value(&**spec)))],
            Self::Endpoint(spec) => vec![("spec".to_owned(), value(serde_json::to_value(&**spec)))],
            Self::CidrFilter(spec) => vec![("spec".to_owned(), value(serde_json::to_value(&**spec)))],
            Self::FlowTest(spec) => vec![("spec".to_owned(), value(serde_json::to_value(&**spec)))],
            Self::Service(spec) => vec![("spec".to_owned(), value(serde_json::to_value(&**spec)))],
            Self::KubernetesNetworkPolicy(spec) => vec![("spec".to_owned(), value(serde_json::to_value(&**spec)))],
            Self::NetworkPolicy(rules) | Self::ClusterwideNetworkPolicy(rules) => {
                let (one, several): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| &*rule.path == "spec");
                let mut fields = Vec::new();
                fields.extend(one.first().map(|rule| ("spec".to_owned(), value(serde_json::to_value(rule)))));
                if !several.is_empty() {
                    fields.push(("specs".to_owned(), value(serde_json::to_value(several))));
                }
                fields
            }
            Self::KubernetesService(spec) => vec![("spec".to_owned(), value(serde_json::to_value(&**spec)))],
            // Beside the header.
            Self::EndpointSlice(slice) => match value(serde_json::to_value(&**slice)) {
                Value::Object(fields) => fields.into_iter().collect(),
                _ => Vec::new(),
            },
            Self::Namespace(_) => Vec::new(),
        }
    }
}

impl Object {
    /// The object as a manifest: defaults filled in, lists sorted, comments gone.
    pub fn to_value(&self) -> Value {
        manifest(&self.api_version, &self.key.kind, &self.metadata, &self.spec)
    }

    /// [`Self::to_value`] as the text of a manifest that needs no other file: lists that `fromFiles` names are written
    /// out.
    pub fn to_manifest(&self) -> String {
        let whole = match &self.spec {
            Spec::CidrFilter(filter) if !filter.from_files.is_empty() => {
                let all = filter.lists.iter().flat_map(|list| list.prefixes.iter().copied());
                let spec = CidrFilterSpec { cidrs: all.collect(), from_files: Vec::new(), ..(**filter).clone() };
                manifest(&self.api_version, &self.key.kind, &self.metadata, &spec.into())
            }
            _ => self.to_value(),
        };
        // JSON is YAML as well.
        serde_yaml::to_string(&whole).unwrap_or_else(|_| whole.to_string())
    }
}

fn manifest(api_version: &str, kind: &str, metadata: &Metadata, spec: &Spec) -> Value {
    let mut value = json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata });
    if let Some(fields) = value.as_object_mut() {
        fields.extend(spec.to_fields());
    }
    value
}

/// The hash of an object's meaning. Prefix lists go in by their digests: as JSON they would cost more than parsing.
pub(crate) fn object_hash(key: &ObjectKey, metadata: &Metadata, spec: &Spec, lists: &[ContentHash]) -> ContentHash {
    let text = match spec {
        Spec::CidrFilter(filter) => {
            let bare = CidrFilterSpec { cidrs: Prefixes::default(), lists: Vec::new(), ..(**filter).clone() };
            manifest(&key.group, &key.kind, metadata, &Spec::CidrFilter(Arc::new(bare))).to_string()
        }
        spec => manifest(&key.group, &key.kind, metadata, spec).to_string(),
    };
    let mut hash = Sha256::new();
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
    for list in lists {
        hash.update(list.0);
    }
    ContentHash(hash.finalize().into())
}

/// The digest of sorted prefixes.
pub(crate) fn prefixes_digest(prefixes: &[IpNet]) -> ContentHash {
    let mut hash = Sha256::new();
    let mut buffer = Vec::with_capacity(prefixes.len().min(4096) * 18);
    for chunk in prefixes.chunks(4096) {
        buffer.clear();
        for net in chunk {
            // 0 to 32, or 64 to 192: it tells how many bytes follow, so that no two lists give the same text.
            buffer.push(net.prefix_len() + if matches!(net, IpNet::V6(_)) { 64 } else { 0 });
            match net {
                IpNet::V4(net) => buffer.extend_from_slice(&net.addr().octets()),
                IpNet::V6(net) => buffer.extend_from_slice(&net.addr().octets()),
            }
        }
        hash.update(&buffer);
    }
    ContentHash(hash.finalize().into())
}
