"""Write truth.csv: what must be found in each case of this folder, and how far each flow got.

What ran comes from manifest.csv (written when the captures were made); the packets are read with dpkt by
tests/oracle.py. The protocol of a flow is given, so this is a reader of messages and no classifier, and
nothing of the core is used. The rules are those of README.md, section "Truth". Run it as
`python pcaps/make_truth.py`.
"""

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

pcaps = Path(__file__).resolve().parent
sys.path.insert(0, str(pcaps.parent / "tests"))
from oracle import Endpoint, Flow, FlowKey, Packet, read_capture  # noqa: E402

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Truth:
    """One row of truth.csv. `protocol` "none": nothing at `likely` or above may be found in the case."""

    case: str
    protocol: str
    variant: str = ""
    phase: str = ""
    confidence: str = ""
    transport: str = ""
    initiator: str = ""
    initiator_port: int | None = None
    responder: str = ""
    responder_port: int | None = None
    packets_to_server: int | None = None
    packets_to_client: int | None = None
    bytes_to_server: int | None = None
    bytes_to_client: int | None = None
    first_packet: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What the messages of one flow show."""

    variant: str
    phase: str
    confidence: str
    opener: Endpoint | None  # who opened, where a message of the flow shows it


@dataclass(frozen=True, slots=True)
class Ike:
    """Header of one IKE message (RFC 7296, 3.1; RFC 2408, 3.1)."""

    packet: Packet
    version: int
    exchange: int
    from_initiator: bool  # IKEv2 flag I; IKEv1 has no such flag: no responder SPI yet
    response: bool  # IKEv2 flag R; IKEv1: a responder SPI is there
    whole: bool


def main() -> None:
    with (pcaps / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    truths: list[Truth] = []
    for case in dict.fromkeys(row["case"] for row in rows):
        truths += case_truth(case, [row for row in rows if row["case"] == case])
    with (pcaps / "truth.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(column.name for column in fields(Truth))
        writer.writerows(astuple(truth) for truth in truths)
    print(f"{len(truths)} rows, {Counter(truth.protocol for truth in truths)}")


def case_truth(case: str, rows: list[Row]) -> list[Truth]:
    """The rows of one case."""
    [path] = (pcaps / case).glob("capture.*")
    flows = read_capture(path).flows
    truths = []
    for row in rows:
        if row["expected"] != "detect":
            continue
        client, server = endpoint(row, "client", "cport"), endpoint(row, "server", "sport")
        flow = flows[FlowKey.of(row["transport"].upper(), client, server)]
        reading = read_flow(row, flow, flows)
        check(case, row, reading, client)
        initiator = reading.opener or flow.first_packet.source
        responder = server if initiator == client else client
        to_server, to_client = flow.count(initiator), flow.count(responder)
        truths.append(
            Truth(
                case,
                row["protocol"],
                reading.variant,
                reading.phase,
                reading.confidence,
                flow.key.transport,
                initiator.address,
                initiator.port,
                responder.address,
                responder.port,
                to_server[0],
                to_client[0],
                to_server[1],
                to_client[1],
                flow.first_packet.number,
            )
        )
    return sorted(truths, key=lambda truth: truth.first_packet or 0) or [Truth(case, "none")]


def endpoint(row: Row, address: str, port: str) -> Endpoint:
    return Endpoint(row[address], int(row[port]) if row[port] else None)


def check(case: str, row: Row, reading: Reading, client: Endpoint) -> None:
    """Stop where manifest and packets disagree."""
    assert reading.opener in (None, client), f"{case}: opened by {reading.opener}"
    refused = "rejects" in row["subtype"]  # the manifest's handshake_seen: "no", as it did not finish
    silent = any(
        word in row["subtype"] for word in ("no answer", "initiations only", "server silent", "dropped")
    )
    if silent:
        assert reading.phase == "attempt", f"{case}: {reading}"
    elif row["handshake_seen"] == "yes" or refused:
        assert reading.phase in ("handshake", "established"), f"{case}: {reading}"
    elif row["transport"] in ("udp", "tcp"):
        assert reading.phase == "data_only", f"{case}: {reading}"


def read_flow(row: Row, flow: Flow, flows: dict[FlowKey, Flow]) -> Reading:
    match row["protocol"], row["transport"]:
        case "wireguard", _:
            return read_wireguard(flow)
        case "openvpn", _:
            return read_openvpn(row, flow)
        case "ipsec", "udp":
            return read_ike(row, flow, flows)
        case "ipsec", "tcp":
            return read_ike_in_tcp(flow)
        case "ipsec", ("esp" | "ah"):
            return read_native(flow, flows)
    raise ValueError(row)


def read_wireguard(flow: Flow) -> Reading:
    """Messages by type and length (WireGuard whitepaper, 5.4.2 to 5.4.6)."""
    openings, answers, data, opener, proof = 0, 0, 0, None, False
    indices: Counter[bytes] = Counter()
    for packet in flow.packets:
        other = flow.key.low if packet.source == flow.key.high else flow.key.high
        match packet.payload[:4], packet.payload_length:
            case b"\x01\0\0\0", 148:
                openings += 1
                opener = opener or packet.source
                proof |= packet.payload[132:148] == bytes(16)
            case b"\x02\0\0\0", 92:
                answers += 1
                opener = opener or other
                proof |= packet.payload[76:92] == bytes(16)
            case b"\x03\0\0\0", 64:
                answers += 1
                opener = opener or other
            case b"\x04\0\0\0", _:
                data += 1
                indices[packet.payload[4:8]] += 1
    phase = phase_of(openings, answers, data)
    confirmed = proof or max(indices.values(), default=0) >= 3
    return Reading("standard", phase, "confirmed" if confirmed else "likely", opener)


def phase_of(openings: int, answers: int, data: int) -> str:
    """The rule for WireGuard and OpenVPN: `answers` are messages that can only follow an answer."""
    if data:
        return "established" if openings or answers else "data_only"
    return "handshake" if answers else "attempt"


def read_openvpn(row: Row, flow: Flow) -> Reading:
    """Messages by opcode (OpenVPN wire protocol, "Field: opcode")."""
    subtype = row["subtype"]
    named = ("tls-crypt-v2", "tls-crypt", "tls-auth")
    variant = next((name for name in named if name in subtype), "plain")
    openings, answers, data, opener = 0, 0, 0, None
    control: Counter[Endpoint] = Counter()
    data_run: Counter[tuple[Endpoint, bytes]] = Counter()
    lengths: set[int] = set()
    different: set[bytes] = set()
    client_resets: set[int] = set()
    server_reset = False
    for packet, message, length in openvpn_messages(flow):
        opcode = message[0] >> 3
        other = flow.key.low if packet.source == flow.key.high else flow.key.high
        if opcode in (7, 10):  # hard reset of the client, V2 and V3
            openings += 1
            opener = opener or packet.source
            client_resets.add(length if opcode == 7 else 0)
        elif opcode == 8:  # hard reset of the server
            answers += 1
            opener = opener or other
            server_reset = True
        elif opcode in (3, 4, 5, 11):  # soft reset, control, acknowledgement, control with wrapped key
            answers += 1
        elif opcode in (6, 9):
            data += 1
            data_run[packet.source, message[:4]] += 1
            lengths.add(length)
        else:
            raise ValueError(f"opcode {opcode} in packet {packet.number}")
        if opcode not in (6, 9) and message not in different:
            different.add(message)
            control[packet.source] += 1
    # Lengths by wrapping: fingerprints of the OpenVPN wire protocol; opcode 10 is tls-crypt-v2's own.
    legal = {"plain": {14}, "tls-auth": {42, 54, 86}, "tls-crypt": {54}, "tls-crypt-v2": {0}}
    assert client_resets <= legal[variant], f"{variant}: {client_resets}"
    if not openings and not answers:
        run = max(data_run.values())
        need = 8 if flow.key.transport == "TCP" else 12
        counted = "CBC" not in subtype  # CBC data has no counter in clear
        confirmed = counted and run >= need and len(lengths) >= 2
        return Reading("data", phase_of(0, 0, data), "confirmed" if confirmed else "likely", None)
    most = max(control.values())
    confirmed = most >= 2 or (variant in ("tls-auth", "tls-crypt-v2") and flow.key.transport == "UDP")
    confirmed |= variant == "plain" and server_reset and flow.key.transport == "UDP"
    return Reading(variant, phase_of(openings, answers, data), "confirmed" if confirmed else "likely", opener)


def openvpn_messages(flow: Flow) -> Iterator[tuple[Packet, bytes, int]]:
    """Each message, as far as captured, with its length and the packet that it begins in."""
    if flow.key.transport == "UDP":
        for packet in flow.packets:
            yield packet, packet.payload, packet.payload_length
        return
    for packet, record in records(flow, 0):
        yield packet, record, len(record)


def records(flow: Flow, counted: int, prefix: bytes = b"") -> Iterator[tuple[Packet, bytes]]:
    """Records of a TCP flow, without the u16 before each; `counted` of its own bytes are in its length.

    `prefix` is yielded by itself where a sender begins with it.
    """
    for sender in (flow.key.low, flow.key.high):
        segments: dict[int, Packet] = {}
        for packet in flow.packets:
            if packet.source == sender and packet.payload:
                segments.setdefault(packet.sequence or 0, packet)
        stream, expected = b"", None
        for sequence, packet in sorted(segments.items()):  # none of these streams wraps its numbers
            if sequence != expected:
                stream = b""  # after a gap, segments of these captures begin with a record
            stream += packet.payload
            expected = sequence + packet.payload_length
            if stream.startswith((b"CONNECT ", b"HTTP/1.")):  # to a proxy, and its answer, before the records
                stream = stream.partition(b"\r\n\r\n")[2]
            if prefix and stream.startswith(prefix):
                yield packet, prefix
                stream = stream[len(prefix) :]
            while len(stream) >= 2 and len(stream) >= 2 - counted + int.from_bytes(stream[:2]):
                end = 2 - counted + int.from_bytes(stream[:2])
                yield packet, stream[2:end]
                stream = stream[end:]


def ike_and_esp(flow: Flow) -> tuple[list[Ike], list[Packet]]:
    """IKE messages and ESP packets of a UDP flow (RFC 3948: marker before IKE, one byte ff to keep alive)."""
    messages, esp = [], []
    marker = b"" if 500 in (flow.key.low.port, flow.key.high.port) else bytes(4)
    for packet in flow.packets:
        if packet.payload_length == 1:
            continue
        if not packet.payload.startswith(marker):
            esp.append(packet)
            continue
        header = packet.payload[len(marker) :]
        length = packet.payload_length - len(marker)
        messages.append(ike_message(packet, header, length))
    return messages, esp


def ike_message(packet: Packet, header: bytes, length: int) -> Ike:
    assert int.from_bytes(header[24:28]) == length, f"packet {packet.number} is no IKE"
    version, exchange, flags = header[17] >> 4, header[18], header[19]
    answered = header[8:16] != bytes(8)
    v2 = version == 2
    return Ike(
        packet,
        version,
        exchange,
        bool(flags & 0x08) if v2 else not answered,
        bool(flags & 0x20) if v2 else answered,
        len(header) == length,
    )


def finished(messages: list[Ike], esp: list[Packet]) -> bool:
    """Whether something is there that only follows a finished IKE handshake.

    IKEv2: an answered IKE_AUTH (35), a later exchange. IKEv1: quick mode (32), transaction (6). Or ESP.
    """
    for message in messages:
        if message.version == 2 and (message.exchange > 35 or (message.exchange == 35 and message.response)):
            return True
        if message.version == 1 and message.exchange in (6, 32):
            return True
    return bool(esp)


def of_pair(flow: Flow, flows: dict[FlowKey, Flow]) -> list[Flow]:
    """All flows between the hosts of a flow."""
    hosts = (flow.key.low.address, flow.key.high.address)
    return [other for key, other in flows.items() if (key.low.address, key.high.address) == hosts]


def pair_finished(flow: Flow, flows: dict[FlowKey, Flow]) -> bool:
    """Whether an IKE handshake between these hosts, on whatever ports, has finished."""
    read = [ike_and_esp(other) for other in of_pair(flow, flows) if other.key.transport == "UDP"]
    messages = [message for found, _ in read for message in found]
    esp = [packet for _, found in read for packet in found]
    return bool(messages) and finished(messages, esp)


def read_ike(row: Row, flow: Flow, flows: dict[FlowKey, Flow]) -> Reading:
    messages, esp = ike_and_esp(flow)
    spis = Counter((packet.source, packet.payload[:4]) for packet in esp)
    if not messages:
        confirmed = max(spis.values()) >= 4
        return Reading("esp-in-udp", "data_only", "confirmed" if confirmed else "likely", None)
    [version] = {message.version for message in messages}
    assert f"IKEv{version}" in row["subtype"], row
    variant = f"ikev{version}" + ("+esp-in-udp" if esp else "")
    if pair_finished(flow, flows):
        phase = "established"
    elif any(message.response or message.exchange == 35 for message in messages):
        phase = "handshake"
    else:
        phase = "attempt"
    openers = {message.packet.source for message in messages if message.from_initiator}
    if not openers and version == 2:
        openers = {end for message in messages for end in (flow.key.low, flow.key.high)} - {
            message.packet.source for message in messages
        }
    if not openers:  # IKEv1 without its first message: the manifest knows
        openers = {endpoint(row, "client", "cport")}
    [opener] = openers
    confirmed = any(message.whole for message in messages)
    return Reading(variant, phase, "confirmed" if confirmed else "likely", opener)


def read_ike_in_tcp(flow: Flow) -> Reading:
    """RFC 9329: the originator begins with IKETCP; lengths include themselves; the marker before IKE."""
    messages, esp, opener = [], [], None
    for packet, record in records(flow, 2, b"IKETCP"):
        if record == b"IKETCP":
            opener = packet.source
        elif record.startswith(bytes(4)):
            messages.append(ike_message(packet, record[4:], len(record) - 4))
        else:
            esp.append(packet)
    phase = "established" if finished(messages, esp) else "handshake"
    [initiator] = {
        message.packet.source if message.from_initiator else message.packet.destination
        for message in messages
    }
    assert opener in (None, initiator)
    confirmed = bool(messages) and (opener is not None or len(messages) + len(esp) >= 12)
    return Reading("ike-in-tcp", phase, "confirmed" if confirmed else "likely", initiator)


def read_native(flow: Flow, flows: dict[FlowKey, Flow]) -> Reading:
    name = flow.key.transport.lower()
    spis = Counter((packet.source, packet.payload[:4]) for packet in flow.packets)
    confirmed = max(spis.values()) >= (3 if name == "esp" else 2)
    phase = "established" if pair_finished(flow, flows) else "data_only"
    return Reading(name, phase, "confirmed" if confirmed else "likely", None)


if __name__ == "__main__":
    main()
