//! The kinds that are read: the one list of them, and the shape of the documents around their specs.
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    CidrFilterSpec, EndpointSliceSpec, EndpointSpec, FlowTestSpec, KubernetesNetworkPolicySpec, KubernetesServiceSpec,
    NamespaceSpec, NodeConfigSpec, NodeSpec, PolicyRule, ServiceSpec, SliceAddressType, SliceEndpoint, SlicePort, Spec,
    code, lane,
    lift::lift,
    meta::{LenientMetadata, StrictMetadata},
    policy_check::PolicyScope,
    problem::{Path, Problems},
};

/// Whether objects of a kind have a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Namespaced,
    /// One namespace for the whole set, written as the empty one.
    Cluster,
}

/// One kind: how its documents are read.
#[derive(Debug)]
pub(crate) struct Kind {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub scope: Scope,
    /// The strict pass over a document's text, if it is a plain one.
    pub read_plain: fn(&str) -> Option<Draft>,
    /// The strict pass over any document's text.
    pub read_yaml: fn(&str) -> Result<Draft, serde_yaml::Error>,
    /// The same from a tree, for what has no text of its own.
    pub read_tree: fn(serde_json::Value) -> Result<Draft, serde_json::Error>,
    pub schema: fn() -> Schema,
}

impl Kind {
    const fn new<D: Document>(api_version: &'static str, kind: &'static str, scope: Scope) -> Self {
        Self {
            api_version,
            kind,
            scope,
            read_plain: |text| lane::read::<D>(text).map(D::draft),
            read_yaml: |text| serde_yaml::from_str::<D>(text).map(D::draft),
            read_tree: |tree| serde_json::from_value::<D>(tree).map(D::draft),
            schema: || schemars::schema_for!(D),
        }
    }

    /// The strict pass.
    pub fn read(&self, text: &str) -> Result<Draft, serde_yaml::Error> {
        (self.read_plain)(text).map_or_else(|| (self.read_yaml)(text), Ok)
    }

    pub fn group(&self) -> &'static str {
        group(self.api_version)
    }

    /// Its kinds are ours: metadata is strict, too.
    pub fn is_ours(&self) -> bool {
        self.group() == "weir"
    }
}

/// The group of an apiVersion, empty for Kubernetes' core.
pub(crate) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// A text that nearly every object has is kept once.
pub(crate) fn shared(text: &str) -> Arc<str> {
    static KNOWN: LazyLock<HashMap<&'static str, Arc<str>>> = LazyLock::new(|| {
        let of_kinds = KINDS.iter().flat_map(|kind| [kind.api_version, kind.kind, kind.group()]);
        of_kinds.chain(["default", ""]).map(|text| (text, text.into())).collect()
    });
    KNOWN.get(text).cloned().unwrap_or_else(|| text.into())
}

/// Group and kind as [`KINDS`] has them; every object's are.
pub(crate) fn kind_name(group: &str, kind: &str) -> (&'static str, &'static str) {
    let known = KINDS.iter().find(|known| known.kind == kind && known.group() == group);
    known.map_or(("", ""), |known| (known.group(), known.kind))
}

const WEIR: &str = "weir/v1alpha1";
const CILIUM: &str = "cilium.io/v2";

/// Every kind.
pub(crate) static KINDS: &[Kind] = &[
    Kind::new::<Manifest<NodeConfigSpec>>(WEIR, "NodeConfig", Scope::Cluster),
    Kind::new::<Manifest<NodeSpec>>(WEIR, "Node", Scope::Cluster),
    Kind::new::<Manifest<EndpointSpec>>(WEIR, "Endpoint", Scope::Namespaced),
    Kind { read_plain: read_filter, ..Kind::new::<Manifest<CidrFilterSpec>>(WEIR, "CidrFilter", Scope::Namespaced) },
    Kind::new::<Manifest<FlowTestSpec>>(WEIR, "FlowTest", Scope::Namespaced),
    Kind::new::<Manifest<ServiceSpec>>(WEIR, "Service", Scope::Namespaced),
    Kind::new::<PolicyManifest>(WEIR, "NetworkPolicy", Scope::Namespaced),
    Kind::new::<CiliumManifest>(CILIUM, "CiliumNetworkPolicy", Scope::Namespaced),
    Kind::new::<ClusterwideManifest>(CILIUM, "CiliumClusterwideNetworkPolicy", Scope::Cluster),
    Kind::new::<KubernetesManifest<KubernetesNetworkPolicySpec>>(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        Scope::Namespaced,
    ),
    Kind::new::<NamespaceManifest>("v1", "Namespace", Scope::Cluster),
    Kind::new::<KubernetesManifest<KubernetesServiceSpec>>("v1", "Service", Scope::Namespaced),
    Kind::new::<EndpointSliceManifest>("discovery.k8s.io/v1", "EndpointSlice", Scope::Namespaced),
];

/// A `CidrFilter`, its long lists apart.
fn read_filter(text: &str) -> Option<Draft> {
    type Filter = Manifest<CidrFilterSpec>;
    let Some(lifted) = lift(text) else { return lane::read::<Filter>(text).map(Filter::draft) };
    let rest = lane::read::<Filter>(&lifted.rest);
    let mut manifest = rest.or_else(|| serde_yaml::from_str(&lifted.rest).ok())?;
    lifted.put_back(&mut manifest.spec)?;
    Some(manifest.draft())
}

/// A document after the strict pass.
#[derive(Debug, PartialEq)]
pub(crate) struct Draft {
    pub api_version: String,
    pub kind: String,
    /// Name, namespace, labels.
    pub metadata: StrictMetadata,
    /// What it is to be.
    pub spec: Spec,
}

trait Document: DeserializeOwned + JsonSchema {
    fn draft(self) -> Draft;
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest<S> {
    api_version: String,
    kind: String,
    /// Name, namespace, labels.
    metadata: StrictMetadata,
    /// What it is to be.
    spec: S,
}

impl<S: DeserializeOwned + JsonSchema + Into<Spec>> Document for Manifest<S> {
    fn draft(self) -> Draft {
        Draft { api_version: self.api_version, kind: self.kind, metadata: self.metadata, spec: self.spec.into() }
    }
}

/// What an API server adds and nobody needs.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Ignored(#[allow(dead_code, reason = "read over")] serde::de::IgnoredAny);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KubernetesManifest<S> {
    api_version: String,
    kind: String,
    /// Name, namespace, labels.
    metadata: LenientMetadata,
    /// What it is to be.
    spec: S,
    /// Read over.
    #[serde(default, rename = "status")]
    #[schemars(with = "serde_json::Value")]
    _status: Option<Ignored>,
}

impl<S: DeserializeOwned + JsonSchema + Into<Spec>> Document for KubernetesManifest<S> {
    fn draft(self) -> Draft {
        Draft { api_version: self.api_version, kind: self.kind, metadata: self.metadata.into(), spec: self.spec.into() }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NamespaceManifest {
    api_version: String,
    kind: String,
    /// Name, namespace, labels.
    metadata: LenientMetadata,
    /// Read over.
    #[serde(default, rename = "spec")]
    #[schemars(with = "serde_json::Value")]
    _spec: Option<Ignored>,
    /// Read over.
    #[serde(default, rename = "status")]
    #[schemars(with = "serde_json::Value")]
    _status: Option<Ignored>,
}

impl Document for NamespaceManifest {
    fn draft(self) -> Draft {
        let spec = Spec::Namespace(Arc::new(NamespaceSpec));
        Draft { api_version: self.api_version, kind: self.kind, metadata: self.metadata.into(), spec }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EndpointSliceManifest {
    api_version: String,
    kind: String,
    /// Name, namespace, labels.
    metadata: LenientMetadata,
    /// What its addresses are.
    address_type: SliceAddressType,
    /// Who answers.
    #[serde(default)]
    endpoints: Option<Vec<SliceEndpoint>>,
    /// On which ports, by the names that the service has for them.
    #[serde(default)]
    ports: Option<Vec<SlicePort>>,
}

impl Document for EndpointSliceManifest {
    fn draft(self) -> Draft {
        let Self { api_version, kind, metadata, address_type, endpoints, ports } = self;
        let (endpoints, ports) = (endpoints.unwrap_or_default(), ports.unwrap_or_default());
        let spec = Spec::EndpointSlice(Arc::new(EndpointSliceSpec { address_type, endpoints, ports }));
        Draft { api_version, kind, metadata: metadata.into(), spec }
    }
}

/// A policy's rules: `spec`, or `specs`, or both.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyManifest {
    api_version: String,
    kind: String,
    /// Name, namespace, labels.
    metadata: StrictMetadata,
    /// One rule.
    #[serde(default)]
    spec: Option<PolicyRule>,
    /// Several rules.
    #[serde(default)]
    specs: Option<Vec<PolicyRule>>,
}

impl Document for PolicyManifest {
    fn draft(self) -> Draft {
        let spec = Spec::NetworkPolicy(rules(self.spec, self.specs));
        Draft { api_version: self.api_version, kind: self.kind, metadata: self.metadata, spec }
    }
}

/// A policy's rules: `spec`, or `specs`, or both.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CiliumManifest {
    api_version: String,
    kind: String,
    /// Name, namespace, labels.
    metadata: LenientMetadata,
    /// One rule.
    #[serde(default)]
    spec: Option<PolicyRule>,
    /// Several rules.
    #[serde(default)]
    specs: Option<Vec<PolicyRule>>,
    /// Read over.
    #[serde(default, rename = "status")]
    #[schemars(with = "serde_json::Value")]
    _status: Option<Ignored>,
}

impl Document for CiliumManifest {
    fn draft(self) -> Draft {
        let spec = Spec::NetworkPolicy(rules(self.spec, self.specs));
        Draft { api_version: self.api_version, kind: self.kind, metadata: self.metadata.into(), spec }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
struct ClusterwideManifest(CiliumManifest);

impl Document for ClusterwideManifest {
    fn draft(self) -> Draft {
        let draft = self.0.draft();
        let spec = match draft.spec {
            Spec::NetworkPolicy(rules) => Spec::ClusterwideNetworkPolicy(rules),
            other => other,
        };
        Draft { spec, ..draft }
    }
}

fn rules(spec: Option<PolicyRule>, specs: Option<Vec<PolicyRule>>) -> Arc<[PolicyRule]> {
    let one = spec.map(|rule| PolicyRule { path: "spec".into(), ..rule });
    let several = specs.unwrap_or_default().into_iter().enumerate();
    let several = several.map(|(index, rule)| PolicyRule { path: format!("specs[{index}]").into(), ..rule });
    one.into_iter().chain(several).collect()
}

macro_rules! into_spec {
    ($($spec:ty => $variant:ident),* $(,)?) => {
        $(impl From<$spec> for Spec {
            fn from(spec: $spec) -> Self {
                Self::$variant(Arc::new(spec))
            }
        })*
    };
}

into_spec! {
    NodeConfigSpec => NodeConfig,
    NodeSpec => Node,
    EndpointSpec => Endpoint,
    FlowTestSpec => FlowTest,
    ServiceSpec => Service,
    KubernetesNetworkPolicySpec => KubernetesNetworkPolicy,
    KubernetesServiceSpec => KubernetesService,
}

impl From<CidrFilterSpec> for Spec {
    fn from(spec: CidrFilterSpec) -> Self {
        Self::CidrFilter(Arc::new(spec.with_own_lists()))
    }
}

impl Spec {
    /// What the spec must hold by itself.
    pub(crate) fn check(&self, problems: &mut Problems) {
        let root = Path::Root;
        let spec = root.field("spec");
        match self {
            Self::NodeConfig(config) => config.check(&spec, problems),
            Self::Node(node) => node.check(&spec, problems),
            Self::Endpoint(endpoint) => endpoint.check(&spec, problems),
            Self::CidrFilter(filter) => filter.check(&spec, problems),
            Self::FlowTest(test) => test.check(&spec, problems),
            Self::NetworkPolicy(rules) => check_rules(rules, PolicyScope::Namespaced, problems),
            Self::ClusterwideNetworkPolicy(rules) => check_rules(rules, PolicyScope::Clusterwide, problems),
            Self::KubernetesNetworkPolicy(policy) => policy.check(&spec, problems),
            Self::Service(service) => service.check(&spec, problems),
            Self::KubernetesService(service) => service.check(&spec, problems),
            // Its fields stand beside the header.
            Self::EndpointSlice(slice) => slice.check(&root, problems),
            Self::Namespace(_) => {}
        }
    }
}

fn check_rules(rules: &[PolicyRule], scope: PolicyScope, problems: &mut Problems) {
    let root = Path::Root;
    if rules.is_empty() {
        problems.push(code::MISSING_FIELD, &root, "a policy needs `spec` or `specs`");
    }
    let specs = root.field("specs");
    let one = usize::from(rules.first().is_some_and(|rule| &*rule.path == "spec"));
    for (index, rule) in rules.iter().enumerate() {
        let at = if index < one { root.field("spec") } else { specs.index(index - one) };
        rule.check(scope, &at, problems);
    }
}
