"""Write the capture of ovpn-udp-epoch: OpenVPN's epoch data format, which the lab's version 2.6 did not have.

Made by scapy from openvpn-wire-protocol (OpenVPN/openvpn-rfc), "AEAD with extended packet id and epoch keys";
nothing of the classifier has a part in it. A client and a server in the middle of a session, as OpenVPN 2.7
sends them over UDP:

    48 | peer id 3 | epoch 2 | counter 6 | ciphertext | tag 16       (48: P_DATA_V2, key id 0)

Both directions count on their own, by one a packet. When the epoch rises, on the side that has used up its
key first and then on the other, the counter begins anew at 1. The ciphertext is as long as what it holds: a
keepalive is 16 bytes (44 in all), an inner packet its own length. Ciphertext and tag are random, from a fixed
seed, so each run writes the same bytes. Run it as `python pcaps/make_crafted.py`.
"""

import random
from dataclasses import dataclass
from pathlib import Path

from scapy.layers.inet import IP, UDP
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


def main() -> None:
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
    capture = Path(__file__).resolve().parent / "ovpn-udp-epoch" / "capture.pcap"
    capture.parent.mkdir(exist_ok=True)
    wrpcap(str(capture), packets, linktype=1)
    print(f"{len(packets)} packets, the last one {len(packets[-1][UDP].payload)} bytes of payload")


if __name__ == "__main__":
    main()
