//! Live capture on Linux: for each interface an AF_PACKET socket with a ring of blocks (TPACKET_V3), shared with the
//! kernel.
//!
//! [`open`] gives one [`Source`] for all interfaces. Its frames are copied out of a block into the batch, after which the
//! kernel gets the block back at once: a batch may be on its way to workers for long, a ring has no time. When several
//! rings have frames, what is there is put in the order of time; between two fills frames of different rings may be out
//! of order by the age of a block ([`BLOCK_MS`]).
//!
//! Three rules a reader would get wrong. A VLAN tag that the kernel or the card took off stands in the ring's header, and
//! is put back where it was: lengths are those of the wire. Frames that this host sends are seen on their way out and,
//! on a loopback interface, once more on their way in: only the latter count there. The kernel's count of frames begins
//! anew each time that it is read.
//!
//! This is the only file of the crate with `unsafe`: the standard library knows neither packet sockets nor memory that
//! is shared with the kernel. Constants and layouts are libc's, whose tests compare them with the kernel's headers. What
//! is in a block is read as a slice of bytes, with every offset checked.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};

use super::bpf::{Filter, Program};
use super::{
    BLOCK, CaptureError, FrameBatch, FrameRef, InterfaceCounters, LinkType, LiveCounters, PATIENCE, Reason, Source,
};

/// The kernel hands over a block that is not full when it is this old.
const BLOCK_MS: u32 = 10;
/// A silence of this long after the end was asked for: longer than the kernel takes to hand over its last block.
const SILENCE: Duration = Duration::from_millis(100);
/// While nothing comes, all frames of so long ago have been handed over.
const LAG_NS: i64 = 1_000_000_000;
/// Between two looks at an interface that is down or gone, and at the kernel's counters.
const LOOK: Duration = Duration::from_secs(1);
/// `tp_frame_size`: of no meaning in a ring of this version, whose frames lie close together, but it is asked for.
const FRAME_SIZE: u32 = 2048;
/// Where the EtherType stands, and a tag before it.
const ADDRESSES: usize = 12;
const TAG: usize = 4;
const TPID_8021Q: u16 = 0x8100;

/// How to capture. A ring is memory that is never swapped out, `blocks` times `block_size` bytes for each interface.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes kept of a frame.
    pub snap_length: u32,
    /// Bytes of a block: a power of two. The longest frame must fit.
    pub block_size: u32,
    /// Blocks of a ring.
    pub blocks: u32,
    /// Frames that this host sends are looked at, too.
    pub outgoing: bool,
    /// The card is asked for frames to other stations.
    pub promiscuous: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { snap_length: super::MAX_CAPTURED, block_size: 1 << 18, blocks: 256, outgoing: false, promiscuous: true }
    }
}

impl Options {
    /// What is out of its range: setting and range.
    fn fault(&self) -> Option<(&'static str, &'static str)> {
        let checks = [
            ("snap_length", (64..=super::MAX_CAPTURED).contains(&self.snap_length), "64 to 262144 bytes"),
            (
                "block_size",
                (1 << 16..=1 << 24).contains(&self.block_size) && self.block_size.is_power_of_two(),
                "a power of two from 65536 to 16777216 bytes",
            ),
            ("blocks", (2..=1 << 16).contains(&self.blocks), "2 to 65536 blocks"),
            (
                "block_size times blocks",
                u64::from(self.block_size) * u64::from(self.blocks) <= 1 << 32,
                "a ring of 4 GiB at most",
            ),
        ];
        checks.into_iter().find(|(_, holds, _)| !holds).map(|(setting, _, range)| (setting, range))
    }
}

/// Opens these interfaces, one ring each; frames come from all of them. What `filter` rejects for sure, the kernel
/// leaves out: who takes the frames asks it again, since the kernel's program does not see tags that were taken off.
///
/// # Errors
/// An interface does not exist, is of a link type that is not read, or is named twice; the process lacks the capability;
/// a setting is out of its range; the kernel has no memory for a ring. The error's text names the interface.
pub fn open(names: &[String], options: Options, filter: &Filter) -> Result<Box<dyn Source>, CaptureError> {
    if let Some((setting, range)) = options.fault() {
        return Err(CaptureError::new(Reason::Interface, None, format!("{setting} out of its range"), range));
    }
    if names.is_empty() {
        return Err(CaptureError::new(Reason::NoInterface, None, "no name", "the name of an interface"));
    }
    let mut taps: Vec<Tap> = Vec::with_capacity(names.len());
    for name in names {
        if taps.iter().any(|tap| tap.name == *name) {
            return Err(CaptureError::new(Reason::Interface, None, format!("{name} twice"), "each interface once"));
        }
        taps.push(Tap::open(name, &options, filter)?);
    }
    Ok(Box::new(Taps {
        taps,
        options,
        filter: filter.clone(),
        next: 0,
        silent_since: None,
        idle: false,
        bytes: 0,
        turns: 0,
        looked: Instant::now(),
        stopping: false,
    }))
}

/// All interfaces, one after the other.
struct Taps {
    taps: Vec<Tap>,
    options: Options,
    filter: Filter,
    /// Whose turn it is.
    next: usize,
    /// When a fill first found nothing.
    silent_since: Option<Instant>,
    /// The last fill found nothing.
    idle: bool,
    bytes: u64,
    turns: u64,
    looked: Instant,
    stopping: bool,
}

impl Taps {
    /// Takes blocks that are ready, until the batch is about full; whether there were any.
    fn take(&mut self, batch: &mut FrameBatch) -> bool {
        let (mut filled, mut any, mut sources, mut without) = (0, false, 0_u64, 0);
        while filled < BLOCK && without < self.taps.len() {
            let place = self.next % self.taps.len();
            self.next = place + 1;
            let Some(tap) = self.taps.get_mut(place) else { break };
            if tap.take(self.options.outgoing, batch, &mut filled) {
                sources |= 1 << (place % 64);
                (any, without) = (true, 0);
            } else {
                without += 1;
            }
        }
        self.bytes += filled as u64;
        if sources.count_ones() > 1 {
            batch.frames.sort_by_key(|frame| frame.time);
        }
        any
    }

    /// Waits until a ring has something, for a moment at most.
    fn wait(&mut self) -> io::Result<()> {
        let mut waiting: Vec<_> = self.taps.iter().map(|tap| PollFd::new(&tap.ring, PollFlags::IN)).collect();
        match poll(&mut waiting, Some(&PATIENCE)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let failed: Vec<bool> = waiting.iter().map(|one| one.revents().contains(PollFlags::ERR)).collect();
        for (tap, failed) in self.taps.iter_mut().zip(failed) {
            // Reading the error takes it back, so that the next wait waits again. It is that the interface went down.
            if failed && tap.ring.take_error().is_err() && tap.counters.up {
                tap.counters.up = false;
                tap.counters.downs += 1;
            }
        }
        Ok(())
    }

    /// Looks after what is not asked for with every block: counters, and interfaces that come back.
    fn look(&mut self) {
        self.looked = Instant::now();
        for tap in &mut self.taps {
            tap.count();
            tap.lag = std::mem::replace(&mut tap.counters.lag, 0);
            if !tap.counters.up && !self.stopping {
                tap.look(&self.options, &self.filter);
            }
        }
    }
}

impl Source for Taps {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        self.turns += 1;
        let mut any = self.take(batch);
        if !any {
            self.wait().map_err(|error| CaptureError::from_io(&error, None))?;
            any = self.take(batch);
        }
        self.idle = !any;
        if any {
            self.silent_since = None;
        }
        let silent = !any && self.silent_since.get_or_insert_with(Instant::now).elapsed() >= SILENCE;
        let ends = self.stopping && silent;
        if ends || self.looked.elapsed() >= LOOK {
            self.look();
        }
        Ok(!ends)
    }

    fn bytes_read(&self) -> u64 {
        self.bytes
    }

    fn size(&self) -> Option<u64> {
        None
    }

    fn delivered_until(&self) -> Option<i64> {
        if !self.idle {
            return None;
        }
        Some(host_time()?.saturating_sub(LAG_NS))
    }

    fn live_counters(&self) -> Option<LiveCounters> {
        let mut sum = LiveCounters::default();
        for InterfaceCounters { received, dropped, outgoing, freezes, downs, up, .. } in
            self.taps.iter().map(|tap| &tap.counters)
        {
            sum.received += received;
            sum.dropped += dropped;
            sum.outgoing += outgoing;
            sum.freezes += freezes;
            sum.downs += downs;
            sum.down += u64::from(!up);
        }
        Some(sum)
    }

    fn interfaces(&mut self) -> Vec<InterfaceCounters> {
        let one = |tap: &mut Tap| {
            tap.count();
            InterfaceCounters { lag: tap.counters.lag.max(tap.lag), ..tap.counters.clone() }
        };
        self.taps.iter_mut().map(one).collect()
    }

    fn turns(&self) -> Vec<u64> {
        vec![self.turns]
    }

    fn stop(&mut self) -> bool {
        if !self.stopping {
            self.stopping = true;
            self.silent_since = None;
            for tap in &self.taps {
                // Where that fails, frames go on coming, and who asked for the end asks again.
                let _ = tap.ring.keep(0, None);
            }
        }
        true
    }
}

/// One interface.
struct Tap {
    name: String,
    ring: Ring,
    linktype: LinkType,
    /// Sends to itself: each frame is seen going out and coming in.
    is_loopback: bool,
    /// Its lag is that since the last look.
    counters: InterfaceCounters,
    /// The lag before that.
    lag: u64,
}

impl Tap {
    fn open(name: &str, options: &Options, filter: &Filter) -> Result<Self, CaptureError> {
        let failed = |what: &str, error: &io::Error| {
            CaptureError::new(
                Reason::Interface,
                None,
                format!("{what} of {name}: {error}"),
                "an interface that is there",
            )
        };
        let index = interface_index(name).ok_or_else(|| {
            CaptureError::new(Reason::NoInterface, None, name, "one of those that `vpn-classifier interfaces` lists")
        })?;
        let mut ring = Ring::new(options).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => CaptureError::new(
                Reason::NoCapability,
                None,
                "a process without CAP_NET_RAW",
                "that capability, for which nobody needs to be root: AmbientCapabilities=CAP_NET_RAW in a systemd unit, \
                 or `setpriv --inh-caps +net_raw --ambient-caps +net_raw`, or `setcap cap_net_raw+ep` on a Python \
                 interpreter that is used for nothing else",
            ),
            _ => CaptureError::new(
                Reason::Interface,
                None,
                format!("no ring of {} blocks of {} bytes for {name}: {error}", options.blocks, options.block_size),
                "a kernel with TPACKET_V3 and that much free memory; a smaller ring needs less",
            ),
        })?;
        let hardware = hardware_type(ring.as_fd(), name).map_err(|error| failed("type", &error))?;
        let linktype = link_type(hardware).ok_or_else(|| {
            let found = format!("{name} of ARPHRD type {hardware}");
            CaptureError::new(Reason::Interface, None, found, "Ethernet, loopback, or IP without a header (tun, PPP)")
        })?;
        // Before it is bound: what arrives is filtered from the first frame on.
        let kept = ring.keep(options.snap_length, filter.program(linktype));
        kept.map_err(|error| failed("the filter", &error))?;
        ring.bind(index).map_err(|error| failed("binding to", &error))?;
        if options.promiscuous && hardware == libc::ARPHRD_ETHER {
            ring.be_promiscuous(index).map_err(|error| failed("promiscuous mode", &error))?;
        }
        let is_up = is_up(ring.as_fd(), name).map_err(|error| failed("state", &error))?;
        if !is_up {
            // It would be told once more.
            let _ = ring.take_error();
        }
        let counters = InterfaceCounters {
            name: name.to_owned(),
            up: is_up,
            ring_bytes: u64::from(options.block_size) * u64::from(options.blocks),
            ..InterfaceCounters::default()
        };
        let is_loopback = hardware == libc::ARPHRD_LOOPBACK;
        Ok(Self { name: name.to_owned(), ring, linktype, is_loopback, counters, lag: 0 })
    }

    /// Takes the next block into the batch, if it is ready.
    fn take(&mut self, outgoing: bool, batch: &mut FrameBatch, filled: &mut usize) -> bool {
        let (linktype, keep_outgoing) = (self.linktype, outgoing && !self.is_loopback);
        let counters = &mut self.counters;
        self.ring.with_block(|block| {
            // Every frame may get a tag.
            batch.reserve(*filled + block.len() + TAG * word(block, PACKETS) as usize);
            let before = batch.frames.len();
            let mut oldest = i64::MAX;
            for found in Frames::new(block) {
                oldest = oldest.min(found.time);
                if found.kind == libc::PACKET_OUTGOING && !keep_outgoing {
                    counters.outgoing += 1;
                } else {
                    append(batch, filled, &found, linktype);
                }
            }
            counters.delivered += (batch.frames.len() - before) as u64;
            // A clock that was set back gives none.
            let lag = host_time().and_then(|now| u64::try_from(now.saturating_sub(oldest)).ok());
            counters.lag = counters.lag.max(lag.unwrap_or(0));
        })
    }

    /// Adds what the kernel has counted since it was asked last.
    fn count(&mut self) {
        if let Ok(counted) = self.ring.statistics() {
            self.counters.received += u64::from(counted.tp_packets);
            self.counters.dropped += u64::from(counted.tp_drops);
            self.counters.freezes += u64::from(counted.tp_freeze_q_cnt);
        }
    }

    /// Whether it is up again. One that was taken away and made anew is another one, and gets another ring.
    fn look(&mut self, options: &Options, filter: &Filter) {
        let Some(index) = interface_index(&self.name) else { return };
        if self.ring.index == Some(index) && self.ring.is_bound_to(index) {
            // The kernel goes on with an interface that was only down.
            self.counters.up = is_up(self.ring.as_fd(), &self.name).unwrap_or(false);
        } else if let Ok(again) = Self::open(&self.name, options, filter) {
            let InterfaceCounters { received, delivered, outgoing, .. } = self.counters;
            // What was still in the old ring goes with it.
            let dropped = received - delivered - outgoing;
            let counters = InterfaceCounters { up: again.counters.up, dropped, ..self.counters.clone() };
            *self = Self { counters, ..again };
        }
    }
}

/// The host's time, in nanoseconds since 1970.
fn host_time() -> Option<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_nanos()).ok()
}

/// What a frame on such an interface starts with, as far as that is read here. The kernel's PPP hands IP over without
/// its own header, and so do tunnels of type none (tun, WireGuard) and raw IP (mobile modems).
const fn link_type(hardware: u16) -> Option<LinkType> {
    const RAW_IP: u16 = 519;
    match hardware {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Some(LinkType(1)),
        libc::ARPHRD_NONE | libc::ARPHRD_PPP | RAW_IP => Some(LinkType(101)),
        _ => None,
    }
}

/// Where things stand in a block (`struct tpacket_block_desc`).
const PACKETS: usize = offset_of!(libc::tpacket_block_desc, hdr) + offset_of!(libc::tpacket_hdr_v1, num_pkts);
const FIRST: usize = offset_of!(libc::tpacket_block_desc, hdr) + offset_of!(libc::tpacket_hdr_v1, offset_to_first_pkt);
const STATUS: usize = offset_of!(libc::tpacket_block_desc, hdr) + offset_of!(libc::tpacket_hdr_v1, block_status);
/// Of a frame's header, behind which there is a link-layer address.
const HEADER: usize = size_of::<libc::tpacket3_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);

/// A number of the kernel's at this place; 0 beyond the end.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |chunk| u32::from_ne_bytes(*chunk))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |chunk| u16::from_ne_bytes(*chunk))
}

/// A frame in a block.
#[derive(Debug, PartialEq, Eq)]
struct Found<'block> {
    time: i64,
    /// `sll_pkttype`: to whom it was sent.
    kind: u8,
    /// Length on the wire without the tag.
    original: u32,
    /// The VLAN tag that was taken off.
    tag: Option<[u8; TAG]>,
    bytes: &'block [u8],
}

/// The frames of a block.
struct Frames<'block> {
    block: &'block [u8],
    at: usize,
    left: u32,
}

impl<'block> Frames<'block> {
    fn new(block: &'block [u8]) -> Self {
        Self { block, at: word(block, FIRST) as usize, left: word(block, PACKETS) }
    }
}

impl<'block> Iterator for Frames<'block> {
    type Item = Found<'block>;

    fn next(&mut self) -> Option<Found<'block>> {
        use libc::{sockaddr_ll, tpacket_hdr_variant1, tpacket3_hdr};
        const VLAN: usize = offset_of!(tpacket3_hdr, hv1);
        self.left = self.left.checked_sub(1)?;
        let header = self.block.get(self.at..)?;
        match word(header, offset_of!(tpacket3_hdr, tp_next_offset)) as usize {
            0 => self.left = 0,
            next => self.at = self.at.checked_add(next)?,
        }
        let start = usize::from(half(header, offset_of!(tpacket3_hdr, tp_mac)));
        let captured = word(header, offset_of!(tpacket3_hdr, tp_snaplen)) as usize;
        let bytes = header.get(start..start.checked_add(captured)?)?;
        let seconds = i64::from(word(header, offset_of!(tpacket3_hdr, tp_sec)));
        let status = word(header, offset_of!(tpacket3_hdr, tp_status));
        let tag = (status & libc::TP_STATUS_VLAN_VALID != 0).then(|| {
            let tci = word(header, VLAN + offset_of!(tpacket_hdr_variant1, tp_vlan_tci)) as u16;
            let tpid = match half(header, VLAN + offset_of!(tpacket_hdr_variant1, tp_vlan_tpid)) {
                tpid if status & libc::TP_STATUS_VLAN_TPID_VALID != 0 => tpid,
                _ => TPID_8021Q,
            };
            let ([a, b], [c, d]) = (tpid.to_be_bytes(), tci.to_be_bytes());
            [a, b, c, d]
        });
        Some(Found {
            time: seconds * 1_000_000_000 + i64::from(word(header, offset_of!(tpacket3_hdr, tp_nsec))),
            kind: header.get(HEADER + offset_of!(sockaddr_ll, sll_pkttype)).copied().unwrap_or_default(),
            original: word(header, offset_of!(tpacket3_hdr, tp_len)),
            tag,
            bytes,
        })
    }
}

/// Puts a frame behind the others, its tag back in its place.
fn append(batch: &mut FrameBatch, filled: &mut usize, found: &Found<'_>, linktype: LinkType) {
    let tag: &[u8] = match &found.tag {
        Some(tag) if linktype == LinkType(1) && found.bytes.len() >= ADDRESSES => tag,
        _ => &[],
    };
    let (before, behind) = found.bytes.split_at(if tag.is_empty() { 0 } else { ADDRESSES });
    let start = *filled;
    for part in [before, tag, behind] {
        let end = *filled + part.len();
        let Some(room) = batch.data.get_mut(*filled..end) else { return };
        room.copy_from_slice(part);
        *filled = end;
    }
    let captured = (*filled - start) as u32;
    batch.frames.push(FrameRef {
        time: found.time,
        offset: start as u32,
        captured,
        original: found.original.saturating_add(tag.len() as u32).max(captured),
        linktype,
    });
}

/// A packet socket and the memory that it shares with the kernel.
struct Ring {
    socket: OwnedFd,
    /// Of the interface, once bound.
    index: Option<i32>,
    memory: NonNull<u8>,
    block_size: usize,
    blocks: usize,
    /// The block that the kernel fills next, or has filled.
    next: usize,
}

// SAFETY: the memory belongs to this ring alone, and nothing in it is bound to a thread.
unsafe impl Send for Ring {}

impl Ring {
    /// A socket that gets nothing yet: one without a protocol is bound to no interface.
    fn new(options: &Options) -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was made above and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &libc::tpacket_versions::TPACKET_V3)?;
        let (block_size, blocks) = (options.block_size as usize, options.blocks as usize);
        let request = libc::tpacket_req3 {
            tp_block_size: options.block_size,
            tp_block_nr: options.blocks,
            tp_frame_size: FRAME_SIZE,
            tp_frame_nr: options.block_size / FRAME_SIZE * options.blocks,
            tp_retire_blk_tov: BLOCK_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of this program.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), block_size * blocks, access, shared, socket.as_raw_fd(), 0) };
        let memory = match NonNull::new(address.cast::<u8>()) {
            Some(memory) if address != libc::MAP_FAILED => memory,
            _ => return Err(io::Error::last_os_error()),
        };
        Ok(Self { socket, index: None, memory, block_size, blocks, next: 0 })
    }

    /// Begins to take the frames of this interface.
    fn bind(&mut self, index: i32) -> io::Result<()> {
        let mut address = empty_address();
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index;
        // SAFETY: address and length are those of a sockaddr_ll that lives until the call returns.
        let bound = unsafe {
            libc::bind(self.socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32)
        };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        self.index = Some(index);
        Ok(())
    }

    /// What it is bound to.
    fn address(&self) -> io::Result<libc::sockaddr_ll> {
        let mut address = empty_address();
        let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: as many bytes as `length` says belong to `address`, of which any content is valid.
        let told = unsafe { libc::getsockname(self.socket.as_raw_fd(), (&raw mut address).cast(), &raw mut length) };
        if told < 0 { Err(io::Error::last_os_error()) } else { Ok(address) }
    }

    /// Whether its interface is still there.
    fn is_bound_to(&self, index: i32) -> bool {
        self.address().is_ok_and(|address| address.sll_ifindex == index)
    }

    /// Has the kernel keep so many bytes of each frame that the program selects; 0: no frame any more.
    fn keep(&self, bytes: u32, program: Option<&Program>) -> io::Result<()> {
        let mut instructions = kernel_program(bytes, program);
        let length = u16::try_from(instructions.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let filter = libc::sock_fprog { len: length, filter: instructions.as_mut_ptr() };
        // The kernel copies the program before the call returns.
        set(&self.socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
    }

    /// For as long as the socket lives: the kernel counts who wants it, so that nobody else's wish is undone.
    fn be_promiscuous(&self, index: i32) -> io::Result<()> {
        let request = libc::packet_mreq {
            mr_ifindex: index,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set(&self.socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
    }

    /// What the kernel counted since it was asked last.
    fn statistics(&self) -> io::Result<libc::tpacket_stats_v3> {
        let mut counted = libc::tpacket_stats_v3 { tp_packets: 0, tp_drops: 0, tp_freeze_q_cnt: 0 };
        get(&self.socket, libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut counted)?;
        Ok(counted)
    }

    /// The socket's error, which is none afterwards.
    fn take_error(&self) -> io::Result<()> {
        let mut error: libc::c_int = 0;
        get(&self.socket, libc::SOL_SOCKET, libc::SO_ERROR, &mut error)?;
        if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
    }

    /// Lends the next block, if it is ready, and gives it back to the kernel; whether it was ready.
    fn with_block(&mut self, take: impl FnOnce(&[u8])) -> bool {
        let start = self.next * self.block_size;
        // SAFETY: `next` is below `blocks`, so the block lies within the mapping. It begins at a page, so that its status
        // word is aligned; the kernel changes that word, hence an atomic.
        let status = unsafe { AtomicU32::from_ptr(self.memory.add(start + STATUS).as_ptr().cast()) };
        // Acquire: what the kernel wrote before it gave the block away is seen.
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return false;
        }
        // SAFETY: within the mapping, as above. The kernel writes nothing into a block that is not its own, and the slice
        // is gone before it is its own again. The status word, inside of the slice, is not written meanwhile either.
        take(unsafe { std::slice::from_raw_parts(self.memory.add(start).as_ptr(), self.block_size) });
        // Release: all reading is done before.
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % self.blocks;
        true
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping, and no slice of it is out.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.block_size * self.blocks) };
    }
}

fn empty_address() -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

/// Sets an option of a socket. `T` is the kernel's own type for it.
fn set<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as `value` has.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), size_of::<T>() as u32)
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads an option of a socket. `T` is the kernel's own type for it, of which any content is valid.
fn get<T: Copy>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is what `value` has.
    let got =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, std::ptr::from_mut(value).cast(), &raw mut length) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The number of an interface; none for a name that nobody has.
fn interface_index(name: &str) -> Option<i32> {
    let name = CString::new(name).ok()?;
    // SAFETY: a string that ends in a zero byte and lives until the call returns.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    i32::try_from(index).ok().filter(|&index| index > 0)
}

/// The filter of a socket: keeps so many bytes of what the program selects. It sees frames without the tag that was taken
/// off, so that frames with such a tag are all kept, for the same program to be asked again.
fn kernel_program(bytes: u32, program: Option<&Program>) -> Vec<libc::sock_filter> {
    const TAG_IS_PRESENT: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG_PRESENT) as u32;
    let one = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let keep = one(libc::BPF_RET | libc::BPF_K, 0, 0, bytes);
    let Some(program) = program.filter(|_| bytes > 0) else { return vec![keep] };
    let mut instructions = vec![
        one(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, TAG_IS_PRESENT),
        one(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, 0),
        keep,
    ];
    instructions.extend(program.instructions().iter().map(|asked| {
        let keeps = u32::from(asked.code) == libc::BPF_RET | libc::BPF_K && asked.k > 0;
        one(u32::from(asked.code), asked.jt, asked.jf, if keeps { bytes } else { asked.k })
    }));
    instructions
}

/// The ARPHRD type of an interface.
fn hardware_type(socket: BorrowedFd<'_>, name: &str) -> io::Result<u16> {
    let request = ask(socket, name, libc::SIOCGIFHWADDR)?;
    // SAFETY: the address is what this request fills in, and any number is valid.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}

/// Whether an interface is up, as far as its owner wants it to be.
fn is_up(socket: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    let request = ask(socket, name, libc::SIOCGIFFLAGS)?;
    // SAFETY: the flags are what this request fills in, and any number is valid.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(i32::from(flags) & libc::IFF_UP != 0)
}

/// Asks the kernel about an interface.
fn ask(socket: BorrowedFd<'_>, name: &str, what: libc::Ioctl) -> io::Result<libc::ifreq> {
    // SAFETY: a structure of numbers, of which all zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    for (room, &byte) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.as_bytes()) {
        *room = byte as libc::c_char;
    }
    // SAFETY: the kernel reads and writes one ifreq, which lives until the call returns.
    if unsafe { libc::ioctl(socket.as_raw_fd(), what as _, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(request)
}

#[cfg(test)]
mod tests;
