use std::{collections::BTreeMap, fmt, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

/// `metadata` of every object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    pub name: String,
    /// Empty for a kind that has no namespace.
    #[serde(default = "default_namespace", skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

pub(crate) fn default_namespace() -> String {
    "default".to_owned()
}

/// `metadata` as a document of ours writes it.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Metadata")]
pub(crate) struct StrictMetadata {
    /// The object's name: lower-case letters, digits, `-` and `.`.
    pub name: String,
    /// Default: `default`. Not for kinds that are the whole set's.
    #[serde(default)]
    pub namespace: Option<String>,
    /// What selectors select by.
    #[serde(default, deserialize_with = "unique_map")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub labels: BTreeMap<String, String>,
    /// Free text for other tools, and Weir's own: `weir/prune` and `weir/heal`.
    #[serde(default, deserialize_with = "unique_map")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub annotations: BTreeMap<String, String>,
}

/// `metadata` as Kubernetes writes it: what its API server added is read over.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "KubernetesMetadata")]
pub(crate) struct LenientMetadata {
    /// The object's name.
    pub name: String,
    /// Default: `default`.
    #[serde(default)]
    pub namespace: Option<String>,
    /// What selectors select by.
    #[serde(default, deserialize_with = "unique_map")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub labels: BTreeMap<String, String>,
    /// Free text for other tools, and Weir's own: `weir/prune` and `weir/heal`; of a `v1 Service` also
    /// `weir/algorithm` and `weir/no-backends`.
    #[serde(default, deserialize_with = "unique_map")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub annotations: BTreeMap<String, String>,
}

impl From<LenientMetadata> for StrictMetadata {
    fn from(metadata: LenientMetadata) -> Self {
        let LenientMetadata { name, namespace, labels, annotations } = metadata;
        Self { name, namespace, labels, annotations }
    }
}

/// A map of texts in which no key stands twice (serde's own would take the last). Nothing at all is an empty map.
pub(crate) fn unique_map<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a mapping of texts")
        }

        fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
            from.deserialize_map(self)
        }

        fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, value)) = entries.next_entry::<String, String>()? {
                if map.contains_key(&key) {
                    return Err(de::Error::custom(format_args!("duplicate key `{key}`")));
                }
                map.insert(key, value);
            }
            Ok(map)
        }
    }
    from.deserialize_option(Visitor)
}

/// What makes two documents the same object. The version is not part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// API group: `weir`, `cilium.io`, `networking.k8s.io`, or empty for Kubernetes' core group.
    pub group: Arc<str>,
    pub kind: Arc<str>,
    /// Empty for a kind that has no namespace: `Node`, `NodeConfig`, `Namespace`, `CiliumClusterwideNetworkPolicy`.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// `Endpoint default/web`, `Node node1`.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}
