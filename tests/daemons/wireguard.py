"""WireGuard by wireguard-go, a user-space program. Needs wireguard-go and wg (wireguard-tools)."""

from __future__ import annotations

from pathlib import Path

from laboratory import Side, Tunnel, until

TOOLS = ("wireguard-go", "wg")
PORT = 51820


def open_tunnel(tunnel: Tunnel, place: Path) -> None:
    """Both ends. The subscriber's opens a session when it has something to send, and not before."""
    device = f"wg-{tunnel.name}"
    public = {side.name: _start(side, device, place) for side, _ in tunnel.sides()}
    tunnel.server.namespace.run("wg", "set", device, "listen-port", str(PORT))
    for here, there in tunnel.sides():
        peer = ["peer", public[there.name], "allowed-ips", f"{there.inner}/32"]
        if here is tunnel.subscriber:
            peer += ["endpoint", f"{there.address}:{PORT}"]
        here.namespace.run("wg", "set", device, "private-key", str(_key(here, place)), *peer)
        here.namespace.run("ip", "address", "add", f"{here.inner}/32", "dev", device)
        here.namespace.run("ip", "link", "set", device, "up")
        here.namespace.run("ip", "route", "add", f"{there.inner}/32", "dev", device)


def _start(side: Side, device: str, place: Path) -> str:
    """Make a key and the device; the public key."""
    private = side.namespace.run("wg", "genkey")
    _key(side, place).touch(0o600)
    _key(side, place).write_text(private)
    side.namespace.start("wireguard-go", "-f", device, stderr=place / f"{side.name}.log")
    until(
        lambda: device in side.namespace.run("wg", "show", "interfaces").split(),
        f"wireguard-go ({place / side.name}.log)",
    )
    return side.namespace.run("wg", "pubkey", stdin=private).strip()


def _key(side: Side, place: Path) -> Path:
    return place / f"{side.name}.key"
