/// An IPv6 address, or an IPv4 address mapped into `::ffff:0:0/96`, in network byte order.
///
/// One width for both families keeps one key per table. Aligned to 8 bytes so that a program can compare two words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u8; 16]);
const _: () = assert!(size_of::<Address>() == 16);

impl Address {
    /// `octets` as they stand in the packet.
    #[inline(always)]
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, octets[0], octets[1], octets[2], octets[3]])
    }

    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let a = &self.0;
        a[0] | a[1] | a[2] | a[3] | a[4] | a[5] | a[6] | a[7] | a[8] | a[9] == 0 && a[10] == 0xff && a[11] == 0xff
    }

    /// The IPv4 address as a number (host order), meaningful when [`Self::is_v4`].
    #[inline(always)]
    pub const fn v4_bits(&self) -> u32 {
        u32::from_be_bytes([self.0[12], self.0[13], self.0[14], self.0[15]])
    }

    /// The upper and lower half as numbers (host order).
    #[inline(always)]
    pub const fn halves(&self) -> (u64, u64) {
        let a = &self.0;
        (
            u64::from_be_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
            u64::from_be_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
        )
    }
}
