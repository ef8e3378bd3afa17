"""Real VPN programs, one file each, all of one shape: `open_tunnel(tunnel, place)` starts both ends.

Keys, settings and logs are made in `place` when a tunnel is opened. That it is open is shown by what comes
back through it: `Network.talk`.
"""
