//! Which of some prefixes holds an address, the most specific first: one number for each address.
//!
//! In: prefixes with a number each. Out: for an address, the number of the longest prefix that holds it, 0 where none
//! does. Prefixes nest, so between two of their ends nothing changes: the map is those ends in order, each with the
//! number that holds from there on, and an index over the first bits, so that a look-up compares with few of them.
//! What the numbers stand for is not known here.

/// Bits of an address that the index takes at most: 1 MiB, a quarter of an end for each of a million prefixes.
const MAX_INDEX_BITS: u32 = 18;

/// An immutable map from prefixes of both families to numbers.
#[derive(Debug, Default)]
pub struct PrefixMap {
    ipv4: Ranges<u32>,
    ipv6: Ranges<u128>,
}

impl PrefixMap {
    /// `prefixes`: packed address (4 or 16 bytes), length and number; of one given twice the first number counts, bits
    /// behind the length are nothing. The index of the first that is no prefix, otherwise.
    pub fn new<'a>(prefixes: impl IntoIterator<Item = (&'a [u8], u8, u32)>) -> Result<Self, usize> {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for (place, (address, length, number)) in prefixes.into_iter().enumerate() {
            if let (Ok(octets), ..=32) = (<[u8; 4]>::try_from(address), length) {
                ipv4.push((u32::from_be_bytes(octets), length, number));
            } else if let (Ok(octets), ..=128) = (<[u8; 16]>::try_from(address), length) {
                ipv6.push((u128::from_be_bytes(octets), length, number));
            } else {
                return Err(place);
            }
        }
        Ok(Self { ipv4: Ranges::new(ipv4), ipv6: Ranges::new(ipv6) })
    }

    /// The number of the longest prefix that holds a packed address; 0: none does, or it is no address.
    pub fn number(&self, address: &[u8]) -> u32 {
        if let Ok(octets) = <[u8; 4]>::try_from(address) {
            self.ipv4.number(u32::from_be_bytes(octets))
        } else if let Ok(octets) = <[u8; 16]>::try_from(address) {
            self.ipv6.number(u128::from_be_bytes(octets))
        } else {
            0
        }
    }
}

/// An address as a number.
trait Address: Copy + Ord {
    const BITS: u32;
    const ZERO: Self;
    /// The first and the last address of the prefix of that length.
    fn ends(self, length: u8) -> (Self, Self);
    fn next(self) -> Option<Self>;
    /// The first bits, at most 32.
    fn top(self, bits: u32) -> usize;
}

macro_rules! address {
    ($type:ty) => {
        impl Address for $type {
            const BITS: u32 = <$type>::BITS;
            const ZERO: Self = 0;

            fn ends(self, length: u8) -> (Self, Self) {
                let spare = <$type>::MAX.checked_shr(u32::from(length)).unwrap_or(0);
                (self & !spare, self | spare)
            }

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn top(self, bits: u32) -> usize {
                self.checked_shr(Self::BITS - bits).unwrap_or(0) as usize
            }
        }
    };
}

address!(u32);
address!(u128);

/// All addresses of a family, cut into ranges that one number holds for.
#[derive(Debug)]
struct Ranges<A> {
    /// The first address of each range, ascending, and its number; the first range begins at 0.
    starts: Vec<(A, u32)>,
    /// For each value of the first `index_bits` bits, the range of its first address.
    index: Vec<u32>,
    index_bits: u32,
}

impl<A: Address> Default for Ranges<A> {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl<A: Address> Ranges<A> {
    fn new(mut prefixes: Vec<(A, u8, u32)>) -> Self {
        for (address, length, _) in &mut prefixes {
            *address = address.ends(*length).0;
        }
        // In this order every prefix comes behind those that hold it. It is stable: the first of a prefix stays first.
        prefixes.sort_by_key(|&(address, length, _)| (address, length));
        prefixes.dedup_by_key(|&mut (address, length, _)| (address, length));
        let mut ranges = Self { starts: vec![(A::ZERO, 0)], index: Vec::new(), index_bits: 0 };
        // Those that hold the present address: their last addresses and numbers.
        let mut above: Vec<(A, u32)> = Vec::new();
        for (address, length, number) in prefixes {
            while let Some(&(last, _)) = above.last()
                && last < address
            {
                ranges.close(&mut above);
            }
            ranges.begin(address, number);
            above.push((address.ends(length).1, number));
        }
        while !above.is_empty() {
            ranges.close(&mut above);
        }
        ranges.build_index();
        ranges
    }

    /// The innermost prefix ends: behind it the one around it holds.
    fn close(&mut self, above: &mut Vec<(A, u32)>) {
        if let Some((last, _)) = above.pop()
            && let Some(next) = last.next()
        {
            self.begin(next, above.last().map_or(0, |&(_, number)| number));
        }
    }

    /// From this address on it is this number; addresses do not descend.
    fn begin(&mut self, address: A, number: u32) {
        if let Some((start, last)) = self.starts.last_mut() {
            if *start == address {
                *last = number;
                return;
            }
            if *last == number {
                return;
            }
        }
        self.starts.push((address, number));
    }

    fn build_index(&mut self) {
        self.index_bits = self.starts.len().ilog2().min(MAX_INDEX_BITS).min(A::BITS);
        self.index = Vec::with_capacity((1 << self.index_bits) + 1);
        let mut range = 0;
        for top in 0..1_usize << self.index_bits {
            // The last range that begins at or before the first address of this value.
            while self.starts.get(range + 1).is_some_and(|(start, _)| {
                let begins = start.top(self.index_bits);
                begins < top || (begins == top && start.ends(self.index_bits as u8).0 == *start)
            }) {
                range += 1;
            }
            self.index.push(range as u32);
        }
    }

    fn number(&self, address: A) -> u32 {
        let top = address.top(self.index_bits);
        let from = self.index.get(top).map_or(0, |&range| range as usize);
        let until = self.index.get(top + 1).map_or(self.starts.len(), |&range| range as usize + 1);
        let behind = self.starts.get(from..until).unwrap_or_default().partition_point(|(start, _)| *start <= address);
        self.starts.get((from + behind).wrapping_sub(1)).map_or(0, |&(_, number)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The longest prefix, found by looking at all of them.
    fn scan(prefixes: &[(Vec<u8>, u8, u32)], address: &[u8]) -> u32 {
        let holds = |prefix: &[u8], length: u8| {
            prefix.len() == address.len()
                && (0..usize::from(length)).all(|bit| (prefix[bit / 8] ^ address[bit / 8]) << (bit % 8) & 0x80 == 0)
        };
        let longest =
            prefixes.iter().filter(|(prefix, length, _)| holds(prefix, *length)).map(|&(_, length, _)| length).max();
        let first = |longest| prefixes.iter().find(|(prefix, length, _)| *length == longest && holds(prefix, *length));
        longest.and_then(first).map_or(0, |&(_, _, number)| number)
    }

    fn map(prefixes: &[(Vec<u8>, u8, u32)]) -> PrefixMap {
        PrefixMap::new(prefixes.iter().map(|(address, length, number)| (address.as_slice(), *length, *number))).unwrap()
    }

    fn prefix() -> impl Strategy<Value = (Vec<u8>, u8, u32)> {
        // Few different bytes, so that prefixes nest and meet.
        let byte = prop::sample::select(vec![0_u8, 1, 0x7f, 0x80, 0xff]);
        prop_oneof![
            (prop::collection::vec(byte.clone(), 4), 0_u8..=32, 0_u32..9),
            (prop::collection::vec(byte, 16), 0_u8..=128, 0_u32..9),
        ]
    }

    proptest! {
        #[test]
        fn gives_what_a_scan_gives(prefixes in prop::collection::vec(prefix(), 0..40), seed: u128) {
            let map = map(&prefixes);
            let around = |address: &[u8], length: u8| -> Vec<Vec<u8>> {
                let bits = address.len() as u32 * 8;
                let number = address.iter().fold(0_u128, |number, &byte| number << 8 | u128::from(byte));
                let spare = if length == 0 { u128::MAX } else { (1_u128 << (bits - u32::from(length))) - 1 };
                [number & !spare, number | spare, (number & !spare).wrapping_sub(1), (number | spare).wrapping_add(1), seed]
                    .iter().map(|number| number.to_be_bytes()[16 - address.len()..].to_vec()).collect()
            };
            for (address, length, _) in &prefixes {
                for near in around(address, *length) {
                    prop_assert_eq!(map.number(&near), scan(&prefixes, &near), "{:?}", near);
                }
            }
            prop_assert_eq!(map.number(&seed.to_be_bytes()), scan(&prefixes, &seed.to_be_bytes()));
        }
    }

    #[test]
    fn many_hosts_and_what_lies_between_them() {
        let hosts: Vec<_> =
            (0..50_000_u32).map(|number| ((number * 85_899 + 7).to_be_bytes().to_vec(), 32, number + 1)).collect();
        let map = map(&hosts);
        for (address, _, number) in &hosts {
            let host = u32::from_be_bytes(address.as_slice().try_into().unwrap());
            assert_eq!(map.number(address), *number);
            assert_eq!(map.number(&(host + 1).to_be_bytes()), 0);
            assert_eq!(map.number(&(host - 1).to_be_bytes()), 0);
        }
    }

    #[test]
    fn what_is_no_prefix_is_named_and_no_address_has_no_number() {
        for wrong in [(&[192, 0, 2][..], 24), (&[192, 0, 2, 0], 33), (&[0; 16], 129), (&[], 0)] {
            assert_eq!(PrefixMap::new([(&[10, 0, 0, 0][..], 8, 1), (wrong.0, wrong.1, 2)]).err(), Some(1));
        }
        let all = PrefixMap::new([(&[0; 4][..], 0, 1), (&[0; 16][..], 0, 2)]).unwrap();
        assert_eq!((all.number(&[9; 4]), all.number(&[9; 16]), all.number(&[9; 5]), all.number(&[])), (1, 2, 0, 0));
        assert_eq!(PrefixMap::default().number(&[9; 4]), 0);
    }
}
