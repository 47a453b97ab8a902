//! Bounds of a frame, checked once per header: a [`Window`] exists only where its bytes do, and its accessors are checked
//! against its size when they are compiled.

/// The bytes of a frame that can be looked at, from start to end. At tc the frame may be longer than that: its headers lie
/// here, and its payload elsewhere.
///
/// Holds addresses as integers, as the XDP context does: the verifier follows the comparison in [`Cursor::window`].
#[derive(Debug, Clone, Copy)]
pub struct Cursor {
    start: usize,
    end: usize,
    length: usize,
}

impl Cursor {
    /// # Safety
    /// Every byte from `start` to `end` may be read and written for as long as this cursor or a window of it is used.
    #[inline(always)]
    pub unsafe fn new(start: usize, end: usize) -> Self {
        Self { start, end, length: end.wrapping_sub(start) }
    }

    /// The beginning of a frame of `length` bytes.
    ///
    /// # Safety
    /// As for [`Cursor::new`].
    #[inline(always)]
    pub unsafe fn beginning(start: usize, end: usize, length: usize) -> Self {
        Self { start, end, length }
    }

    /// Bytes of the frame.
    #[inline(always)]
    pub fn len(self) -> usize {
        self.length
    }

    /// How many of them can be looked at.
    #[inline(always)]
    pub fn visible(self) -> usize {
        self.end.wrapping_sub(self.start)
    }

    #[inline(always)]
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// `SIZE` bytes at `offset`, if the frame has them. `offset` must be small (the verifier wants to know a bound).
    #[inline(always)]
    pub fn window<const SIZE: usize>(self, offset: usize) -> Option<Window<SIZE>> {
        let at = self.start + offset;
        if at + SIZE > self.end {
            return None;
        }
        Some(Window(at as *mut u8))
    }
}

/// `SIZE` bytes of a frame that are there.
#[derive(Debug, Clone, Copy)]
pub struct Window<const SIZE: usize>(*mut u8);

/// Loads and stores of more than a byte. On the BPF target they are single instructions, as in every C program for XDP:
/// the architectures with a BPF JIT that we support access unaligned memory, and the verifier checks that. Elsewhere they
/// are the ordinary unaligned accesses. (`read_unaligned` on the BPF target would be one load for each byte.)
macro_rules! access {
    ($get:ident, $set:ident, $type:ty) => {
        #[inline(always)]
        pub fn $get<const OFFSET: usize>(self) -> $type {
            const { assert!(OFFSET + size_of::<$type>() <= SIZE) };
            // SAFETY: the window's bytes exist (see `Cursor::window`), and the field lies within it (asserted above).
            unsafe {
                let field = self.0.add(OFFSET).cast::<$type>();
                if cfg!(target_arch = "bpf") { *field } else { field.read_unaligned() }
            }
        }

        #[inline(always)]
        pub fn $set<const OFFSET: usize>(self, value: $type) {
            const { assert!(OFFSET + size_of::<$type>() <= SIZE) };
            // SAFETY: as above; `Cursor::new` promised that the bytes may be written.
            unsafe {
                let field = self.0.add(OFFSET).cast::<$type>();
                if cfg!(target_arch = "bpf") { *field = value } else { field.write_unaligned(value) }
            }
        }
    };
}

impl<const SIZE: usize> Window<SIZE> {
    access!(u8, set_u8, u8);
    access!(u16, set_u16, u16);
    access!(u32, set_u32, u32);

    #[inline(always)]
    pub fn address_v6<const OFFSET: usize>(self) -> [u32; 4] {
        const { assert!(OFFSET + 16 <= SIZE) };
        let part = |index: usize| {
            // SAFETY: the sixteen bytes lie within the window (asserted above).
            unsafe {
                let field = self.0.add(OFFSET + 4 * index).cast::<u32>();
                if cfg!(target_arch = "bpf") { *field } else { field.read_unaligned() }
            }
        };
        [part(0), part(1), part(2), part(3)]
    }

    #[inline(always)]
    pub fn set_address_v6<const OFFSET: usize>(self, address: [u32; 4]) {
        const { assert!(OFFSET + 16 <= SIZE) };
        let mut index = 0;
        while index < 4 {
            // SAFETY: the sixteen bytes lie within the window (asserted above).
            unsafe {
                let field = self.0.add(OFFSET + 4 * index).cast::<u32>();
                if cfg!(target_arch = "bpf") { *field = address[index] } else { field.write_unaligned(address[index]) }
            }
            index += 1;
        }
    }

    /// Where the bytes are, for helpers of the kernel that want to know.
    #[inline(always)]
    pub fn as_ptr(self) -> *mut u8 {
        self.0
    }

    #[inline(always)]
    pub fn mac<const OFFSET: usize>(self) -> [u8; 6] {
        const { assert!(OFFSET + 6 <= SIZE) };
        // SAFETY: the six bytes lie within the window (asserted above).
        let (head, tail) = unsafe {
            let field = self.0.add(OFFSET);
            if cfg!(target_arch = "bpf") {
                (*field.cast::<u32>(), *field.add(4).cast::<u16>())
            } else {
                (field.cast::<u32>().read_unaligned(), field.add(4).cast::<u16>().read_unaligned())
            }
        };
        let ([a, b, c, d], [e, f]) = (head.to_ne_bytes(), tail.to_ne_bytes());
        [a, b, c, d, e, f]
    }

    #[inline(always)]
    pub fn set_mac<const OFFSET: usize>(self, mac: [u8; 6]) {
        const { assert!(OFFSET + 6 <= SIZE) };
        let [a, b, c, d, e, f] = mac;
        let (head, tail) = (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]));
        // SAFETY: the six bytes lie within the window (asserted above).
        unsafe {
            let field = self.0.add(OFFSET);
            if cfg!(target_arch = "bpf") {
                *field.cast::<u32>() = head;
                *field.add(4).cast::<u16>() = tail;
            } else {
                field.cast::<u32>().write_unaligned(head);
                field.add(4).cast::<u16>().write_unaligned(tail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// A frame in a buffer of exactly its size, so that a stray access is out of the allocation.
    fn cursor(bytes: &mut Vec<u8>) -> Cursor {
        bytes.shrink_to_fit();
        let range = bytes.as_mut_ptr_range();
        // SAFETY: the buffer outlives the cursor in each test.
        unsafe { Cursor::new(range.start as usize, range.end as usize) }
    }

    proptest::proptest! {
        #[test]
        fn a_window_exists_exactly_where_its_bytes_do(length in 0usize..64, offset in 0usize..80) {
            let mut bytes = std::vec![0; length];
            assert_eq!(cursor(&mut bytes).window::<8>(offset).is_some(), offset + 8 <= length);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = std::vec![0; 21];
        let window = cursor(&mut bytes).window::<20>(1).unwrap();
        window.set_u16::<0>(0x1234);
        window.set_address_v6::<3>([1, 2, 3, 4]);
        window.set_u8::<19>(9);
        assert_eq!((window.u16::<0>(), window.address_v6::<3>(), window.u8::<19>()), (0x1234, [1, 2, 3, 4], 9));
        assert_eq!(bytes[0], 0);
    }
}
