"""Register and policy read again while a run goes on.

`request` only sets a mark, so a signal handler may call it. `tick`, called from the loop of the run several
times a second, starts the reading in a thread of its own, so that no packet waits for it; what was read whole
goes to `Replay.reload`, which takes it between two polls. What is faulty goes to `Replay.refuse`, and all is
as it was.

The rule a reader would get wrong: asked for again while it reads, it reads once more afterwards, since the
files may have changed after they were read.
"""

from __future__ import annotations

import os
import threading

from classifier.errors import ClassifierError, FaultyFileError
from classifier.events import RegisterEvent
from classifier.pipeline import Replay, load_rules

__all__ = ["Reloader", "reload_text"]

_Path = str | os.PathLike[str] | None


class Reloader:
    """Reads what a run was started with once more, whenever it is asked to."""

    def __init__(self, run: Replay, rules: _Path, register: _Path, policy: _Path) -> None:
        self._run = run
        self._names = rules, register, policy
        self._wanted = False
        self._reading: threading.Thread | None = None

    def request(self) -> None:
        """Read again soon."""
        self._wanted = True

    def tick(self) -> None:
        """Begin to read if that was asked for and no reading is going on."""
        if self._wanted and (self._reading is None or not self._reading.is_alive()):
            self._wanted = False
            # A daemon, so that the end of the run does not wait for a register that nobody needs any more.
            self._reading = threading.Thread(target=self.read, name="reload", daemon=True)
            self._reading.start()

    def read(self) -> None:
        """Read now, and hand the outcome to the run."""
        try:
            self._run.reload(*load_rules(*self._names))
        except FaultyFileError as error:
            self._run.refuse([str(fault) for fault in error.faults])
        except (ClassifierError, OSError) as error:
            self._run.refuse([str(error)])
        except Exception as error:
            # In a thread nobody else would say it; its text could repeat a value of the register.
            self._run.refuse([f"an error of the program: {type(error).__name__}"])


def reload_text(event: RegisterEvent) -> str:
    """What the log says about it."""
    register = event["register"]
    in_force = (
        "no register"
        if register is None
        else f"register {register['source']}, serial {register['serial']}, {register['entries']:,} entries"
    )
    policy = f"policy {event['policy_hash'][:12] or 'none'}"
    if event["event"] == "loaded":
        return f"reload: {in_force}; {policy}"
    faults, found = event.get("faults", []), event.get("faults_found", 0)
    more = [f"and {found - len(faults)} more"] if found > len(faults) else []
    return "\n".join([f"reload refused, still in force: {in_force}; {policy}", *faults, *more])
