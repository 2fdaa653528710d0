//! Packet conformance: what the programs do with a packet, one at a time, on the real kernel.
pub mod frame;
pub mod instance;
pub mod lab;
pub mod world;

/// The object with the programs.
pub fn object() -> &'static [u8] {
    weir_datapath::object()
}
