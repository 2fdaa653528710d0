/// Columns of a class: sets of network devices that different `CidrFilter`s watch.
pub const CLASS_GROUPS: usize = 8;
pub const SIDE_SOURCE: usize = 0;
pub const SIDE_DESTINATION: usize = 1;

pub const ACTION_NONE: u8 = 0;
pub const ACTION_DROP: u8 = 1;
/// Inside the node's endpoint ranges: drop unless `endpoints` has the address.
pub const ACTION_ENDPOINT_RANGE: u8 = 2;

/// What one group of devices does with one side of a packet: `rule << 8 | action`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassCell(pub u32);

impl ClassCell {
    #[inline(always)]
    pub const fn new(rule: u32, action: u8) -> Self {
        Self((rule << 8) | action as u32)
    }

    #[inline(always)]
    pub const fn rule(self) -> u32 {
        self.0 >> 8
    }

    #[inline(always)]
    pub const fn action(self) -> u8 {
        self.0 as u8
    }
}

/// Value of `prefilter_classes`, an array indexed by the value that the `prefilter` tree gives for an address.
/// Class 0 is "nothing to say". Exactly one cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefilterClass {
    /// Index `group * 2 + side`.
    pub cells: [ClassCell; CLASS_GROUPS * 2],
}
const _: () = assert!(size_of::<PrefilterClass>() == 64);
