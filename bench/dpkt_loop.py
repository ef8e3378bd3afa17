"""What the same counting costs in plain Python with dpkt: packets by direction-free five-tuple in a dict.

Prints its totals in the words of the floor program, so that the two can be compared.
"""

import sys

import dpkt


def main(path: str) -> None:
    flows: dict[tuple[object, ...], int] = {}
    packets = counted = 0
    with open(path, "rb") as capture:  # noqa: PTH123
        for _, frame in dpkt.pcap.Reader(capture):
            packets += 1
            packet = dpkt.ethernet.Ethernet(frame).data
            if not isinstance(packet, dpkt.ip.IP | dpkt.ip6.IP6):
                continue
            segment = packet.data
            ports = isinstance(segment, dpkt.udp.UDP | dpkt.tcp.TCP)
            source = (packet.src, segment.sport if ports else 0)
            destination = (packet.dst, segment.dport if ports else 0)
            # Behind ESP dpkt knows no next header, since that is encrypted, and then an IP6 has no `p`.
            protocol = getattr(packet, "p", dpkt.ip.IP_PROTO_ESP)
            key = (
                (source, destination, protocol) if source <= destination else (destination, source, protocol)
            )
            flows[key] = flows.get(key, 0) + 1
            counted += 1
    print(f"{packets} packets, {counted} with a five-tuple, {len(flows)} flows")


if __name__ == "__main__":
    main(sys.argv[1])
