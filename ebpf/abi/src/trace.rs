/// The programs, as numbers in trace cells and events.
pub mod next_hook {
    pub const NONE: u8 = 0;
    pub const XDP_INGRESS: u8 = 1;
    pub const FROM_ENDPOINT: u8 = 2;
    pub const TO_ENDPOINT: u8 = 3;
    pub const FROM_NETWORK: u8 = 4;
    pub const TO_NETWORK: u8 = 5;
    /// The stack takes it: local delivery or routing.
    pub const STACK: u8 = 6;
    pub const FROM_HOST: u8 = 7;
}

/// What the tc programs return. A test run shows it as `u32`.
pub mod tc_action {
    /// `TC_ACT_UNSPEC`: go on. Under tcx the next program of the chain runs; under clsact the next filter does, and
    /// without one the packet passes. So whoever stands behind us on the hook still sees what we let through.
    pub const CONTINUE: i32 = -1;
    /// `TC_ACT_SHOT`.
    pub const DROP: i32 = 2;
    /// `TC_ACT_REDIRECT`.
    pub const REDIRECT: i32 = 7;
}

/// `skb->mark` of a packet that a program made to answer another: no program judges it. The kernel clears it where the
/// packet enters another network namespace. "WEIR", as ASCII.
pub const ANSWER_MARK: u32 = 0x5745_4952;

/// What the XDP program returns.
pub mod xdp_action {
    pub const DROP: u32 = 1;
    pub const PASS: u32 = 2;
    /// Back out of the device that it came in by.
    pub const TX: u32 = 3;
}

/// Value of the per-CPU `trace` table: what the last run on this CPU decided. Written only by the instance that is
/// loaded for test runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceCell {
    pub generation: u64,
    pub rule: u32,
    pub subject: u32,
    pub peer: u32,
    /// Of [`crate::flow_verdict`].
    pub verdict: u8,
    /// [`crate::Reason`].
    pub reason: u8,
    pub next_hook: u8,
    /// 1 when a conntrack entry of the current epoch answered.
    pub from_conntrack: u8,
}
const _: () = assert!(size_of::<TraceCell>() == 24);
