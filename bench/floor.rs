//! The floor: the least work that any program reading a capture by flow has to do.
//!
//! Reads a classic pcap with `read(2)`, parses Ethernet, VLAN tags, IPv4, IPv6 and the ports of TCP and UDP, and counts
//! packets and bytes of each direction-free five-tuple in 64-byte entries behind an open-addressing index, in batches
//! of 32 packets so that cache misses overlap, both in huge pages. It classifies nothing and gives nothing for a person to read but two
//! totals: what the product costs beyond it is the price of its answers.
//!
//! It is kept as fast as we know how. Tried and slower: `mmap` (1.05 to 2.7 times: page faults), blocks of 64 KiB or
//! of 1 MiB and more (1.02 to 1.08), entries in the open-addressing table itself (in small pages 1.15 on the mix, 1.8 on
//! one packet per flow: the kernel clears twice the memory, and growing moves it all), a second prefetch for the entries (none).
//!
//! Built as a member of the workspace, so with the flags of the product's own release profile.

use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::process::ExitCode;
use std::slice;

use memmap2::{Advice, MmapMut, MmapOptions};

/// Bytes asked for in one `read(2)`: as many as stay in the second-level cache until they are parsed.
const BLOCK: usize = 1 << 18;
/// Packets parsed before their slots are touched.
const BATCH: usize = 32;
const PCAP_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
/// Longer records than this are refused; libpcap's own limit.
const MAX_CAPTURED: usize = 262_144;
/// Room is kept for as many, and memory taken for those that there are.
const MAX_FLOWS: usize = 1 << 28;

fn main() -> ExitCode {
    let Some(path) = env::args_os().nth(1) else {
        eprintln!("usage: floor CAPTURE.pcap");
        return ExitCode::from(2);
    };
    match File::open(&path).and_then(count) {
        Ok(table) => {
            println!("{} packets, {} with a five-tuple, {} flows", table.packets, table.counted, table.flows);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("floor: {}: {error}", path.to_string_lossy());
            ExitCode::FAILURE
        }
    }
}

/// Reads the whole capture into a table of its flows. Instructions are counted from its beginning to its end.
#[inline(never)]
fn count(mut capture: impl Read) -> io::Result<Table> {
    let mut table = Table::new()?;
    let mut buffer = vec![0_u8; BLOCK + MAX_CAPTURED + RECORD_HEADER];
    let (mut start, mut end) = (0, 0);
    let mut big_endian = None;
    loop {
        // What is left of the last block is shorter than one record: move it to the front and read on behind it.
        buffer.copy_within(start..end, 0);
        end -= start;
        start = 0;
        let read = capture.read(&mut buffer[end..end + BLOCK])?;
        if read == 0 {
            table.flush();
            return if start == end { Ok(table) } else { Err(wrong("the capture ends inside a record")) };
        }
        end += read;
        if big_endian.is_none() {
            if end < PCAP_HEADER {
                continue;
            }
            big_endian = Some(header(&buffer[..PCAP_HEADER])?);
            start = PCAP_HEADER;
        }
        start = records(&buffer[..end], start, big_endian == Some(true), &mut table)?;
        table.make_room()?;
    }
}

/// The file header's byte order, true when it is big-endian.
fn header(bytes: &[u8]) -> io::Result<bool> {
    let big_endian = match bytes[..4] {
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => false,
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => true,
        _ => return Err(wrong("not a classic pcap")),
    };
    match word(bytes, 20, big_endian) {
        1 => Ok(big_endian),
        _ => Err(wrong("the floor reads Ethernet captures only")),
    }
}

/// Counts every whole record from `at` on; gives where the first one that is not whole begins.
fn records(bytes: &[u8], mut at: usize, big_endian: bool, table: &mut Table) -> io::Result<usize> {
    while let Some(head) = bytes.get(at..at + RECORD_HEADER) {
        let captured = word(head, 8, big_endian) as usize;
        if captured > MAX_CAPTURED {
            return Err(wrong("a record is longer than 262,144 bytes"));
        }
        let body = at + RECORD_HEADER;
        let Some(frame) = bytes.get(body..body + captured) else {
            break;
        };
        table.packets += 1;
        if let Some((key, length)) = five_tuple(frame) {
            table.add(key, length);
        }
        at = body + captured;
    }
    Ok(at)
}

/// A direction-free five-tuple: lower end's address, higher end's address, then ports, protocol and IP version.
type Key = [u64; 5];

/// The five-tuple of an Ethernet frame and the length of its IP packet.
#[inline]
fn five_tuple(frame: &[u8]) -> Option<(Key, u32)> {
    let mut at = 12;
    let mut ethertype = half(frame, at)?;
    while matches!(ethertype, 0x8100 | 0x88a8) {
        at += 4;
        ethertype = half(frame, at)?;
    }
    let packet = frame.get(at + 2..)?;
    match ethertype {
        0x0800 => ipv4(packet),
        0x86dd => ipv6(packet),
        _ => None,
    }
}

#[inline]
fn ipv4(packet: &[u8]) -> Option<(Key, u32)> {
    let fixed: &[u8; 20] = packet.first_chunk()?;
    let header_length = usize::from(fixed[0] & 0x0f) * 4;
    let source = u64::from(u32::from_be_bytes([fixed[12], fixed[13], fixed[14], fixed[15]]));
    let destination = u64::from(u32::from_be_bytes([fixed[16], fixed[17], fixed[18], fixed[19]]));
    // A later fragment has no ports.
    let first = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff == 0;
    let (from, to) = ports(fixed[9], packet, header_length, first);
    let tail = u64::from(fixed[9]) << 8 | 4;
    let key = if (source, from) <= (destination, to) {
        [source, 0, destination, 0, from << 48 | to << 32 | tail]
    } else {
        [destination, 0, source, 0, to << 48 | from << 32 | tail]
    };
    Some((key, u32::from(u16::from_be_bytes([fixed[2], fixed[3]]))))
}

#[inline]
fn ipv6(packet: &[u8]) -> Option<(Key, u32)> {
    let fixed: &[u8; 40] = packet.first_chunk()?;
    let source = u128::from_be_bytes(*fixed[8..24].first_chunk()?);
    let destination = u128::from_be_bytes(*fixed[24..40].first_chunk()?);
    let (mut next, mut at) = (fixed[6], 40);
    // Hop-by-hop, routing and destination options; their length is in units of 8 bytes beyond the first 8.
    while matches!(next, 0 | 43 | 60) {
        let option = packet.get(at..at + 2)?;
        next = option[0];
        at += 8 * (usize::from(option[1]) + 1);
    }
    let (from, to) = ports(next, packet, at, true);
    let tail = u64::from(next) << 8 | 6;
    let (low, high, ports) = if (source, from) <= (destination, to) {
        (source, destination, from << 48 | to << 32)
    } else {
        (destination, source, to << 48 | from << 32)
    };
    let key = [(low >> 64) as u64, low as u64, (high >> 64) as u64, high as u64, ports | tail];
    Some((key, u32::from(u16::from_be_bytes([fixed[4], fixed[5]])) + 40))
}

/// Ports of TCP and UDP, zero for anything else.
#[inline]
fn ports(protocol: u8, packet: &[u8], at: usize, first: bool) -> (u64, u64) {
    match (protocol, half(packet, at), half(packet, at + 2)) {
        (6 | 17, Some(from), Some(to)) if first => (u64::from(from), u64::from(to)),
        _ => (0, 0),
    }
}

#[inline]
fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]))
}

fn word(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let four = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    if big_endian { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A flow, in one cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Entry {
    key: Key,
    packets: u64,
    bytes: u64,
}

/// Flows in the order of their first packets, and an open-addressing index of 8 bytes a slot: new flows are written
/// one behind the other, and what is spread over memory is eight times smaller than the flows.
struct Table {
    /// Upper half of the flow's hash, lower half its place in `entries` plus one; 0 is free.
    slots: Zeros<u64>,
    entries: Zeros<Entry>,
    flows: usize,
    packets: u64,
    counted: u64,
    waiting: [(u64, Key, u32); BATCH],
    waiting_length: usize,
}

impl Table {
    fn new() -> io::Result<Table> {
        Ok(Table {
            slots: Zeros::new(1 << 16)?,
            entries: Zeros::new(MAX_FLOWS)?,
            flows: 0,
            packets: 0,
            counted: 0,
            waiting: [(0, [0; 5], 0); BATCH],
            waiting_length: 0,
        })
    }

    /// Counts the packet with the rest of its batch, when its slot has come from memory.
    #[inline]
    fn add(&mut self, key: Key, length: u32) {
        let hash = hash(&key);
        prefetch(&self.slots, hash as usize & (self.slots.len() - 1));
        self.waiting[self.waiting_length] = (hash, key, length);
        self.waiting_length += 1;
        if self.waiting_length == BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let mask = self.slots.len() - 1;
        for at in 0..self.waiting_length {
            let (hash, key, length) = self.waiting[at];
            let mut slot = hash as usize & mask;
            let entry = loop {
                let found = self.slots[slot];
                if found == 0 {
                    self.entries[self.flows].key = key;
                    self.flows += 1;
                    self.slots[slot] = tag(hash, self.flows);
                    break self.flows - 1;
                }
                let place = (found as u32 - 1) as usize;
                if found >> 32 == hash >> 32 && is_same(&self.entries[place].key, &key) {
                    break place;
                }
                slot = (slot + 1) & mask;
            };
            self.entries[entry].packets += 1;
            self.entries[entry].bytes += u64::from(length);
        }
        self.counted += self.waiting_length as u64;
        self.waiting_length = 0;
    }

    /// Makes the index four times as large when it is half full, so that what a block brings fits in.
    fn make_room(&mut self) -> io::Result<()> {
        if self.flows + BLOCK > MAX_FLOWS {
            return Err(wrong("the floor counts 2^28 flows at most"));
        }
        if self.flows * 2 <= self.slots.len() {
            return Ok(());
        }
        let mask = self.slots.len() * 4 - 1;
        let mut slots = Zeros::new(mask + 1)?;
        for (place, entry) in self.entries[..self.flows].iter().enumerate() {
            let hash = hash(&entry.key);
            let mut slot = hash as usize & mask;
            while slots[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            slots[slot] = tag(hash, place + 1);
        }
        self.slots = slots;
        Ok(())
    }
}

/// Values that are zero until they are written, in huge pages, which the kernel gives when they are touched: a third of the
/// time of small ones on one packet per flow.
struct Zeros<T> {
    memory: MmapMut,
    length: usize,
    of: PhantomData<T>,
}

impl<T: Plain> Zeros<T> {
    fn new(length: usize) -> io::Result<Self> {
        let memory = MmapOptions::new().len(length * size_of::<T>()).no_reserve_swap().map_anon()?;
        // Without huge pages it is slower, and nothing else.
        let _ = memory.advise(Advice::HugePage);
        Ok(Self { memory, length, of: PhantomData })
    }
}

impl<T: Plain> Deref for Zeros<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        #[allow(unsafe_code)] // It is as long as that and begins with a page, and all octets make values.
        unsafe {
            slice::from_raw_parts(self.memory.as_ptr().cast(), self.length)
        }
    }
}

impl<T: Plain> DerefMut for Zeros<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        #[allow(unsafe_code)] // As above.
        unsafe {
            slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.length)
        }
    }
}

/// Any octets are a value of it.
trait Plain {}
impl Plain for u64 {}
impl Plain for Entry {}

/// Without a call of `memcmp`.
#[inline(always)]
fn is_same(one: &Key, other: &Key) -> bool {
    one.iter().zip(other).fold(0, |differ, (one, other)| differ | (one ^ other)) == 0
}

#[inline]
fn tag(hash: u64, place: usize) -> u64 {
    hash >> 32 << 32 | place as u64
}

/// Asks for a slot, so that it is there when the batch is counted: 5 % less on a million flows.
#[inline]
fn prefetch(slots: &[u64], slot: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(slot) = slots.get(slot) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[allow(unsafe_code)] // A hint: it reads and writes nothing, and the address is that of a reference.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(slot).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slots, slot);
}

/// Multiply and fold the words by two; the constants are odd and otherwise of no meaning.
#[inline]
fn hash(key: &Key) -> u64 {
    let fold = |left: u64, right: u64| {
        let wide = u128::from(left) * u128::from(right);
        (wide >> 64) as u64 ^ wide as u64
    };
    let low = fold(key[0] ^ 0x9e37_79b9_7f4a_7c15, key[1] ^ 0xd6e8_feb8_6659_fd93);
    let high = fold(key[2] ^ 0xa076_1d64_78bd_642f, key[3] ^ 0xe703_7ed1_a0b4_28db);
    fold(low ^ key[4] ^ 0x8ebc_6af0_9c88_c6e3, high ^ 0x5899_65cc_7537_4cc3)
}
