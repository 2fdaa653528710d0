//! The packets of a datapath's policy that must come out right, worked out by hand.
mod cidr;
mod default_deny;
mod host;
mod kubernetes;
mod ports;
mod prefilter;
mod ranks;
mod selectors;
mod services;
mod set;
