"""docs/metrics.md, made from the contract: `python tests/metric_table.py > docs/metrics.md`."""

from __future__ import annotations

from collections.abc import Iterator

from classifier.metrics.names import GROUPS, PREFIX, Metric, Where

HEAD = f"""\
# Metrics

`vpn-classifier watch --metrics 127.0.0.1:9469` offers them to Prometheus at `/metrics`; `--metrics-file
FILE.prom`, of `watch` and of `replay`, writes them for the textfile collector of node_exporter. All
names begin with `{PREFIX}`. This page is made from the contract in `classifier/metrics/names.py`
(`python tests/metric_table.py > docs/metrics.md`), and a test compares the two.

Every series below is there from the first scrape on, with 0, unless it says that there is none. No label
has a value that comes from the network: `interface` is what `-i` named, and all other lists are closed.
All numbers of a scrape are of one moment, so these hold in every scrape:

```
for each interface:
capture_received_packets_total  =  capture_delivered_packets_total  +  capture_ignored_packets_total
                                 + capture_dropped_packets_total  +  capture_waiting_packets
packets_total            =  packets_decoded_total  +  sum(packets_undecoded_total)
                          + sum(packets_ignored_total)
packets_decoded_total    =  packets_in_flows_total  +  sum(packets_without_flow_total)
                          + fragments_unmatched_total  +  fragments_waiting  +  packets_refused_total
packets_total            =  sum(capture_delivered_packets_total)  +  sum(capture_ignored_packets_total)
sink_taken_lines_total   =  sink_written_lines_total  +  sink_lost_lines_total  +  sink_queue_lines
```

On the page, but not in the file, are prometheus-client's `process_*` metrics: node_exporter has its own
of these names.

**Health.** `/-/healthy` is 200 as long as the run goes on, and 503 when its loop has not come by for ten
seconds. `/-/ready` is 200 while at least one interface is up and captured from, and 503 before that and
while the run is being stopped. A stale register is not unready: it is a metric. Anything else is 404.

**Who may look.** Nothing listens without `--metrics`. A port alone is that of loopback; `[::1]:9469` is
IPv6. Elsewhere, use `--metrics-cert` and `--metrics-key` (TLS 1.2 and newer), and `--metrics-client-ca`
to ask the scraper for a certificate. Whoever reaches the port costs the capture nothing: there are at
most 16 connections at a time, of which the oldest is cut when another one comes, none lasts longer than
ten seconds, and fifty a second are begun.

**The file** is replaced as a whole: by `watch` every 15 s, by `replay` at its end.
`run_end_timestamp_seconds` says when that was. One run for each node_exporter: two files with the same
series make it refuse both.
"""


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for title, metrics in GROUPS:
        lines += [f"## {title}", "", "| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
        lines += [f"| {' | '.join(_row(metric))} |" for metric in metrics]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _row(metric: Metric) -> Iterator[str]:
    yield f"`{metric.name}`"
    yield str(metric.type) + ("" if metric.where is Where.ALL else f", {metric.where} only")
    yield "; ".join(_labels(metric))
    yield metric.meaning


def _labels(metric: Metric) -> Iterator[str]:
    labels = list(metric.labels)
    if metric.by_interface:
        yield f"`{labels.pop(0)}`"
    for place, label in enumerate(labels):
        if metric.series is None:
            yield f"`{label}`"
            continue
        values = dict.fromkeys(series[place] for series in metric.series)
        yield f"`{label}`: " + " ".join(f"`{value}`" for value in values)


if __name__ == "__main__":
    print(page(), end="")
