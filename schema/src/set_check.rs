//! The checks that need more than one object.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    Attach, Diagnostic, EndpointSpec, File, FlowTestSpec, Frontend, LabelSelector, LabelSource, NodeConfigSpec,
    NodeSpec, Object, Operator, Spec, code,
    locate::Values,
    place::Place,
    service::{FrontendPlace, place_name},
    split_prefix,
    suggest::nearest,
};

/// Errors of a set, with places looked up in its files.
pub(crate) struct SetErrors<'a> {
    files: &'a [File],
    by_path: HashMap<&'a str, &'a File>,
    /// Those in which something was looked up.
    values: HashMap<&'a str, Values<'a>>,
    pub found: Vec<Diagnostic>,
    pub warnings: Vec<Diagnostic>,
}

impl<'a> SetErrors<'a> {
    pub fn new(files: &'a [File]) -> Self {
        Self { files, by_path: HashMap::new(), values: HashMap::new(), found: Vec::new(), warnings: Vec::new() }
    }

    pub fn files(&self) -> &'a [File] {
        self.files
    }

    fn values(&mut self, path: &str) -> Option<&Values<'a>> {
        let file = self.file(path)?;
        Some(self.values.entry(&file.path).or_insert_with(|| Values::new(file)))
    }

    fn file(&mut self, path: &str) -> Option<&'a File> {
        if self.by_path.is_empty() {
            self.by_path = self.files.iter().map(|file| (&*file.path, file)).collect();
        }
        self.by_path.get(path).copied()
    }

    /// An error at a path of an object.
    pub fn push(&mut self, code: &'static str, object: &Object, path: &str, message: String) -> &mut Diagnostic {
        let found = self.diagnostic(code, object, path, message);
        self.found.push(found);
        let last = self.found.len() - 1;
        &mut self.found[last]
    }

    fn diagnostic(&mut self, code: &'static str, object: &Object, path: &str, message: String) -> Diagnostic {
        match self.values(&object.origin.path) {
            Some(values) => {
                let range = values.span(object.origin.document, path).unwrap_or(0..1);
                values.place.diagnostic(code, range, message)
            }
            // The caller gave files that are not those that were parsed: the error is still one.
            None => Place::new(&object.origin.path, b"").diagnostic(code, 0..1, message),
        }
    }

    fn related(&mut self, object: &Object, path: &str, what: String) -> (Arc<str>, usize, usize, String) {
        let values = self.values(&object.origin.path);
        let position = values.and_then(|values| values.locate(object.origin.document, path));
        let (line, column) = position.map_or((object.origin.line, 1), |position| (position.line, position.column));
        (Arc::clone(&object.origin.path), line, column, what)
    }

    /// Two places that exclude each other.
    fn conflict(
        &mut self,
        code: &'static str,
        first: (&Object, &str),
        second: (&Object, &str),
        message: String,
        help: &str,
    ) {
        let related = self.related(first.0, first.1, format!("also in {}", first.0.key));
        let error = self.push(code, second.0, second.1, message);
        error.related.push(related);
        error.help = Some(help.to_owned());
    }

    /// `objects` sorted by key.
    pub fn check(&mut self, objects: &[Arc<Object>]) {
        for pair in objects.windows(2) {
            if pair[0].key == pair[1].key {
                let message = format!("{} stands here a second time", pair[1].key);
                let (first, second) = ((&*pair[0], "metadata.name"), (&*pair[1], "metadata.name"));
                let help = "remove one of them, or give it another name or namespace";
                self.conflict(code::DUPLICATE_OBJECT, first, second, message, help);
            }
        }
        let mut nodes: Vec<(&Object, &NodeSpec)> = Vec::new();
        let mut configs: Vec<(&Object, &NodeConfigSpec)> = Vec::new();
        let mut endpoints: Vec<(&Object, &EndpointSpec)> = Vec::new();
        let mut tests: Vec<(&Object, &FlowTestSpec)> = Vec::new();
        for object in objects {
            match &object.spec {
                Spec::Node(node) => nodes.push((object, node)),
                Spec::NodeConfig(config) => configs.push((object, config)),
                Spec::Endpoint(endpoint) => endpoints.push((object, endpoint)),
                Spec::FlowTest(test) => tests.push((object, test)),
                _ => {}
            }
        }
        self.frontends(objects);
        self.addresses(&nodes, &endpoints);
        self.attachments(&endpoints);
        let names = nodes.iter().map(|(object, _)| &*object.key.name).collect();
        self.unknown_nodes(&names, endpoints.iter().map(|(object, _)| *object));
        self.node_configs(&nodes, &configs);
        self.flow_tests(&tests, objects);
    }

    /// Endpoints and services that tests name are there.
    fn flow_tests(&mut self, tests: &[(&Object, &FlowTestSpec)], objects: &[Arc<Object>]) {
        if tests.is_empty() {
            return;
        }
        let nameable = objects.iter().filter(|object| matches!(&*object.key.kind, "Endpoint" | "Service"));
        let known: HashSet<_> = nameable.map(|object| &object.key).collect();
        for (object, test) in tests {
            let namespace = &object.key.namespace;
            for named in test.names(namespace) {
                let Some(wanted) = named.keys.first() else { continue };
                if named.keys.iter().any(|key| known.contains(key)) {
                    continue;
                }
                let message = format!("there is no {} `{}/{}`", named.kind, wanted.namespace, wanted.name);
                let of_kind = known.iter().filter(|known| known.kind == wanted.kind);
                let names = of_kind.map(|known| match known.namespace == *namespace {
                    true => known.name.to_string(),
                    false => format!("{}/{}", known.namespace, known.name),
                });
                let mut names: Vec<String> = names.collect();
                names.sort();
                let near = nearest(named.written, names.iter().map(String::as_str));
                let help = near.map(|near| format!("did you mean `{near}`?"));
                let code = if named.kind == "service" { code::UNKNOWN_SERVICE } else { code::UNKNOWN_ENDPOINT };
                self.push(code, object, &named.path, message).help = help;
            }
        }
    }

    /// Every frontend is one service's.
    fn frontends(&mut self, objects: &[Arc<Object>]) {
        let mut places: HashMap<FrontendPlace, (&Object, String)> = HashMap::new();
        for object in objects {
            for (place, path) in frontend_places(&object.spec) {
                match places.get(&place) {
                    // Its own list twice has been said already.
                    Some((first, _)) if std::ptr::eq(*first, &**object) => {}
                    Some((first, at)) => {
                        let message = format!("{} is the frontend of two services", place_name(place));
                        let help = "give one of them another address or port";
                        let (first, at) = (*first, at.clone());
                        self.conflict(code::DUPLICATE_FRONTEND, (first, &at), (object, &path), message, help);
                    }
                    None => {
                        places.insert(place, (object, path));
                    }
                }
            }
        }
    }

    /// An address is one endpoint's, or one node's and its host endpoint's.
    fn addresses(&mut self, nodes: &[(&Object, &NodeSpec)], endpoints: &[(&Object, &EndpointSpec)]) {
        #[derive(PartialEq)]
        enum Owner<'o> {
            Node(&'o str),
            Endpoint(*const Object),
        }
        let mut owners: HashMap<IpAddr, (Owner<'_>, &Object, usize)> = HashMap::new();
        let of_nodes = nodes.iter().map(|(object, node)| (Owner::Node(&object.key.name), *object, &node.addresses));
        let of_endpoints = endpoints.iter().map(|(object, endpoint)| {
            let host = endpoint.attach.host.is_some();
            let owner = if host { Owner::Node(&endpoint.node) } else { Owner::Endpoint(*object) };
            (owner, *object, &endpoint.addresses)
        });
        for (owner, object, addresses) in of_nodes.chain(of_endpoints) {
            for (index, address) in addresses.iter().enumerate() {
                let owner = match &owner {
                    Owner::Node(name) => Owner::Node(name),
                    Owner::Endpoint(object) => Owner::Endpoint(*object),
                };
                match owners.get(address) {
                    // Its own list twice has been said already.
                    Some((first, _, _)) if *first == owner => {}
                    Some((_, first, at)) => {
                        let (at, path) = (format!("spec.addresses[{at}]"), format!("spec.addresses[{index}]"));
                        let message = format!("`{address}` is the address of two objects");
                        let help = "take it out of one of them";
                        self.conflict(code::DUPLICATE_ADDRESS, (first, &at), (object, &path), message, help);
                    }
                    None => {
                        owners.insert(*address, (owner, object, index));
                    }
                }
            }
        }
    }

    /// No two endpoints of a node hold at the same device.
    fn attachments(&mut self, endpoints: &[(&Object, &EndpointSpec)]) {
        let mut places: HashMap<(&str, &str, &str), &Object> = HashMap::new();
        for (object, endpoint) in endpoints {
            let Attach { interface, netns, host } = &endpoint.attach;
            let place = match (host, netns, interface) {
                (Some(_), _, _) => ("host", ""),
                (None, Some(netns), inside) => (netns.as_str(), inside.as_deref().unwrap_or("eth0")),
                (None, None, Some(interface)) => ("", interface.as_str()),
                (None, None, None) => continue,
            };
            if let Some(first) = places.insert((&endpoint.node, place.0, place.1), object) {
                let message = format!("two endpoints of node `{}` attach to the same place", endpoint.node);
                let (first, second): ((&Object, _), (&Object, _)) = ((first, "spec.attach"), (object, "spec.attach"));
                let help = "one endpoint attaches to one interface: merge the two, or name another";
                self.conflict(code::DUPLICATE_ATTACH, first, second, message, help);
            }
        }
    }

    /// A node that no `Node` describes is fine; where others are described, it may be a misspelling.
    pub fn unknown_nodes<'o>(&mut self, names: &BTreeSet<&str>, endpoints: impl Iterator<Item = &'o Object>) {
        let mut said = HashSet::new();
        for object in endpoints {
            let Spec::Endpoint(endpoint) = &object.spec else { continue };
            if !names.is_empty() && !names.contains(endpoint.node.as_str()) && said.insert(&endpoint.node) {
                let message = format!("no `Node` object describes `{}`", endpoint.node);
                let mut warning = self.diagnostic(code::UNKNOWN_NODE, object, "spec.node", message);
                let near = nearest(&endpoint.node, names.iter().copied());
                warning.help = near.map(|near| format!("did you mean `{near}`?"));
                self.warnings.push(warning);
            }
        }
    }

    /// No field of a node is set in two ways.
    pub fn node_configs(&mut self, nodes: &[(&Object, &NodeSpec)], configs: &[(&Object, &NodeConfigSpec)]) {
        let mut said = HashSet::new();
        let everywhere: Vec<_> =
            configs.iter().filter(|(_, config)| config.node_selector == LabelSelector::default()).collect();
        // What selects every node selects those that no `Node` describes.
        self.node_config("every node", &everywhere, &mut said);
        for (node, _) in nodes {
            let selects = |config: &NodeConfigSpec| selects_node(&config.node_selector, &node.metadata.labels);
            let here: Vec<_> = configs.iter().filter(|(_, config)| selects(config)).collect();
            self.node_config(&format!("node `{}`", node.key.name), &here, &mut said);
        }
    }

    fn node_config<'o>(
        &mut self,
        node: &str,
        configs: &[&(&'o Object, &NodeConfigSpec)],
        said: &mut HashSet<(String, *const Object, *const Object)>,
    ) {
        let mut set: BTreeMap<String, (&'o Object, String)> = BTreeMap::new();
        for (object, config) in configs {
            for (path, value) in settings(config) {
                match set.get(&path) {
                    Some((first, earlier)) if *earlier != value => {
                        if said.insert((path.clone(), *first, *object)) {
                            let field = path.rsplit('.').next().unwrap_or(&path);
                            let message = format!("`{field}` is set in two ways for {node}");
                            let help = "set the field in one of them, or select other nodes with `spec.nodeSelector`";
                            self.conflict(code::NODE_CONFIG_CONFLICT, (first, &path), (object, &path), message, help);
                        }
                    }
                    Some(_) => {}
                    None => {
                        set.insert(path, (object, value));
                    }
                }
            }
        }
    }
}

/// Where a service can be reached, and the path that says so.
pub(crate) fn frontend_places(spec: &Spec) -> Vec<(FrontendPlace, String)> {
    match spec {
        Spec::Service(service) => {
            let frontends = service.frontends.iter().enumerate();
            let place = |frontend: &Frontend| (frontend.address, frontend.port, frontend.protocol);
            let path = |index: usize, frontend: &Frontend| {
                let field = if frontend.address.is_some() { "address" } else { "port" };
                format!("spec.frontends[{index}].{field}")
            };
            frontends.map(|(index, frontend)| (place(frontend), path(index, frontend))).collect()
        }
        Spec::KubernetesService(service) => {
            let frontends = service.frontends().into_iter();
            frontends.map(|one| ((one.address, one.port, one.protocol), one.path)).collect()
        }
        _ => Vec::new(),
    }
}

/// The fields that a `NodeConfig` sets, by path, with their values in a form that compares.
fn settings(config: &NodeConfigSpec) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    settings.extend(config.attach_mode.map(|mode| ("spec.attachMode".to_owned(), format!("{mode:?}"))));
    settings.extend(config.local_delivery.map(|delivery| ("spec.localDelivery".to_owned(), format!("{delivery:?}"))));
    settings.extend(config.devices.as_ref().map(|devices| ("spec.devices".to_owned(), format!("{devices:?}"))));
    let sockets = config.socket_load_balancing;
    settings.extend(sockets.map(|said| ("spec.socketLoadBalancing".to_owned(), said.to_string())));
    let limits = config.limits.fields().into_iter();
    settings.extend(limits.filter_map(|(name, limit)| Some((format!("spec.limits.{name}"), limit?.to_string()))));
    let masquerade = config.masquerade.fields().into_iter();
    settings.extend(masquerade.filter_map(|(name, said)| Some((format!("spec.masquerade.{name}"), said?))));
    let acceleration = config.load_balancer.acceleration;
    settings.extend(acceleration.map(|mode| ("spec.loadBalancer.acceleration".to_owned(), format!("{mode:?}"))));
    let timeouts = config.timeouts.fields().into_iter();
    settings
        .extend(timeouts.filter_map(|(name, time)| Some((format!("spec.timeouts.{name}"), format!("{:?}", time?)))));
    settings
}

fn selects_node(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let value = |key: &str| match split_prefix(key) {
        (LabelSource::Reserved, _) => None,
        (_, name) => labels.get(name),
    };
    let labels_match = selector.match_labels.iter().all(|(key, wanted)| value(key) == Some(wanted));
    labels_match
        && selector.match_expressions.iter().all(|requirement| {
            let value = value(&requirement.key);
            match requirement.operator {
                Operator::In => value.is_some_and(|value| requirement.values.contains(value)),
                Operator::NotIn => value.is_none_or(|value| !requirement.values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
}
