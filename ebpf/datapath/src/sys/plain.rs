use weir_abi::{
    Address, AffinityEntry, AffinityKey, BackendInfo, ConntrackEntry, ConntrackKey, Counter, EndpointInfo, FragmentKey,
    FragmentPorts, FrontendInfo, FrontendKey, InterfaceInfo, NatEntry, NatKey, PacketEvent, PolicyEntry, PolicyKey,
    PrefilterClass, Runtime, ServiceInfo, Settings, SocketEntry, SocketKey, SourceRangeKey, SubjectInfo, TraceCell,
    tree::Line,
};

/// A type that is its bytes: fixed layout, no padding, every bit pattern is a value.
///
/// # Safety
/// All three must hold; user space and the kernel exchange such values as bytes.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($type:ty),*) => {
        // SAFETY: `repr(C)` structs of integers and arrays of them, whose size the ABI crate asserts to be the sum of
        // their fields: no padding, and any bits are a value.
        $(unsafe impl Plain for $type {})*
    };
}
plain!(
    u8,
    u32,
    u64,
    Address,
    AffinityEntry,
    AffinityKey,
    BackendInfo,
    ConntrackEntry,
    ConntrackKey,
    Counter,
    PacketEvent,
    EndpointInfo,
    FragmentKey,
    FragmentPorts,
    FrontendInfo,
    FrontendKey,
    InterfaceInfo,
    Line,
    NatEntry,
    NatKey,
    PolicyEntry,
    PolicyKey,
    PrefilterClass,
    Runtime,
    ServiceInfo,
    Settings,
    SocketEntry,
    SocketKey,
    SourceRangeKey,
    SubjectInfo,
    TraceCell
);

// SAFETY: bytes, without padding, and any are a value.
unsafe impl<const N: usize> Plain for [u8; N] {}

pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `T` is plain: all of its bytes are initialised, and the borrow keeps them alive.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The value whose bytes these are; `None` when they are too few.
pub fn value_of<T: Plain>(bytes: &[u8]) -> Option<T> {
    // SAFETY: `T` is plain, so any bytes are a value, and there are enough of them; read without regard to alignment.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// A value of all zero bytes.
pub fn zeroed<T: Plain>() -> T {
    // SAFETY: `T` is plain, so zero bytes are a value.
    unsafe { std::mem::zeroed() }
}
