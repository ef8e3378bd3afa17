"""The scorer of `make accuracy`, on tables made by hand."""

import csv
import struct
from ipaddress import ip_address
from pathlib import Path

import dpkt
import pytest

from bench.accuracy.findings import Finding, gather, ours
from bench.accuracy.frames import carries, count_frames
from bench.accuracy.peers import innermost_flow, parse_ndpi, parse_tshark, unpacked
from bench.accuracy.report import (
    PageError,
    compared_table,
    full_report,
    markdown,
    missed_table,
    replace_part,
    situation_table,
    update_page,
    variant_table,
)
from bench.accuracy.score import Count, score
from bench.accuracy.truth import Collection, FlowKey, Label, read_corpus, read_lab, read_pcaps

ROOT = Path(__file__).parents[1]

A, B, C = (FlowKey.of("udp", "192.0.2.1", port, "198.51.100.1", 1194) for port in (1001, 1002, 1003))
NATIVE = FlowKey.of("esp", "192.0.2.1", None, "198.51.100.1", "")
TCP = FlowKey.of("TCP", "192.0.2.1", 1001, "198.51.100.1", 443)

LAB_ROW = {
    "protocol": "openvpn",
    "transport": "udp",
    "client": "192.0.2.1",
    "server": "198.51.100.1",
    "cport": "1001",
    "sport": "1194",
    "direction_seen": "both",
    "handshake_seen": "yes",
    "encapsulation": "ethernet",
    "expected": "detect",
}
LAB: list[dict[str, str]] = [
    {"file": "a.pcap", "subtype": "UDP tls-crypt on 443/udp"},
    {
        "file": "a.pcap",
        "subtype": "UDP ta-sha1",
        "cport": "1002",
        "direction_seen": "c2s",
        "encapsulation": "gtp-u",
    },
    {"file": "b.pcap", "protocol": "openvpn-static", "cport": "1003", "expected": "not-detectable"},
    {
        "file": "c.pcap",
        "protocol": "ipsec",
        "subtype": "IKE + ESP in TCP (RFC 9329)",
        "transport": "tcp",
        "sport": "443",
    },
    {"file": "d.pcap", "protocol": "none", "subtype": "DNS", "expected": "none"},
    {
        "file": "e.pcap",
        "protocol": "ipsec",
        "subtype": "native ESP tunnel",
        "transport": "esp",
        "cport": "",
        "sport": "",
        "direction_seen": "s2c",
        "handshake_seen": "no",
    },
    {"file": "f.pcap", "subtype": "UDP plain TLS, client rejects the certificate", "handshake_seen": "no"},
    {
        "file": "f.pcap",
        "protocol": "ipsec",
        "subtype": "IKEv1 main mode PSK (IKE + ESP in UDP)",
        "cport": "1003",
    },
    {
        "file": "f.pcap",
        "protocol": "ipsec",
        "subtype": "ESP in UDP mid-flow (ESP in UDP only)",
        "cport": "1002",
        "handshake_seen": "no",
    },
]

CORPUS_ROW = {
    "repo": "o/r",
    "flow_proto": "udp",
    "src": "192.0.2.1",
    "sport": "1001",
    "dst": "198.51.100.1",
    "dport": "1194",
    "packets_in_flow": "3",
}
CORPUS: list[dict[str, str]] = [
    {"file_id": "f1", "truth": "wireguard", "subtype": "data-only", "vlan_or_tunnel": "vlan/vlan/pppoe"},
    {"file_id": "f1", "truth": "obfuscated", "sport": "1002"},
    {"file_id": "f2", "truth": "openvpn", "subtype": "udp-data-only-oneway", "vlan_or_tunnel": "vlan"},
    {
        "file_id": "f2",
        "truth": "ipsec",
        "subtype": "natt-ikev2",
        "sport": "1002",
        "vlan_or_tunnel": "fragN",
    },
    {"file_id": "f3", "truth": "malformed", "subtype": "ike"},
    {"file_id": "f3", "truth": "ipsec", "subtype": "esp", "flow_proto": "esp", "sport": "", "dport": ""},
    {"file_id": "f4", "truth": "none", "path": "x/four.pcap", "flow_proto": "", "src": "", "dst": ""},
]


def write_table(path: Path, usual: dict[str, str], table: list[dict[str, str]]) -> None:
    rows = [usual | row for row in table]
    names = sorted(set().union(*rows))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def label(key: FlowKey, protocol: str, **facts: object) -> Label:
    given = {"variant": "plain", "opening": True, "oneway": False, "packets": 30} | facts
    return Label("x.pcap", key, protocol, **given)  # type: ignore[arg-type]


def collection(*labels: Label, captures: tuple[str, ...] = ("x.pcap", "none.pcap")) -> Collection:
    return Collection("made", {name: Path(name) for name in captures}, labels, frozenset())


def found(key: FlowKey, protocol: str, confidence: str = "confirmed", **facts: object) -> Finding:
    return Finding("x.pcap", key, protocol, confidence, **facts)  # type: ignore[arg-type]


def write_pcap(path: Path, frames: list[bytes]) -> Path:
    with path.open("wb") as file:
        writer = dpkt.pcap.Writer(file)
        for number, frame in enumerate(frames):
            writer.writepkt(frame, ts=number)
    return path


def udp_frame(source: str, source_port: int, destination: str, port: int, before: bytes = b"") -> bytes:
    addresses = ip_address(source).packed + ip_address(destination).packed
    ip = bytes([0x45, 0]) + struct.pack(">HHHBBH", 32, 0, 0, 64, 17, 0) + addresses
    return before + ip + struct.pack(">HHHH", source_port, port, 12, 0) + b"data"


def test_a_flow_is_the_same_from_both_ends() -> None:
    assert FlowKey.of("UDP", "198.51.100.1", "1194", "192.0.2.1", "1001") == A
    assert A != B
    assert FlowKey.of("ESP", "198.51.100.1", 7, "192.0.2.1", 9) == NATIVE, "ESP has no ports"
    one = FlowKey.of("udp", "2001:db8:0:0::1", 5, "2001:db8::2", 6)
    assert one == FlowKey.of("udp", "2001:db8::2", 6, "2001:0db8::1", 5)
    assert str(one) == "UDP [2001:db8::1]:5, [2001:db8::2]:6"
    assert str(NATIVE) == "ESP 192.0.2.1, 198.51.100.1"


def test_found_missed_and_false_by_protocol_and_confidence() -> None:
    made = collection(label(A, "openvpn"), label(B, "wireguard"), label(NATIVE, "ipsec"))
    result = score(
        made,
        gather(
            [
                found(A, "openvpn", "likely"),
                found(B, "openvpn", "confirmed"),
                found(C, "ipsec", "likely"),
                found(NATIVE, "ipsec", "possible"),
            ]
        ),
    )
    assert result.count("openvpn", "likely") == Count(found=1, missed=0, false=1)
    assert result.count("wireguard", "likely") == Count(found=0, missed=1, false=0)
    assert result.count("ipsec", "likely") == Count(found=0, missed=1, false=1)
    assert result.count("openvpn", "confirmed") == Count(found=0, missed=1, false=1)
    assert result.count("ipsec", "confirmed") == Count(found=0, missed=1, false=0)
    assert result.count(None, "possible") == Count(found=2, missed=1, false=2)
    assert result.confusion("likely") == {
        ("openvpn", "openvpn"): 1,
        ("wireguard", "openvpn"): 1,
        ("ipsec", "none"): 1,
        ("none", "ipsec"): 1,
    }


def test_a_second_protocol_on_a_found_flow_is_false() -> None:
    result = score(
        collection(label(A, "openvpn")), gather([found(A, "openvpn"), found(A, "ipsec", "likely")])
    )
    assert result.count(None, "likely") == Count(found=1, missed=0, false=1)
    assert result.count(None, "confirmed") == Count(found=1, missed=0, false=0)


def test_the_same_flow_of_another_file_is_another_flow() -> None:
    elsewhere = Finding("none.pcap", A, "openvpn")
    result = score(collection(label(A, "openvpn")), gather([elsewhere]))
    assert result.count("openvpn", "likely") == Count(found=0, missed=1, false=1)


def test_strongest_finding_counts_and_packets_add_up() -> None:
    before = found(A, "openvpn", "confirmed", packets=5, evidence=(("x", 64),))
    after = found(A, "openvpn", "likely", packets=7)
    for order in ([before, after], [after, before]):
        merged = gather(order)["x.pcap", A]["openvpn"]
        assert (merged.confidence, merged.packets, merged.bits) == ("confirmed", 12, 64)


def test_what_counts_neither_way() -> None:
    made = Collection(
        "made",
        {name: Path(name) for name in ("x.pcap", "bad.pcap", "none.pcap")},
        (label(A, "openvpn"), Label("bad.pcap", A, "ipsec", "esp", False, False, 1)),
        left_out=frozenset({("x.pcap", B)}),
        malformed=frozenset({"bad.pcap"}),
    )
    findings = gather([found(A, "openvpn"), found(B, "wireguard"), Finding("bad.pcap", C, "ipsec")])
    result = score(made, findings)
    assert result.count(None, "possible") == Count(found=1, missed=0, false=0)
    assert made.without_vpn == 1


def test_manifest_of_the_lab(tmp_path: Path) -> None:
    write_table(tmp_path / "manifest.csv", LAB_ROW, LAB)
    (tmp_path / "pcaps").mkdir()
    for name in "abcdef":
        write_pcap(tmp_path / "pcaps" / f"{name}.pcap", [])
    up = udp_frame("192.0.2.1", 1001, "198.51.100.1", 1194, bytes(14))
    write_pcap(tmp_path / "pcaps" / "a.pcap", [up, up, udp_frame("198.51.100.1", 1194, "192.0.2.1", 1001)])
    lab = read_lab(tmp_path)
    labels = {(item.file, item.key): item for item in lab.labels}
    assert len(labels) == 7
    assert lab.left_out == {("b.pcap", C)}
    assert lab.without_vpn == 1
    first = labels["a.pcap", A]
    assert (first.variant, first.situation, first.packets) == ("tls-crypt", "handshake, both ways", 3)
    second = labels["a.pcap", B]
    assert (second.variant, second.situation) == ("tls-auth", "handshake, one way")
    assert labels["c.pcap", TCP].variant == "ike-in-tcp"
    assert (labels["e.pcap", NATIVE].variant, labels["e.pcap", NATIVE].situation) == (
        "esp",
        "mid-flow, one way",
    )
    assert (labels["f.pcap", A].variant, labels["f.pcap", A].situation) == ("plain", "handshake, both ways")
    assert labels["f.pcap", C].variant == "ikev1"
    assert (labels["f.pcap", B].variant, labels["f.pcap", B].situation) == (
        "esp-in-udp",
        "mid-flow, both ways",
    )


def test_labels_of_the_corpus(tmp_path: Path) -> None:
    write_table(tmp_path / "labels.csv", CORPUS_ROW, CORPUS)
    (tmp_path / "pcaps").mkdir()
    for name in ("f1__one", "f2__two", "f3__three", "f4__four", "f9__not_listed"):
        write_pcap(tmp_path / "pcaps" / f"{name}.pcap", [])
    corpus = read_corpus(tmp_path)
    assert sorted(corpus.captures) == ["f1", "f2", "f3", "f4"]
    assert corpus.malformed == {"f3"}
    assert corpus.left_out == {("f1", B)}
    assert corpus.without_vpn == 1
    assert corpus.origins["f4"] == "o/r x/four.pcap"
    labels = {(item.file, item.key): item for item in corpus.labels}
    assert (labels["f2", A].variant, labels["f2", A].situation) == ("data", "mid-flow, one way")
    assert labels["f2", B].variant == "ikev2"
    everything = gather([Finding("f3", A, "ipsec"), Finding("f1", A, "wireguard"), Finding("f4", A, "ipsec")])
    assert score(corpus, everything).count(None, "likely") == Count(found=1, missed=2, false=1)


def test_every_flow_of_pcaps_is_found_and_nothing_else() -> None:
    pcaps = read_pcaps(ROOT / "pcaps")
    result = score(pcaps, ours(pcaps.captures))
    assert result.count(None, "likely") == Count(len(pcaps.labels), missed=0, false=0)
    assert len(pcaps.labels) >= 99
    assert {item.label.variant for item in result.results if not item.variant_named} == set()
    assert all(item.right and item.right.packets == item.label.packets for item in result.results)


def test_why_a_flow_is_missed() -> None:
    made = collection(
        label(A, "openvpn", variant="data", packets=15),
        label(B, "openvpn", variant="data", packets=16),
        label(TCP, "ipsec", packets=1),
        label(NATIVE, "ipsec", variant="esp", packets=1),
    )
    reasons = {result.label.key: result.reason for result in score(made, {}).missed("likely")}
    assert reasons == {
        A: "shorter than the evidence model needs (16 packets)",
        B: "other",
        TCP: "other",
        NATIVE: "other",
    }


def test_lists_say_packets_and_evidence() -> None:
    made = collection(label(A, "openvpn", packets=19), label(B, "openvpn", packets=20), label(C, "wireguard"))
    findings = [
        found(A, "openvpn", "likely"),
        found(B, "openvpn", "likely", evidence=(("openvpn.control", 36), ("openvpn.ping_length", 8))),
        found(C, "wireguard", "possible", evidence=(("wireguard.response", 33),)),
        found(TCP, "openvpn", "likely", packets=4),
    ]
    result = score(made, gather(findings))
    assert [item.label.key for item in result.unconfirmed()] == [B]
    report = full_report([result])
    lines = [line for line in report.splitlines() if str(C) in line]
    assert len(lines) == 1
    assert " 30 " in lines[0]
    assert "wireguard possible, 33 bits: wireguard.response 33" in lines[0]
    assert "44 bits: openvpn.control 36, openvpn.ping_length 8" in report
    assert len([line for line in report.splitlines() if str(TCP) in line]) == 2, (
        "false at likely and at possible"
    )
    assert missed_table([score(collection(), {})]) == "None.\n"


def test_tables_by_variant_and_situation() -> None:
    made = collection(
        label(A, "openvpn", variant="tls-auth"),
        label(B, "openvpn", variant="tls-auth", oneway=True),
        label(C, "ipsec", variant="ikev2", opening=False),
    )
    findings = [
        found(A, "openvpn", variant="tls-auth"),
        found(B, "openvpn", "likely", variant="plain"),
        found(C, "ipsec", variant="ikev2+esp-in-udp"),
    ]
    result = [score(made, gather(findings))]
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in variant_table(result).splitlines()[2:]
    ]
    assert cells == [
        ["openvpn", "tls-auth", "2 (1) of 2", "1 of 2"],
        ["ipsec", "ikev2", "1 (1) of 1", "1 of 1"],
    ]
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in situation_table(result).splitlines()[2:]
    ]
    assert cells == [
        ["UDP", "handshake, both ways", "1 (1) of 1"],
        ["UDP", "handshake, one way", "1 (0) of 1"],
        ["UDP", "mid-flow, both ways", "1 (1) of 1"],
    ]
    row = compared_table([("this", result)]).splitlines()[2]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "made, 3 flows",
        "this",
        "0 of 0",
        "2 of 2",
        "1 of 1",
        "3 of 3",
        "100.0 %",
        "0",
    ]


def test_frames_are_counted_whatever_they_are_wrapped_in(tmp_path: Path) -> None:
    up = udp_frame("192.0.2.1", 1001, "198.51.100.1", 1194)
    options = up[:20] + b"\x94\x04\0\0" + up[20:]
    frames = [
        bytes(14) + up,
        b"any tunnel header" + up,
        bytes(14) + options,
        bytes(14) + udp_frame("198.51.100.1", 1194, "192.0.2.1", 1001),
        bytes(14) + udp_frame("192.0.2.1", 1002, "198.51.100.1", 1194),
        bytes(14) + up[:9] + bytes([50]) + up[10:],
    ]
    capture = write_pcap(tmp_path / "a.pcap", frames)
    assert count_frames(capture, [A, B, NATIVE]) == {A: (4, 1), B: (1, 0), NATIVE: (1, 0)}
    assert not carries(frames[0], "AH", NATIVE.low, NATIVE.high)
    (tmp_path / "none").write_bytes(b"no capture")
    assert count_frames(tmp_path / "none", [A]) == {A: (0, 0)}


def test_output_of_ndpi() -> None:
    head = (
        "#flow_id,protocol,first_seen,src_ip,src_port,dst_ip,dst_port,ndpi_proto,c_to_s_pkts,s_to_c_pkts,sni"
    )
    lines = [
        head,
        '0,17,1.0,192.0.2.1,1001,198.51.100.1,1194,OpenVPN,4,3,"half a quote',
        "1,50,1.0,198.51.100.1,0,192.0.2.1,0,IPsec,1,0,",
        "2,17,1.0,192.0.2.1,1002,198.51.100.1,1194,DTLS.WireGuard,1,0,",
        "3,6,1.0,192.0.2.1,1001,198.51.100.1,443,TLS.ProtonVPN,1,0,",
        "4,1,1.0,192.0.2.1,0,198.51.100.1,0,IPsec,1,0,",
        "rest of a name,",
    ]
    assert list(parse_ndpi("x.pcap", "\n".join(lines))) == [
        found(A, "openvpn", packets=7),
        found(NATIVE, "ipsec", packets=1),
        found(B, "wireguard", packets=1),
    ]


def tshark_line(
    layers: str, ip: str = "192.0.2.1;198.51.100.1", ip6: str = ";", udp: str = ";", tcp: str = ";"
) -> str:
    return "\t".join([layers, *ip.split(";"), *ip6.split(";"), *udp.split(";"), *tcp.split(";")])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (tshark_line("eth:ethertype:ip:udp:openvpn", udp="1001;1194"), (A, "openvpn")),
        (tshark_line("eth:ethertype:ip:udp:udpencap:esp", udp="1001;1194"), (A, "ipsec")),
        (tshark_line("eth:ethertype:ip:esp"), (NATIVE, "ipsec")),
        (
            tshark_line(
                "eth:ethertype:ip:udp:vxlan:eth:ethertype:ip:udp:wg",
                ip="203.0.113.1,192.0.2.1;203.0.113.2,198.51.100.1",
                udp="5000,1001;4789,1194",
            ),
            (A, "wireguard"),
        ),
        (
            tshark_line("eth:ethertype:ipv6:ip:tcp:openvpn", ip6="2001:db8::1;2001:db8::2", tcp="1001;443"),
            (TCP, "openvpn"),
        ),
        (
            tshark_line(
                "eth:ethertype:ip:ah:ip:udp:dns", ip="192.0.2.1,10.0.0.1;198.51.100.1,10.0.0.2", udp="9;53"
            ),
            (FlowKey.of("AH", "192.0.2.1", None, "198.51.100.1", None), "ipsec"),
        ),
        (tshark_line("eth:ethertype:ip:udp:openvpn:_ws.malformed", udp="1001;1194"), None),
        (
            tshark_line(
                "eth:ethertype:ip:icmp:ip:udp:wg", ip="1.1.1.1,192.0.2.1;2.2.2.2,198.51.100.1", udp="1;2"
            ),
            None,
        ),
        (tshark_line("eth:ethertype:ip:udp:dns", udp="1001;1194"), None),
    ],
)
def test_output_of_tshark(line: str, expected: tuple[FlowKey, str] | None) -> None:
    findings = list(parse_tshark("x.pcap", line + "\n"))
    assert findings == ([] if expected is None else [found(*expected, packets=1)])


def test_a_dissection_without_addresses_is_no_flow() -> None:
    assert innermost_flow(["eth", "udp", "wg"], {"udp.srcport": ["1"], "udp.dstport": ["2"]}) is None


def test_compressed_captures_are_unpacked_for_others(tmp_path: Path) -> None:
    for name in ("ikev2-oneway-c2s/capture.pcap.gz", "esp4-cbc-sha256/capture.pcap.zst"):
        plain = unpacked(ROOT / "pcaps" / name, tmp_path / "scratch")
        assert plain.read_bytes()[:4] == b"\xd4\xc3\xb2\xa1"
    plain = ROOT / "pcaps" / "wg-53" / "capture.pcap"
    assert unpacked(plain, tmp_path / "scratch") == plain


def test_only_the_part_between_its_markers_is_replaced(tmp_path: Path) -> None:
    text = "mine\n<!-- a: begin -->\nold\n<!-- a: end -->\nalso mine\n<!-- b: begin -->\n<!-- b: end -->\n"
    page = tmp_path / "page.md"
    page.write_text(text)
    update_page(page, {"a": "new\n"})
    wanted = text.replace("old\n", "\nnew\n\n")
    assert page.read_text() == wanted
    update_page(page, {"a": "new"})
    assert page.read_text() == wanted
    for broken in ("", "<!-- a: begin -->\n", "<!-- a: end -->\n<!-- a: begin -->\n", text + text):
        with pytest.raises(PageError, match="a: begin"):
            replace_part(broken, "a", "new")


def test_the_documentation_has_its_markers() -> None:
    page = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    for name in ("scores", "peers", "generators"):
        replace_part(page, name, "x")


def test_a_table_is_padded() -> None:
    assert markdown(["name", "n"], [["a", 1], ["long name", 100]]).splitlines() == [
        "| name      |   n |",
        "| --------- | --: |",
        "| a         |   1 |",
        "| long name | 100 |",
    ]
