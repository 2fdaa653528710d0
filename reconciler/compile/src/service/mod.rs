//! Services: from `Service`, `v1 Service` and `EndpointSlice` to frontends, services, backends and source ranges.
//!
//! An object gives several services: one for what its frontends share that have the same backends on the same ports.
//! All that is made of one object is made of it alone, of the endpoints that it selects or the slices that name it, and
//! of which addresses are this node's: so that an edit makes anew what it must, and nothing else.
mod build;
mod definition;
mod index;
mod kubernetes;
mod maglev;
mod slots;
mod standing;
mod view;

use weir_plan::ObjectRef;

pub(crate) use build::{Built, Site, backend_key, build, incarnation_key};
pub(crate) use definition::Definition;
pub(crate) use index::{Index, first as first_reference, service_of};
pub(crate) use standing::{Placed, Standing, State, Whole, edge, first};
pub use view::{BackendView, FrontendView, ServiceView};

/// A service that is in the set, and that nothing is balanced for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skipped {
    pub object: ObjectRef,
    /// `it is headless: …`
    pub why: String,
}
