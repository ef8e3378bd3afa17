"""`vpn-classifier watch`, arguments and all, with tables of flows that a test can fill."""

import sys
from functools import partial

from classifier import _core
from classifier.cli import main

SMALLEST = 64  # one flow in each shard

if __name__ == "__main__":
    setattr(_core, "Engine", partial(_core.Engine, max_undecided=SMALLEST, max_recognised=SMALLEST))  # noqa: B010
    sys.argv[1:1] = ["watch"]
    main()
