"""What `import classifier` offers."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import classifier
from classifier import errors

ROOT = Path(classifier.__file__).parent


def test_all_is_what_can_be_imported() -> None:
    assert list(classifier.__all__) == sorted(classifier.__all__)
    for name in classifier.__all__:
        assert hasattr(classifier, name), name
    public = {
        name
        for name, value in vars(classifier).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(classifier.__all__) - {"__version__"}


def test_every_error_is_offered() -> None:
    assert set(errors.__all__) <= set(classifier.__all__)
    assert issubclass(classifier.InputError, classifier.ClassifierError)


def test_everything_offered_is_documented() -> None:
    for name in classifier.__all__:
        if name not in ("__version__", "Event"):
            assert inspect.getdoc(getattr(classifier, name)), name


def test_every_argument_of_replay_is_documented() -> None:
    documentation = inspect.getdoc(classifier.replay) or ""
    for name in inspect.signature(classifier.replay).parameters:
        assert f"`{name}`" in documentation, name


def test_it_is_typed_and_brings_its_schema() -> None:
    assert (ROOT / "py.typed").exists()
    assert (ROOT / "event.schema.json").exists()


def test_the_example_at_the_top_runs() -> None:
    example = inspect.getdoc(classifier)
    assert example is not None
    code = "\n".join(line[4:] for line in example.splitlines() if line.startswith("    "))
    code = code.replace('"capture.pcap", rules="rules/"', "[]")
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
