//! Objects as a set keeps them. An `Endpoint`, of which there may be hundreds of thousands, takes about a hundred bytes
//! instead of a thousand, and is made into an [`Object`] when somebody asks for it.
use std::{cmp::Ordering, collections::BTreeMap, net::IpAddr, sync::Arc};

use sha2::{Digest, Sha256};

use crate::{
    Attach, ContentHash, EndpointSpec, HostTrue, Metadata, NamedPort, Object, ObjectKey, Origin, Spec,
    chunks::Sorted,
    cilium_policy::Protocol,
    kinds::shared,
    object::{object_hash, prefixes_digest},
    packed::{Reader, Writer},
};

/// One object of a file or a set. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    Whole(Arc<Object>),
    Endpoint(PackedEndpoint),
}

/// Group and kind: what a set is parted by.
pub(crate) type KindName = (Arc<str>, Arc<str>);

impl Stored {
    pub fn new(key: ObjectKey, api_version: Arc<str>, metadata: Metadata, spec: Spec, origin: Origin) -> Self {
        let hash = match &spec {
            Spec::Endpoint(spec) => return Self::Endpoint(PackedEndpoint::new(&metadata, spec, &origin.path)),
            Spec::CidrFilter(filter) => {
                let lists: Vec<_> = filter.lists.iter().map(|list| prefixes_digest(&list.prefixes)).collect();
                object_hash(&key, &metadata, &spec, &lists)
            }
            spec => object_hash(&key, &metadata, spec, &[]),
        };
        Self::Whole(Arc::new(Object { key, api_version, metadata, spec, origin, hash }))
    }

    pub fn kind(&self) -> KindName {
        match self {
            Self::Whole(object) => (Arc::clone(&object.key.group), Arc::clone(&object.key.kind)),
            Self::Endpoint(_) => (shared("weir"), shared("Endpoint")),
        }
    }

    /// Namespace and name: what the objects of a kind are sorted by.
    pub fn name(&self) -> (&str, &str) {
        match self {
            Self::Whole(object) => (&object.key.namespace, &object.key.name),
            Self::Endpoint(packed) => packed.name(),
        }
    }

    pub fn hash(&self) -> ContentHash {
        match self {
            Self::Whole(object) => object.hash,
            Self::Endpoint(packed) => packed.hash(),
        }
    }

    /// The same, not merely an equal one.
    pub fn is(&self, other: &Self) -> bool {
        self.address() == other.address()
    }

    /// What tells it from all others that are alive.
    pub fn address(&self) -> usize {
        match self {
            Self::Whole(object) => Arc::as_ptr(object) as usize,
            Self::Endpoint(packed) => packed.0.as_ptr() as usize,
        }
    }

    /// As an object that stands at `origin`.
    pub fn object(&self, origin: impl FnOnce() -> Origin) -> Arc<Object> {
        match self {
            // It was made anew when its place changed.
            Self::Whole(object) => Arc::clone(object),
            Self::Endpoint(packed) => Arc::new(packed.object(origin())),
        }
    }
}

impl Sorted for Stored {
    fn order(&self, other: &Self) -> Ordering {
        self.name().cmp(&other.name())
    }
}

/// Hash of the meaning, number of the file, then the fields: namespace and name first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PackedEndpoint(Arc<[u8]>);

const HASH: usize = 32;
const FILE: usize = 4;

/// What a set has to know of an endpoint without making it an object.
#[derive(Debug)]
pub(crate) struct EndpointClaims<'a> {
    pub node: &'a str,
    pub addresses: Vec<IpAddr>,
    pub host: bool,
    pub netns: Option<&'a str>,
    pub interface: Option<&'a str>,
}

impl PackedEndpoint {
    fn new(metadata: &Metadata, spec: &EndpointSpec, path: &str) -> Self {
        let Metadata { name, namespace, labels, annotations } = metadata;
        let mut to = Writer::default();
        to.bytes(&[0; HASH]);
        to.bytes(&file_number(path).to_le_bytes());
        to.text(namespace);
        to.text(name);
        to.text(&spec.node);
        to.count(spec.addresses.len());
        spec.addresses.iter().for_each(|address| to.address(*address));
        let Attach { interface, netns, host } = &spec.attach;
        let forms = [interface.is_some(), netns.is_some(), host.is_some()];
        to.bytes(&[forms.iter().rev().fold(0, |bits, form| bits << 1 | u8::from(*form))]);
        interface.iter().chain(netns).for_each(|text| to.text(text));
        for map in [labels, annotations] {
            to.count(map.len());
            for (key, value) in map {
                to.text(key);
                to.text(value);
            }
        }
        to.count(spec.ports.len());
        for NamedPort { name, port, protocol } in &spec.ports {
            to.text(name);
            to.bytes(&port.to_le_bytes());
            to.bytes(&[*protocol as u8]);
        }
        let mut bytes = to.finish();
        let hash = hash_of(&bytes[HASH + FILE..]);
        bytes[..HASH].copy_from_slice(&hash);
        Self(bytes.into())
    }

    pub fn hash(&self) -> ContentHash {
        let mut hash = [0; HASH];
        hash.copy_from_slice(&self.0[..HASH]);
        ContentHash(hash)
    }

    /// [`file_number`] of the path it stands in.
    pub fn file_number(&self) -> u32 {
        let mut number = [0; FILE];
        number.copy_from_slice(&self.0[HASH..HASH + FILE]);
        u32::from_le_bytes(number)
    }

    fn fields(&self) -> Reader<'_> {
        Reader::new(&self.0[HASH + FILE..])
    }

    fn name(&self) -> (&str, &str) {
        let mut from = self.fields();
        (from.text(), from.text())
    }

    pub fn claims(&self) -> EndpointClaims<'_> {
        let mut from = self.fields();
        from.text();
        from.text();
        let node = from.text();
        let addresses = (0..from.count()).map(|_| from.address()).collect();
        let forms = from.byte();
        let interface = (forms & 1 != 0).then(|| from.text());
        let netns = (forms & 2 != 0).then(|| from.text());
        EndpointClaims { node, addresses, host: forms & 4 != 0, netns, interface }
    }

    fn object(&self, origin: Origin) -> Object {
        self.read(&mut self.fields(), origin)
    }

    fn read(&self, from: &mut Reader<'_>, origin: Origin) -> Object {
        let namespace = from.text();
        let name = from.text();
        let node = from.text().to_owned();
        let addresses = (0..from.count()).map(|_| from.address()).collect();
        let forms = from.byte();
        let interface = (forms & 1 != 0).then(|| from.text().to_owned());
        let netns = (forms & 2 != 0).then(|| from.text().to_owned());
        let host = (forms & 4 != 0).then_some(HostTrue);
        let mut map = || -> BTreeMap<String, String> {
            (0..from.count()).map(|_| (from.text().to_owned(), from.text().to_owned())).collect()
        };
        let (labels, annotations) = (map(), map());
        let count = from.count();
        let port = |_| NamedPort {
            name: from.text().to_owned(),
            port: u16::from_le_bytes([from.byte(), from.byte()]),
            protocol: match from.byte() {
                1 => Protocol::Tcp,
                2 => Protocol::Udp,
                3 => Protocol::Sctp,
                _ => Protocol::Any,
            },
        };
        let ports = (0..count).map(port).collect();
        let spec = EndpointSpec { node, addresses, attach: Attach { interface, netns, host }, ports };
        Object {
            key: ObjectKey {
                group: shared("weir"),
                kind: shared("Endpoint"),
                namespace: shared(namespace),
                name: name.into(),
            },
            api_version: shared("weir/v1alpha1"),
            metadata: Metadata { name: name.to_owned(), namespace: namespace.to_owned(), labels, annotations },
            spec: Spec::Endpoint(Arc::new(spec)),
            origin,
            hash: self.hash(),
        }
    }
}

fn hash_of(fields: &[u8]) -> [u8; HASH] {
    let mut hash = Sha256::new();
    hash.update(b"weir Endpoint\0");
    hash.update(fields);
    hash.finalize().into()
}

/// Leads from an endpoint to its file, and perhaps to another one as well.
pub(crate) fn file_number(path: &str) -> u32 {
    // FNV-1a.
    path.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
