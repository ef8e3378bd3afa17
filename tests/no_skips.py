"""A pytest plugin: a run in which a test was skipped, or was expected to fail, has not passed.

`make test` loads it with `-p tests.no_skips`; a test that cannot run here must be mended, not left out.
"""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn a passing exit status into a failing one when anything did not run to its end."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    left_out = sum(len(reporter.stats.get(outcome, ())) for outcome in ("skipped", "xfailed", "xpassed"))
    if left_out and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"\n{left_out} tests did not run to their end: see the summary", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
