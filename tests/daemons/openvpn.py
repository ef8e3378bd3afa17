"""OpenVPN: over UDP with tls-crypt, or over TCP with plain TLS. Needs openvpn, and openssl for certificates.

The two ends know each other by the fingerprints of their certificates, so no authority is needed.
"""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from laboratory import Side, Tunnel, until_it_says

TOOLS = ("openvpn", "openssl")
PORTS = {"udp": 1194, "tcp": 443}


def open_tunnel(tunnel: Tunnel, place: Path, proto: str) -> None:
    """Both ends, until each says that it is connected or ready."""
    fingerprints = {side.name: _certificate(side, place) for side, _ in tunnel.sides()}
    common = [
        *(
            "--dev",
            f"ov-{tunnel.name}",
            "--dev-type",
            "tun",
            "--topology",
            "subnet",
            "--port",
            str(PORTS[proto]),
        ),
        *("--data-ciphers", "AES-256-GCM"),
    ]
    if proto == "udp":
        key = str(place / f"{tunnel.name}.tls-crypt")
        tunnel.server.namespace.run("openvpn", "--genkey", "tls-crypt", key)
        common += ["--tls-crypt", key]
    for here, there in tunnel.sides():
        if here is tunnel.server:
            own = [
                *("--local", here.address, "--proto", "udp4" if proto == "udp" else "tcp4-server"),
                *("--server", str(ip_network(f"{here.inner}/24", strict=False)[0]), "255.255.255.0"),
                *("--dh", "none", "--keepalive", "10", "60"),
            ]
        else:
            own = [
                *("--remote", there.address, "--proto", "udp4" if proto == "udp" else "tcp4-client"),
                *("--client", "--nobind"),
            ]
        log = place / f"{here.name}.log"
        program = here.namespace.start(
            *("openvpn", *common, *own, "--log", str(log), "--peer-fingerprint", fingerprints[there.name]),
            *("--cert", str(place / f"{here.name}.crt"), "--key", str(place / f"{here.name}.key")),
            stderr=place / f"{here.name}.stderr",
        )
        until_it_says("Initialization Sequence Completed", log, program)


def _certificate(side: Side, place: Path) -> str:
    """Make a key and a certificate; its fingerprint."""
    certificate = str(place / f"{side.name}.crt")
    side.namespace.run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"),
        *("-keyout", str(place / f"{side.name}.key"), "-out", certificate, "-days", "2"),
        *("-subj", f"/CN={side.name}"),
    )
    said = side.namespace.run("openssl", "x509", "-in", certificate, "-noout", "-fingerprint", "-sha256")
    return said.partition("=")[2].strip()
