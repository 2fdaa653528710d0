//! Objects as a set keeps them. An `Endpoint`, of which there may be hundreds of thousands, takes about a hundred bytes
//! instead of a thousand, and is made into an [`Object`] when somebody asks for it.
use std::{
    cmp::Ordering,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use sha2::{Digest, Sha256};

use crate::{
    Attach, ContentHash, EndpointSpec, HostTrue, Metadata, NamedPort, Object, ObjectKey, Origin, Spec,
    chunks::Sorted,
    cilium_policy::Protocol,
    kinds::{kind_name, shared},
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
pub(crate) type KindName = (&'static str, &'static str);

pub(crate) const ENDPOINT: KindName = ("weir", "Endpoint");

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
            Self::Whole(object) => kind_name(&object.key.group, &object.key.kind),
            Self::Endpoint(_) => ENDPOINT,
        }
    }

    /// Namespace and name: what the objects of a kind are sorted by.
    pub fn name(&self) -> (&[u8], &[u8]) {
        match self {
            Self::Whole(object) => (object.key.namespace.as_bytes(), object.key.name.as_bytes()),
            Self::Endpoint(packed) => packed.name(),
        }
    }

    pub fn means_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => one.hash == other.hash,
            (Self::Endpoint(one), Self::Endpoint(other)) => one.means_as(other),
            _ => false,
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
    const CHUNK: usize = 512;

    fn order(&self, other: &Self) -> Ordering {
        self.name().cmp(&other.name())
    }

    fn is_one(&self, other: &Self) -> bool {
        self.is(other)
    }
}

/// Number of the file, then the fields: namespace and name first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PackedEndpoint(Arc<[u8]>);

const FILE: usize = 4;

/// What a set has to know of an endpoint without making it an object.
#[derive(Debug)]
pub(crate) struct EndpointClaims<'a> {
    pub node: &'a str,
    pub host: bool,
    pub netns: Option<&'a str>,
    pub interface: Option<&'a str>,
}

impl PackedEndpoint {
    fn new(metadata: &Metadata, spec: &EndpointSpec, path: &str) -> Self {
        let Metadata { name, namespace, labels, annotations } = metadata;
        let mut to = Writer::default();
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
        to.map(labels);
        to.map(annotations);
        to.count(spec.ports.len());
        for NamedPort { name, port, protocol } in &spec.ports {
            to.text(name);
            to.bytes(&port.to_le_bytes());
            to.bytes(&[*protocol as u8]);
        }
        Self(to.finish().into())
    }

    /// The fields are in one form only: equal bytes, equal meaning.
    fn hash(&self) -> ContentHash {
        let mut hash = Sha256::new();
        hash.update(b"weir Endpoint\0");
        hash.update(&self.0[FILE..]);
        ContentHash(hash.finalize().into())
    }

    fn means_as(&self, other: &Self) -> bool {
        self.0[FILE..] == other.0[FILE..]
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What [`Self::bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        // Too short to be any: so that the number can be read.
        Self(if bytes.len() < FILE { [0; FILE].into() } else { bytes.into() })
    }

    /// [`file_number`] of the path it stands in.
    pub fn file_number(&self) -> u32 {
        let mut number = [0; FILE];
        number.copy_from_slice(&self.0[..FILE]);
        u32::from_le_bytes(number)
    }

    fn fields(&self) -> Reader<'_> {
        Reader::new(&self.0[FILE..])
    }

    pub fn name(&self) -> (&[u8], &[u8]) {
        let mut from = self.fields();
        (from.text_bytes(), from.text_bytes())
    }

    /// What a set has to know of it, `address` called with each of its addresses.
    pub fn claims(&self, mut address: impl FnMut(IpAddr)) -> EndpointClaims<'_> {
        let mut from = self.fields();
        from.text_bytes();
        from.text_bytes();
        let node = from.text();
        (0..from.count()).for_each(|_| address(from.address()));
        let forms = from.byte();
        let interface = (forms & 1 != 0).then(|| from.text());
        let netns = (forms & 2 != 0).then(|| from.text());
        EndpointClaims { node, host: forms & 4 != 0, netns, interface }
    }

    pub fn node(&self) -> &str {
        let mut from = self.fields();
        from.text_bytes();
        from.text_bytes();
        from.text()
    }

    fn object(&self, origin: Origin) -> Object {
        let mut from = self.fields();
        let namespace = from.text();
        let name = from.text();
        let node = from.text().to_owned();
        let addresses = (0..from.count()).map(|_| from.address()).collect();
        let forms = from.byte();
        let interface = (forms & 1 != 0).then(|| from.text().to_owned());
        let netns = (forms & 2 != 0).then(|| from.text().to_owned());
        let host = (forms & 4 != 0).then_some(HostTrue);
        let (labels, annotations) = (from.map(), from.map());
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
        static WORDS: LazyLock<[Arc<str>; 4]> =
            LazyLock::new(|| [shared("weir"), shared("Endpoint"), shared("weir/v1alpha1"), shared("default")]);
        let [group, kind, api_version, default] = &*WORDS;
        let in_default = namespace == &**default;
        Object {
            key: ObjectKey {
                group: Arc::clone(group),
                kind: Arc::clone(kind),
                namespace: if in_default { Arc::clone(default) } else { namespace.into() },
                name: name.into(),
            },
            api_version: Arc::clone(api_version),
            metadata: Metadata { name: name.to_owned(), namespace: namespace.to_owned(), labels, annotations },
            spec: Spec::Endpoint(Arc::new(spec)),
            origin,
            hash: self.hash(),
        }
    }
}

/// Leads from an endpoint to its file, and perhaps to another one as well.
pub(crate) fn file_number(path: &str) -> u32 {
    // FNV-1a.
    path.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
