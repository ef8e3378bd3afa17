"""Runs one command and says on stderr, as JSON, what it took.

It stands between the benchmarks and what they measure, and is small on purpose: the kernel counts as a
process's own memory what its parent had when it was made, and the benchmarks have a lot.
"""

import json
import resource
import subprocess
import sys
import time


def main() -> None:
    began = time.monotonic()
    done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    wall_s = time.monotonic() - began
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": wall_s,
        "memory_mb": usage.ru_maxrss / 1024,
        "status": done.returncode,
    }
    print(json.dumps(took), file=sys.stderr)


if __name__ == "__main__":
    main()
