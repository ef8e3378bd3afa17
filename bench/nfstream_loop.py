"""NFStream on one capture, in the leanest setting that still names protocols: one meter, no statistics."""

import sys

from nfstream import NFStreamer


def main(path: str) -> None:
    streamer = NFStreamer(
        source=path,
        n_meters=1,
        decode_tunnels=False,
        accounting_mode=1,
        statistical_analysis=False,
        splt_analysis=0,
    )
    flows = sum(1 for _ in streamer)
    print(f"{flows} flows")


if __name__ == "__main__":
    main(sys.argv[1])
