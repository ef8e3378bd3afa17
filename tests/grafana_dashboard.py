"""The dashboard of `deploy/grafana/`, as far as tests go: its panels, and what it asks Prometheus."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["dashboard", "expressions", "panels"]

Json = Mapping[str, Any]


def dashboard() -> Json:
    file = Path(__file__).parents[1] / "deploy" / "grafana" / "vpn-classifier.json"
    loaded: Json = json.loads(file.read_text())
    return loaded


def panels() -> list[Json]:
    """All that show something, without the rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Of panels and annotations, for every sensor and interface, with a window as Grafana would choose it."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    found += [annotation["expr"] for annotation in dashboard()["annotations"]["list"]]
    for variable, value in {"$instance": ".+", "$interface": ".+", "$__rate_interval": "1m"}.items():
        found = [text.replace(variable, value) for text in found]
    assert not [text for text in found if "$" in text]
    return found
