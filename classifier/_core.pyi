"""The compiled packet path: captures in, columnar batches of flow reports out.

Nothing here knows a register or a policy; nothing outside it sees a packet. Times are integers in
nanoseconds since 1970-01-01T00:00Z, addresses are packed bytes (4 or 16) in network order.
"""

from collections.abc import Sequence
from typing import final

__all__ = [
    "CONFIDENCES",
    "END_REASONS",
    "EVIDENCE",
    "HOLES",
    "LAYERS",
    "NO_FLOW",
    "PHASES",
    "PROTOCOLS",
    "REPORTS",
    "RULED_OUT",
    "TRANSPORTS",
    "UNDECODED",
    "VARIANTS",
    "CaptureError",
    "Classes",
    "Engine",
    "EvidenceKind",
    "FlowBatch",
    "Interface",
    "PrefixMap",
    "version",
]

version: str
"""Version of the package, from the crate's manifest."""

PROTOCOLS: tuple[str, ...]
"""VPN protocols: "wireguard", "openvpn", "ipsec"."""
VARIANTS: tuple[str, ...]
"""Every value that `FlowBatch.variant` can take."""
CONFIDENCES: tuple[str, ...]
"""Weakest first: "possible", "likely", "confirmed"."""
PHASES: tuple[str, ...]
""" "attempt", "handshake", "established", "data_only"."""
TRANSPORTS: tuple[str, ...]
"""Values of `FlowBatch.transport`: "UDP", "TCP", "ESP", "AH"."""
REPORTS: tuple[str, ...]
"""Why a row is in a batch, see `FlowBatch.report`."""
END_REASONS: tuple[str, ...]
"""IPFIX flowEndReason (RFC 5102, 5.11.3) in words."""
LAYERS: tuple[str, ...]
"""Names that `FlowBatch.encap` uses."""
NO_FLOW: tuple[str, ...]
"""What frames of no flow are counted by in `Engine.stats`, behind "no_flow."."""
UNDECODED: tuple[str, ...]
"""What frames that could not be decoded are counted by there, behind "undecoded.": layer and cause."""
RULED_OUT: tuple[str, ...]
"""Names of look-alikes that `FlowBatch.ruled_out` uses."""

@final
class EvidenceKind:
    """One row of the evidence table: what an evidence id stands for."""

    @property
    def id(self) -> str:
        """Stable id, "protocol.fact"."""
    @property
    def protocol(self) -> str:
        """One of `PROTOCOLS`."""
    @property
    def bits(self) -> int:
        """Bits that one observation is worth against uniformly random payload."""
    @property
    def fact(self) -> str:
        """What was seen, as a sentence without its full stop."""
    @property
    def source(self) -> str:
        """Specification and section."""
    @property
    def rules_out(self) -> str:
        """What it tells the protocol from, and what it does not."""

EVIDENCE: tuple[EvidenceKind, ...]
"""All evidence kinds, in the order of the protocols."""

class CaptureError(Exception):
    """A capture could not be read (any further).

    What was whole before `offset` has been or will be reported; `reason` is one of "not_found",
    "permission", "io", "empty", "not_a_capture", "truncated", "malformed", "compression", and of interfaces
    "no_interface", "no_capability", "interface".
    """

    reason: str
    path: str
    offset: int | None
    """Byte offset in the (decompressed) capture where reading stopped."""
    found: str
    expected: str

HOLES: dict[str, bytes]
"""What `FlowBatch.event_lines` fills in where these bytes, which JSON text never has, stand in `policy`: the
address of the "source" and the "destination"; what stands for them as a subject ("source_subject",
"destination_subject": the address for IPv4, its /64 for IPv6); the id of the case whose subject they are
("source_case", "destination_case")."""

@final
class PrefixMap:
    """An immutable map from prefixes to numbers, compiled."""

    def __new__(cls, prefixes: Sequence[tuple[bytes, int]], numbers: Sequence[int]) -> PrefixMap:
        """A number of 32 bits for each prefix, packed address and length; of one given twice the first holds.

        ValueError for what is no prefix."""
    def number(self, address: bytes) -> int:
        """That of the longest prefix that holds the packed address, 0 when none does."""

@final
class Classes:
    """What tells reports of flows apart for who judges them by nothing else, beside names and times.

    `register` and `networks` are two maps for both ends; `ports` are destination ports, `packets` numbers of
    packets in both directions together, `packets_of_one` of one end, `durations_ns` durations to be reached.
    Whether a flow began before `first_record_ns` counts, too, and with `as_of_ns` as if it ended then."""

    def __new__(
        cls,
        register: PrefixMap,
        networks: PrefixMap,
        *,
        ports: Sequence[int] = (),
        packets: Sequence[int] = (),
        packets_of_one: Sequence[int] = (),
        durations_ns: Sequence[int] = (),
        first_record_ns: int = 0,
        as_of_ns: int | None = None,
    ) -> Classes: ...

@final
class FlowBatch:
    """Reports about recognised flows, one row each, as columns of equal length.

    Rows are ordered by (`number`, `flow_id`); the ends of the flows that run when a capture ends come last.
    The same input gives the same rows whatever the number of
    workers; where one batch ends and the next begins carries no meaning.
    """

    def __len__(self) -> int: ...
    def parts(self, size: int) -> list[FlowBatch]:
        """The same rows in batches of at most `size`, at least 1, for who wants few of them at once."""
    def row(self, row: int) -> FlowBatch:
        """One row, by its place in this batch, as a batch of its own. IndexError when it is not there."""
    def of_ends(self, classes: Classes) -> list[bytes]:
        """For each row a short key: alike for rows of the same protocol whose ends and destination port
        compare alike, and that are alike in being joined mid-flow and in `via_proxy`."""
    def of_state(self, classes: Classes) -> list[bytes]:
        """The same for rows alike in `report`, `confidence`, `phase`, and in which packets and durations they
        have reached and whether they began too early."""
    def event_lines(
        self,
        rows: Sequence[int],
        heads: Sequence[bytes],
        policies: Sequence[tuple[bytes, ...]],
        capture: bytes,
        tail: bytes,
    ) -> tuple[bytes, list[int]]:
        """Event lines (`events.VpnEvent`, each with a newline) one behind the other, and where each ends.

        `rows` are places in this batch, with a head and a policy for each. All is JSON of what the core does
        not know, taken as it is: a policy is a value, in pieces, with `HOLES`; the others are members without
        their braces. The head stands behind `timestamp`, `capture` behind `community_id`, `tail` behind
        `flow`. IndexError for a row that is not there."""
    @property
    def report(self) -> list[str]:
        """ "recognised": first report of the flow; "changed": confidence, phase or variant changed;
        "milestone": a packet count or a duration asked for was reached, or a review asked for; "update":
        another `update_interval_s` of packet time has passed; "ended": last report of the flow."""
    @property
    def number(self) -> list[int]:
        """Number of the frame that caused the report, from 1 in each capture."""
    @property
    def time_ns(self) -> list[int]:
        """Packet clock when the report was made."""
    @property
    def flow_id(self) -> list[int]:
        """63-bit hash of the capture, the flow key and the number of the flow's first packet."""
    @property
    def community_id(self) -> list[str]:
        """Community ID v1 (seed 0) of the innermost flow."""
    @property
    def handle(self) -> list[int]:
        """What `Engine.set_tags` takes; valid until the flow has ended."""
    @property
    def tag(self) -> list[int]:
        """The 32-bit tag last set for the flow, 0 when none was set."""
    @property
    def source(self) -> list[bytes]:
        """Initiator's address: who opened the VPN handshake, else who sent the first packet seen."""
    @property
    def destination(self) -> list[bytes]: ...
    @property
    def source_ip(self) -> list[str]:
        """`source` as text (RFC 5952 for IPv6)."""
    @property
    def destination_ip(self) -> list[str]: ...
    @property
    def source_port(self) -> list[int | None]:
        """None for ESP and AH."""
    @property
    def destination_port(self) -> list[int | None]: ...
    @property
    def transport(self) -> list[str]:
        """One of `TRANSPORTS`."""
    @property
    def vlan(self) -> list[list[int]]:
        """VLAN ids of the flow's first packet, outermost first; empty without tags."""
    @property
    def encap(self) -> list[list[str]]:
        """Layers of the flow's first packet from the link type to the one above the innermost IP header."""
    @property
    def protocol(self) -> list[str]: ...
    @property
    def variant(self) -> list[str]: ...
    @property
    def confidence(self) -> list[str]: ...
    @property
    def phase(self) -> list[str]: ...
    @property
    def oneway(self) -> list[bool]:
        """Packets were seen in one direction only."""
    @property
    def midflow(self) -> list[bool]:
        """The flow's first packets seen were not its opening."""
    @property
    def flipped(self) -> list[bool]:
        """The initiator is not the sender of the first packet seen: the handshake showed otherwise."""
    @property
    def evidence(self) -> list[list[tuple[str, int, int, int, str, int, int]]]:
        """At most 16 items (id, bits, packet, time_ns, direction, length, count) in order of first sight:
        `bits` all observations of this kind together, `packet` the frame number and `time_ns` the time of the
        first, `direction` "to_server" or "to_client" and `length` its payload length in bytes, `count` how
        many."""
    @property
    def via_proxy(self) -> list[bool]:
        """The stream goes through a proxy (HTTP CONNECT, SOCKS): the destination is the proxy."""
    @property
    def ruled_out(self) -> list[list[str]]:
        """Look-alikes that were tested for and ruled out."""
    @property
    def packets_to_server(self) -> list[int]:
        """Packets from the initiator since the flow began."""
    @property
    def packets_to_client(self) -> list[int]: ...
    @property
    def bytes_to_server(self) -> list[int]:
        """Octets of the innermost IP packets, headers included (IPFIX octetDeltaCount)."""
    @property
    def bytes_to_client(self) -> list[int]: ...
    @property
    def start_ns(self) -> list[int]:
        """Time of the flow's first packet."""
    @property
    def end_ns(self) -> list[int]:
        """Time of its latest packet."""
    @property
    def end_reason(self) -> list[str | None]:
        """One of `END_REASONS` in an "ended" report, else None."""

@final
class Interface:
    """What one interface of a live capture counts. Frames received are delivered, dropped, outgoing, or still
    in a ring or a batch."""

    @property
    def name(self) -> str: ...
    @property
    def received(self) -> int:
        """Frames that the kernel had for us, dropped ones included."""
    @property
    def delivered(self) -> int:
        """Taken out of a ring and looked at."""
    @property
    def by_ring(self) -> list[int]:
        """Of what was delivered, what came through each ring."""
    @property
    def dropped(self) -> int:
        """Those for which a ring had no room."""
    @property
    def outgoing(self) -> int:
        """Sent by this host itself, and left out."""
    @property
    def freezes(self) -> int:
        """How often a ring became full."""
    @property
    def downs(self) -> int:
        """How often it went down or away."""
    @property
    def up(self) -> bool: ...
    @property
    def ring_bytes(self) -> int: ...
    @property
    def lag_ns(self) -> int:
        """How long a frame had waited when it was handed on: the longest of the last second or two."""

@final
class Engine:
    """Replays captures, one after the other, each on its own; or listens on interfaces."""

    def __new__(
        cls,
        *,
        workers: int = 1,
        min_confidence: str = "likely",
        flow_key: str = "five-tuple",
        update_interval_s: int = 1800,
        packet_milestones: Sequence[int] = (),
        duration_milestones_s: Sequence[float] = (),
        max_undecided: int = 1_048_576,
        max_attempts: int = 65_536,
        max_recognised: int = 262_144,
        max_fragmented: int = 32_768,
        remove_duplicates: bool = False,
        peel: str = "operator",
        subscribers: Sequence[tuple[bytes, int]] = (),
        filter: Sequence[tuple[int, Sequence[tuple[int, int, int, int]]]] = (),
    ) -> Engine:
        """`workers` threads from 1 to 64; `flow_key` "five-tuple", "+vlan" or "+path"; the milestones are
        packets (both directions) and seconds of a flow at which a report is wanted beside those of
        `FlowBatch.report`; `max_*` bound each pool of flows, and the datagrams in fragments that are
        remembered. `remove_duplicates`: a packet that comes twice within 10 ms counts once. `peel`: which
        tunnels over IP are opened: "operator" (those with no end in `subscribers`, packed address and length
        of each prefix), "all" or "none". `filter`:
        for each link type a program of classic BPF (code, jt, jf, k): frames that it does not select are
        counted ("ignored.filtered") and left out. ValueError names the setting and its range."""
    def open(self, path: str, name: str) -> None:
        """Begin the capture at `path`; `name` goes into errors, its last part into flow ids.

        "-" is standard input, which is first looked at by `poll`. Raises CaptureError when the path is no
        capture, RuntimeError when another one is not finished."""
    def open_interfaces(
        self,
        names: Sequence[str],
        *,
        threads: int = 1,
        snap_length: int = 262_144,
        block_size: int = 262_144,
        blocks: int = 256,
        outgoing: bool = False,
        promiscuous: bool = True,
    ) -> None:
        """Begin a live capture from these interfaces, which goes on until `finish`.

        Each of `threads` threads (1 to 16) has one ring of every interface; the kernel shares out frames by
        their pairs of addresses, and between threads the order of time holds to the age of a block.
        A ring has `blocks` blocks of `block_size` bytes (a power of two). The kernel hands a block
        over when it is full or 10 ms old, so a ring bridges a pause of `blocks` times 10 ms, or of its size
        divided by the rate where that is shorter. `snap_length`: bytes kept of a frame. `outgoing`: also
        frames that this host sends, which are counted and left out otherwise. Names joined by commas, with
        the first frame, go into flow ids. While nothing comes, the packet clock follows the host's, one
        second behind. An interface that goes down or away is waited for. Raises CaptureError, RuntimeError
        as `open`."""
    def poll(self, max_ms: int = 100) -> FlowBatch | None:
        """Work for about `max_ms` or until a batch has filled; None once the capture is done.

        Releases the interpreter lock. Raises CaptureError once, where reading stops early: poll again for
        the flows that were running (they end with "forced_end")."""
    def set_tags(self, handles: Sequence[int], tags: Sequence[int]) -> None:
        """Attach a 32-bit number to each flow; handles of flows that have ended are ignored."""
    def set_milestones(
        self, packet_milestones: Sequence[int], duration_milestones_s: Sequence[float]
    ) -> None:
        """Replace those given at construction; ValueError as there."""
    def set_subscribers(self, subscribers: Sequence[tuple[bytes, int]]) -> None:
        """Replace those given at construction, from the next packet on; ValueError as there."""
    def review_at(self, instants_ns: Sequence[int]) -> None:
        """Replace the instants of the packet clock at which every reported flow that still runs is reported
        once as "milestone", `time_ns` being the clock; instants that have passed count as done. They hold for
        the captures that follow, too."""
    def review(self) -> None:
        """Report every reported flow that still runs as "milestone"; the next poll gives the rows."""
    def finish(self) -> None:
        """Stop reading here: the next polls report the running flows' ends, then None. Of interfaces, what
        has arrived by now still comes."""
    def progress(self) -> tuple[int, int | None]:
        """Bytes of the current input read so far (as stored on disk) and its size, None when unknown."""
    def turns(self) -> list[int]:
        """How often the engine has asked for frames, and how often each thread that captures from interfaces
        has looked for some, also when none came: one that hangs stops counting. Empty for a file."""
    def link_types(self) -> list[tuple[int, str, int, bool]]:
        """Of the current capture: link type number, its name, frames, and whether it can be decoded."""
    def interfaces(self) -> list[Interface]:
        """Of a live capture, what each interface counts, the kernel's numbers as of now; else nothing."""
    def stats(self) -> dict[str, int]:
        """Counters since construction, over all captures. Keys are dotted, e.g. "frames", "bytes",
        "undecoded.ipv4_truncated", "no_flow.arp", "flows.created", "flows.evicted.attempt". They balance:
        frames = decoded + undecoded.* + ignored.*;
        decoded = flow_packets + no_flow.* + fragments_unmatched + fragments_waiting. Of a live capture also
        "ignored.outgoing", "kernel.received" (= frames + "kernel.dropped", once it has ended),
        "kernel.freezes" (a ring was full), "interfaces.downs" (so often) and "interfaces.down" (so many
        now)."""
