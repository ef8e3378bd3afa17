"""What was scraped, as numbers, and what must hold of them at any time: the balance of DESIGN's counters."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

PREFIX = "vpn_classifier_"
Labels = tuple[tuple[str, str], ...]
Numbers = dict[tuple[str, Labels], float]


def numbers(text: str) -> Numbers:
    """Every sample: its name without the prefix, its labels in their order, and its value."""
    found: Numbers = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name.removeprefix(PREFIX), tuple(sorted(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def total(found: Numbers, name: str, **labels: str) -> float:
    """The sum of the series that have these labels; there must be one."""
    wanted = set(labels.items())
    values = [value for (key, given), value in found.items() if key == name and wanted <= set(given)]
    assert values, f"{name} {labels}: no such series"
    return sum(values)


def interfaces(found: Numbers) -> set[str]:
    return {dict(labels)["interface"] for name, labels in found if name == "interface_up"}


def balances(found: Numbers) -> None:
    """AssertionError when anything is missing."""
    packets = total(found, "packets_total")
    assert packets == total(found, "packets_decoded_total") + total(found, "packets_undecoded_total") + total(
        found, "packets_ignored_total"
    )
    assert total(found, "packets_decoded_total") == _sum(
        found,
        "packets_in_flows_total",
        "packets_without_flow_total",
        "fragments_unmatched_total",
        "fragments_waiting",
        "packets_refused_total",
    )
    delivered = 0.0
    for interface in interfaces(found):
        terms = [
            total(found, name, interface=interface)
            for name in (
                "capture_delivered_packets_total",
                "capture_ignored_packets_total",
                "capture_dropped_packets_total",
                "capture_waiting_packets",
            )
        ]
        assert min(terms) >= 0, terms
        assert total(found, "capture_received_packets_total", interface=interface) == sum(terms)
        delivered += terms[0] + terms[1]
    if interfaces(found):
        assert delivered == packets
    if any(name == "sink_taken_lines_total" for name, _ in found):
        assert total(found, "sink_taken_lines_total") == _sum(
            found, "sink_written_lines_total", "sink_lost_lines_total", "sink_queue_lines"
        )


def _sum(found: Numbers, *names: str) -> float:
    return sum(total(found, name) for name in names)


def names_of(found: Iterable[tuple[str, Labels]]) -> set[str]:
    return {name for name, _ in found}
