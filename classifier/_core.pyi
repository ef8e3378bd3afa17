"""The compiled packet path: captures in, columnar batches of flow reports out.

Nothing here knows a register or a policy; nothing outside it sees a packet. Times are integers in
nanoseconds since 1970-01-01T00:00Z, addresses are packed bytes (4 or 16) in network order.
"""

from collections.abc import Sequence
from typing import Any, final

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
    "RUNS_NS",
    "TRANSPORTS",
    "UNDECODED",
    "VARIANTS",
    "Answer",
    "Attempts",
    "CaptureError",
    "Cases",
    "Classes",
    "Ends",
    "Engine",
    "EvidenceKind",
    "FirstSeen",
    "FlowBatch",
    "Interface",
    "Lines",
    "PrefixMap",
    "Reporter",
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

RUNS_NS: int
"""So long after its last packet, a flow may be over."""

HOLES: dict[str, bytes]
"""What `Reporter` fills in where these bytes, which JSON text never has, stand in what it was told: the
address of the "source" and the "destination"; what stands for them as a subject ("source_subject",
"destination_subject": the address for IPv4, its /64 for IPv6); the id of the case whose subject they are
("source_case", "destination_case"); when that case was first "seen"."""

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

    def __new__(cls, rows: Sequence[dict[str, Any]]) -> FlowBatch:
        """Rows that were written down, each with all columns but `community_id`, `oneway` and those that
        say the same as another; `bits` of evidence are those of its kind. KeyError, TypeError or ValueError
        for what no column has."""
    def __len__(self) -> int: ...
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

_Summary = tuple[int, str, str, int, int, int, int, bool, int | None]
"""See `attempts.Summary`."""

@final
class Attempts:
    """Which attempts are announced one by one, and which are counted for a summary: so many per prefix
    (/24, /48) and minute, and in all. `summaries` of prefixes are given a minute at most, `prefixes` are
    held at once, and `destinations` counted of each."""

    def __new__(
        cls,
        *,
        per_prefix: int = 10,
        overall: int = 1_000,
        summaries: int = 1_000,
        prefixes: int = 4_096,
        destinations: int = 32,
    ) -> Attempts: ...
    def admit(self, source: bytes, destination: bytes, protocol: str, time_ns: int) -> bool:
        """Whether to announce this attempt; it is counted for a summary if not."""
    def due(self, time_ns: int) -> list[_Summary]:
        """Summaries of the windows that have ended by now, each with the time of its end."""
    def drain(self, time_ns: int) -> list[_Summary]:
        """Summaries of all windows: the capture has ended."""
    @property
    def due_ns(self) -> int:
        """Before that, `due` has nothing to give."""
    @property
    def summarised(self) -> int:
        """Attempts counted instead of announced."""
    @property
    def evicted(self) -> int:
        """Windows that ended early because too many prefixes were active."""

@final
class Cases:
    """The cases flagged in the last 24 hours; the longest known goes when there are more than `limit`."""

    def __new__(cls, limit: int = 131_072) -> Cases: ...
    def first(self, subject: bytes, remote: bytes, protocol: str, time_ns: int) -> bool:
        """Whether this flag is the first of its case in 24 hours; it is remembered if so."""
    def clear(self) -> None:
        """Forget them all: another capture begins, with a clock of its own."""
    @property
    def evicted(self) -> int:
        """Cases pushed out while still in their 24 hours: their next flag says `first` again."""

@final
class FirstSeen:
    """When each case was first seen; of more than `limit`, the one not met for longest is forgotten."""

    def __new__(cls, limit: int = 131_072) -> FirstSeen: ...
    def since(self, subject: bytes, remote: bytes, protocol: str, start_ns: int) -> int:
        """The start of the earliest flow of the case; this one, which began at `start_ns`, included."""
    def clear(self) -> None:
        """Forget them all: another capture begins."""
    @property
    def evicted(self) -> int:
        """Cases forgotten: they count as seen for the first time again."""

@final
class Ends:
    """What holds for all rows whose ends are alike (`Classes`), from one instant until another: `entries`
    behind a judgement, as JSON; whether it matters when their case was first seen; whether the subject is
    the destination; and a number for what the policy compares."""

    def __new__(
        cls,
        *,
        from_ns: int,
        until_ns: int,
        entries: bytes,
        asks_seen: bool,
        subject_answers: bool,
        grounds: int,
    ) -> Ends: ...

@final
class Answer:
    """What is said of all flows with the same grounds in the same state of which the same was said before,
    from one instant until another.

    `event` is what it announces, None for nothing. `tag` stands for what is said now, `counted` is a number
    to be given back. `flags`, and `newly_flagged`: it did not before; `turns`: something else was said
    before. `reason` from 0 to 2 names the sentence. The judgement as JSON is `opening` (`opening_of_first`:
    of the first flag of a case), entries, `middle`, the sentence, and `closing`; with `HOLES`. ValueError
    for names and numbers that are none."""

    def __new__(
        cls,
        *,
        from_ns: int,
        until_ns: int,
        event: str | None,
        tag: int,
        flags: bool,
        newly_flagged: bool,
        turns: bool,
        counted: int,
        reason: int,
        opening: bytes,
        opening_of_first: bytes,
        middle: bytes,
        closing: bytes,
    ) -> Answer: ...

@final
class Lines:
    """Event lines one behind the other, and an item for each: see `events.VpnLines`."""

    @property
    def text(self) -> bytes: ...
    @property
    def ends(self) -> list[int]: ...
    @property
    def cases(self) -> list[int]: ...
    @property
    def flow_ids(self) -> list[int]: ...
    @property
    def ended(self) -> list[bool]: ...
    @property
    def counted(self) -> list[int]:
        """`counted` of each answer."""
    @property
    def first_ns(self) -> int:
        """Time of the first event."""
    @property
    def latest_ns(self) -> int: ...

@final
class Reporter:
    """Turns batches into event lines (`events.VpnEvent`), by what it was answered before about rows that
    are alike.

    `heads` are the members of a line between `timestamp` and `flow_id` for each kind of event, `tail` those
    behind `flow`, as JSON without braces. `as_of_ns`: judge by this time instead of the packets'. `counts`:
    gather what `counts` gives."""

    def __new__(
        cls, *, heads: dict[str, bytes], tail: bytes, as_of_ns: int | None = None, counts: bool = False
    ) -> Reporter: ...
    def adopt(self, classes: Classes, waits_from_ns: int) -> None:
        """Another register or policy judges from here on: no answer holds any more. First seen from
        `waits_from_ns` on, a case waits for the next register."""
    def begin(self, batch: FlowBatch, capture: bytes) -> None:
        """Take a batch; `capture` are the members of its lines that name where it comes from."""
    def go_on(self) -> str:
        """Look at rows until "done" (with the batch), or lines are to be taken ("full"; "summaries":
        `summaries` comes behind them), or there is a "question"."""
    def question(
        self,
    ) -> tuple[
        tuple[bytes, bytes, int | None, str, str, str, bool, int, int, int, int],
        str,
        int,
        int,
        list[bool] | None,
    ]:
        """The row that needs an answer, as `answers.Row`; its report; the tag of what was said before; the
        time of judgement; which reasons are known of its ends, None when nothing is. RuntimeError when
        nothing is asked."""
    def learn(self, ends: Ends | None, reason: bytes | None, answer: Answer, seen_ns: int) -> None:
        """The answer, with what the question did not know: its ends, its reason (JSON text, with `HOLES`).
        `seen_ns`: when the case was first seen. RuntimeError when that answers nothing."""
    def lines(self) -> Lines | None:
        """The lines written since the last time, if any."""
    def summaries(self) -> list[_Summary]:
        """Those that "summaries" announced."""
    def counts(
        self,
    ) -> tuple[
        list[tuple[str, bytes, int, int, int, bool]],
        list[tuple[str, str]],
        list[float],
    ]:
        """Since the last time: what was told (protocol, subject, time, tag before and now, first flag of a
        case); protocol and confidence of attempts that were not; how many seconds one look-up in 64
        took."""
    def tags(self) -> tuple[list[int], list[int]]:
        """What the batch was done with has for `Engine.set_tags`."""
    def advance(self, time_ns: int) -> list[_Summary]:
        """It is this time now, if it was not already: the summaries that are due."""
    def end(self) -> list[_Summary]:
        """The capture has ended: the summaries still open. Cases, rates and the clock begin anew."""
    def first_seen(self, subject: bytes, remote: bytes, protocol: str, start_ns: int) -> int:
        """`FirstSeen.since` of the capture."""
    def size(self) -> tuple[int, int]:
        """How much is kept: classes of ends, and answers."""
    def forget(self) -> None:
        """Forget all answers."""
    def forget_tag(self, tag: int) -> None:
        """It stands for nothing any more."""
    def counters(self) -> dict[str, int]:
        """ "attempts.summarised", "attempts.windows_evicted", "cases.evicted", "cases.first_seen_evicted"."""
    @property
    def clock_ns(self) -> int:
        """Of the packets of the present capture, as far as rows have shown it."""

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
    def announce(self, paths: Sequence[str]) -> None:
        """Say which captures will be opened next, in this order, each with its path as its name.

        Several workers work them ahead, side by side; it changes no report. What was announced before is
        forgotten, and all of it by `finish`."""
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
