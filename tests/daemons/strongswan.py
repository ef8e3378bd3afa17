"""IKEv2 by strongSwan, with ESP by its own user-space library, so that no kernel has to know ESP.

Needs charon (strongswan-charon), its plugin kernel-libipsec (libcharon-extra-plugins) and swanctl
(strongswan-swanctl). That library always carries ESP in UDP: the tunnel moves from port 500 to 4500.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from laboratory import Tunnel, until_it_says

CHARON = "/usr/lib/ipsec/charon"
TOOLS = (CHARON, "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so", "swanctl")


def open_tunnel(tunnel: Tunnel, place: Path) -> None:
    """Both ends, until they have agreed on keys."""
    secret = secrets.token_hex()
    for here, there in tunnel.sides():
        settings, connection = place / f"{here.name}.strongswan.conf", place / f"{here.name}.swanctl.conf"
        log = place / f"{here.name}.log"
        settings.write_text(_SETTINGS.format(log=log))
        connection.touch(0o600)
        connection.write_text(_CONNECTION.format(here=here, there=there, secret=secret))
        here.namespace.run("ip", "address", "add", f"{here.inner}/32", "dev", "lo")
        program = here.namespace.start(
            *("env", f"STRONGSWAN_CONF={settings}", CHARON), stderr=place / f"{here.name}.stderr"
        )
        until_it_says("spawning", log, program)
        here.namespace.run(*_swanctl(settings), "--load-all", "--file", str(connection))
    tunnel.subscriber.namespace.run(*_swanctl(settings), "--initiate", "--child", "inner")


def _swanctl(settings: Path) -> tuple[str, ...]:
    return "env", f"STRONGSWAN_CONF={settings}", "swanctl"


_SETTINGS = """
charon {{
    load = random nonce aes sha1 sha2 hmac kdf gmp vici kernel-libipsec kernel-netlink socket-default
    plugins {{
        kernel-libipsec {{
            load = yes
        }}
    }}
    filelog {{
        all {{
            path = {log}
            flush_line = yes
        }}
    }}
}}
"""

_CONNECTION = """
connections {{
    tunnel {{
        version = 2
        local_addrs = {here.address}
        remote_addrs = {there.address}
        proposals = aes128-sha256-modp2048
        local {{
            auth = psk
            id = {here.address}
        }}
        remote {{
            auth = psk
            id = {there.address}
        }}
        children {{
            inner {{
                local_ts = {here.inner}/32
                remote_ts = {there.inner}/32
                esp_proposals = aes128-sha256
            }}
        }}
    }}
}}
secrets {{
    ike-1 {{
        secret = "{secret}"
    }}
}}
"""
