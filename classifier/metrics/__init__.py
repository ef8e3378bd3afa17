"""What a run counts, for Prometheus: on a page (`server`) and in a file (`textfile`).

    Reporter ──▶ tally ─┐                       ┌─▶ server     /metrics, /-/healthy, /-/ready
    engine, sinks ──────┴▶ meter ──▶ collector ─┴─▶ textfile   --metrics-file
                                     names: the contract

The run is read between two polls (`meter`), when somebody asks; `names` is the table of all metrics, from
which docs/metrics.md is made.
"""
