//! `get services` and `get backends`: what manifests ask for, and how many flows there are.
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use serde_json::{Value, json};
use weir_compile::{BackendView, FrontendView, ServiceView};
use weir_plan::ObjectRef;

use crate::{
    Error, FlowSource, FlowView, ListDocument, ObjectDocument, Resource, SkippedDocument, Snapshot,
    trace::protocol_name,
};

impl<F: FlowSource> FlowView<F> {
    /// With [`Resource::Backends`] a backend of each service for an item, otherwise a service.
    pub fn services(&self, resource: Resource, name: Option<&str>) -> Result<ListDocument, Error> {
        let Some(applied) = &self.applied else { return Ok(ListDocument::new(&self.node, resource, Vec::new(), name)) };
        let mut flows = Flows::default();
        self.served(&mut |protocol, frontend, backend| flows.add(protocol, frontend, backend))?;
        let views = applied.compiled.services();
        if resource == Resource::Backends {
            let items = views.iter().flat_map(|view| backends(view, &flows)).collect();
            return Ok(ListDocument::new(&self.node, resource, items, name));
        }
        let skipped = applied.compiled.skipped.iter().filter(|one| name.is_none_or(|name| *one.object.name == *name));
        let skipped =
            skipped.map(|one| SkippedDocument { object: ObjectDocument::from(&one.object), why: one.why.clone() });
        let skipped = skipped.collect();
        let list = ListDocument::new(&self.node, resource, objects(&views, applied, &flows), name);
        Ok(ListDocument { skipped, ..list })
    }
}

/// Live flows by protocol, frontend and backend.
#[derive(Default)]
struct Flows(HashMap<(u8, SocketAddr), HashMap<SocketAddr, u64>>);

impl Flows {
    fn add(&mut self, protocol: u8, frontend: SocketAddr, backend: SocketAddr) {
        *self.0.entry((protocol, frontend)).or_default().entry(backend).or_default() += 1;
    }

    fn of_frontend(&self, view: &ServiceView, frontend: &FrontendView) -> u64 {
        let of = (view.protocol, SocketAddr::new(frontend.address, frontend.port));
        self.0.get(&of).map_or(0, |backends| backends.values().sum())
    }

    fn of_backend(&self, view: &ServiceView, backend: &BackendView) -> u64 {
        let to = SocketAddr::new(backend.address, backend.port);
        let frontends = view.frontends.iter().map(|one| (view.protocol, SocketAddr::new(one.address, one.port)));
        frontends.filter_map(|of| self.0.get(&of)?.get(&to)).sum()
    }
}

/// One item for each object: what it gives is told apart by `serviceNumber`, the one that the tables have for it.
fn objects(views: &[ServiceView], applied: &Snapshot, flows: &Flows) -> Vec<Value> {
    let places: BTreeMap<ObjectRef, _> = applied
        .inventory
        .objects()
        .filter(|object| &*object.key.kind == "Service")
        .map(|object| (weir_compile::reference(&object), object))
        .collect();
    let item = |of_one: &[ServiceView]| {
        let object = &of_one[0].object;
        let place = places.get(object).map(|object| &object.origin);
        let frontends: Vec<Value> = of_one.iter().flat_map(|view| frontends(view, flows)).collect();
        let all = of_one.iter().flat_map(|view| view.frontends.iter().map(|one| flows.of_frontend(view, one)));
        json!({
            "apiVersion": object.api_version,
            "kind": object.kind,
            "namespace": object.namespace,
            "name": object.name,
            "file": place.map(|place| &place.path),
            "line": place.map(|place| place.line),
            "algorithm": of_one[0].algorithm,
            "affinitySeconds": Some(of_one[0].affinity).filter(|seconds| *seconds > 0),
            "frontends": frontends,
            "backends": of_one.iter().flat_map(|view| backends(view, flows)).collect::<Vec<_>>(),
            "flows": all.sum::<u64>(),
        })
    };
    views.chunk_by(|a, b| a.object == b.object).map(item).collect()
}

fn frontends(view: &ServiceView, flows: &Flows) -> Vec<Value> {
    let item = |frontend: &FrontendView| {
        json!({
            "frontend": SocketAddr::new(frontend.address, frontend.port),
            "address": frontend.address,
            "port": frontend.port,
            "protocol": protocol_name(view.protocol),
            "type": frontend.kind,
            "serviceNumber": view.number,
            "flows": flows.of_frontend(view, frontend),
        })
    };
    view.frontends.iter().map(item).collect()
}

fn backends(view: &ServiceView, flows: &Flows) -> Vec<Value> {
    let item = |backend: &BackendView| {
        json!({
            "name": SocketAddr::new(backend.address, backend.port),
            "namespace": view.object.namespace,
            "service": view.object.name,
            "serviceNumber": view.number,
            "address": backend.address,
            "port": backend.port,
            "protocol": protocol_name(view.protocol),
            "state": backend.state,
            "local": backend.local,
            "weight": backend.weight,
            "flows": flows.of_backend(view, backend),
        })
    };
    view.backends.iter().map(item).collect()
}
