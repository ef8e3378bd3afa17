"""Write the captures that no daemon of the lab has sent: `python pcaps/make_crafted.py`.

Made by scapy from the specifications; nothing of the classifier has a part in it. All randomness is seeded,
so each run writes the same bytes.

ovpn-udp-epoch: OpenVPN's epoch data format, which the lab's version 2.6 did not have. From
openvpn-wire-protocol (OpenVPN/openvpn-rfc), "AEAD with extended packet id and epoch keys": a client and a
server in the middle of a session, as OpenVPN 2.7 sends them over UDP:

    48 | peer id 3 | epoch 2 | counter 6 | ciphertext | tag 16       (48: P_DATA_V2, key id 0)

Both directions count on their own, by one a packet. When the epoch rises, on the side that has used up its
key first and then on the other, the counter begins anew at 1. The ciphertext is as long as what it holds: a
keepalive is 16 bytes (44 in all), an inner packet its own length. Ciphertext and tag are random.

ikev1-l2tp-windows: IKEv1 main mode with the vendor ids of Windows (RFC 2408, 2409, 3947; a vendor id is the
MD5 of its text), which has IKEv1 for L2TP alone, then quick mode and ESP on port 4500.
"""

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

from scapy.layers.inet import IP, UDP
from scapy.layers.isakmp import (
    ISAKMP,
    ISAKMP_payload_Proposal,
    ISAKMP_payload_SA,
    ISAKMP_payload_Transform,
    ISAKMP_payload_VendorID,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import wrpcap

DATA_V2_KEY_0 = b"\x48"
PEER_ID = bytes(3)  # the first client of a server
KEEPALIVE = 16
TAG = 16
# Lengths of inner packets, client and server in turn: echo request and reply, a download, its
# acknowledgments, a keepalive of each side, a call.
TALK = [(84, 84)] * 4 + [(60, 60), (52, 0)] + [(52, 1400), (52, 1400), (0, 1276)] * 5
TALK += [(KEEPALIVE, KEEPALIVE)] + [(200, 200), (200, 172)] * 6 + [(KEEPALIVE, KEEPALIVE), (84, 84), (84, 84)]
NEXT_EPOCH = 30  # the turn in which the epoch rises


@dataclass(slots=True)
class Side:
    """One end: the headers of its packets, and what it has counted."""

    headers: Packet
    seeded: random.Random
    counter: int
    epoch: int = 1

    def packet(self, inner: int, time: float) -> Packet:
        self.counter += 1
        packet_id = self.epoch.to_bytes(2) + self.counter.to_bytes(6)
        payload = DATA_V2_KEY_0 + PEER_ID + packet_id + self.seeded.randbytes(inner + TAG)
        packet = self.headers.copy() / Raw(payload)
        packet.time = time
        return packet

    def begin_epoch(self) -> None:
        self.epoch, self.counter = self.epoch + 1, 0


def epoch() -> None:
    seeded = random.Random("ovpn-udp-epoch")
    near, far = "02:00:5e:00:53:01", "02:00:5e:00:53:02"
    inside, outside, port, server_port = "198.51.100.112", "203.0.113.194", 51713, 1194
    upwards = (
        Ether(src=near, dst=far) / IP(src=inside, dst=outside, ttl=63) / UDP(sport=port, dport=server_port)
    )
    downwards = (
        Ether(src=far, dst=near) / IP(src=outside, dst=inside, ttl=62) / UDP(sport=server_port, dport=port)
    )
    client, server = Side(upwards, seeded, 71_204), Side(downwards, seeded, 94_377)
    packets, time = [], 1_795_330_000.0
    for turn, (sent, answered) in enumerate(TALK):
        if turn == NEXT_EPOCH:
            client.begin_epoch()
        if sent:
            packets.append(client.packet(sent, time))
        if turn == NEXT_EPOCH:
            server.begin_epoch()
        if answered:
            packets.append(server.packet(answered, time + 0.02))
        time += 10 if KEEPALIVE in (sent, answered) else 0.25
    write("ovpn-udp-epoch", packets)


def write(case: str, packets: list[Packet]) -> None:
    capture = Path(__file__).resolve().parent / case / "capture.pcap"
    capture.parent.mkdir(exist_ok=True)
    wrpcap(str(capture), packets, linktype=1)
    print(f"{case}: {len(packets)} packets")


def vendor_id(text: str, version: bytes = b"") -> ISAKMP_payload_VendorID:
    return ISAKMP_payload_VendorID(VendorID=hashlib.md5(text.encode()).digest() + version)


def l2tp_windows() -> None:
    seeded = random.Random("ikev1-l2tp-windows")
    near, far = "02:00:5e:00:53:03", "02:00:5e:00:53:04"
    client, server = "198.51.100.113", "203.0.113.171"
    cookies = seeded.randbytes(8), seeded.randbytes(8)
    packets: list[Packet] = []

    def send(upwards: bool, port: int, payload: bytes, checksum: int | None = None) -> None:
        ends = (client, server) if upwards else (server, client)
        macs = (near, far) if upwards else (far, near)
        frame = Ether(src=macs[0], dst=macs[1]) / IP(src=ends[0], dst=ends[1], ttl=63)
        packet = frame / UDP(sport=port, dport=port, chksum=checksum) / Raw(payload)
        packet.time = 1_795_331_000.0 + 0.015 * len(packets)
        packets.append(packet)

    def ike(body: Packet | bytes, first: int, *, answered: bool = True, **header: int) -> bytes:
        return bytes(
            ISAKMP(
                init_cookie=cookies[0],
                resp_cookie=cookies[1] if answered else bytes(8),
                next_payload=first,
                **header,
            )
            / body
        )

    proposal = ISAKMP_payload_SA(
        prop=ISAKMP_payload_Proposal(
            trans_nb=1,
            trans=ISAKMP_payload_Transform(
                transforms=[
                    ("Encryption", "AES-CBC"),
                    ("KeyLength", 256),
                    ("Hash", "SHA"),
                    ("GroupDesc", "2048MODPgr"),
                    ("Authentication", "PSK"),
                    ("LifeType", "Seconds"),
                    ("LifeDuration", 28_800),
                ]
            ),
        )
    )
    windows = vendor_id("MS NT5 ISAKMPOAKLEY", bytes([0, 0, 0, 9]))
    traversal, fragments = vendor_id("RFC 3947"), vendor_id("FRAGMENTATION")
    main_mode, quick_mode, encrypted = 2, 32, 1
    send(True, 500, ike(proposal / windows / traversal / fragments, 1, answered=False, exch_type=main_mode))
    send(False, 500, ike(proposal / traversal / fragments, 1, exch_type=main_mode))
    for upwards in (True, False):
        # Key exchange (4), nonce (10), two NAT-D (20): generic headers and random contents.
        sizes = [(10, 256), (20, 48), (20, 20), (0, 20)]
        body = b"".join(
            bytes([then, 0]) + (4 + size).to_bytes(2) + seeded.randbytes(size) for then, size in sizes
        )
        send(upwards, 500, ike(body, 4, exch_type=main_mode))
    message = seeded.getrandbits(32)
    for exchange, number, size, turns in ((main_mode, 0, 48, 2), (quick_mode, message, 160, 3)):
        for turn in range(turns):
            body = seeded.randbytes(size if turn < 2 else 32)
            first = 5 if exchange == main_mode else 8
            flags = {"exch_type": exchange, "flags": encrypted, "id": number}
            send(turn % 2 == 0, 4500, bytes(4) + ike(body, first, **flags))
    spis = seeded.randbytes(4), seeded.randbytes(4)
    # L2TP's control connection, then PPP: AES-CBC with SHA1 in transport mode.
    for number, blocks in enumerate([9, 8, 3, 4, 4, 3, 6, 6, 5, 20, 60, 80, 6, 40, 3, 6], 1):
        for side, upwards in enumerate((True, False)):
            body = seeded.randbytes(16 + 16 * blocks + 12)
            send(upwards, 4500, spis[side] + number.to_bytes(4) + body, checksum=0)
    write("ikev1-l2tp-windows", packets)


if __name__ == "__main__":
    epoch()
    l2tp_windows()
