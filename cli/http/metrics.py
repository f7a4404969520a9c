"""Figures for Prometheus: numbers only, no id of anything."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from expunge.evidence.ledger import account_of
from expunge.state import State
from expunge.tickets.figures import read_figures


class _Workspace(Collector):
    """Reads the workspace at every scrape: nothing is counted in this process, so restarts lose nothing."""

    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> list[Metric]:
        figures = read_figures(self._state.database)
        entries = self._state.ledger.entries(self._state.lineage)
        account, limits = account_of(entries), self._state.policy.ledger
        tickets = GaugeMetricFamily("expunge_tickets", "Tickets by state.", labels=["state"])
        for name, count in figures.tickets.items():
            tickets.add_metric([name], count)
        batches = GaugeMetricFamily("expunge_batches", "Batches by stage.", labels=["stage"])
        for name, count in figures.batches.items():
            batches.add_metric([name], count)
        plain = [
            ("tickets_overdue", "Open tickets past their deadline.", figures.overdue),
            ("tickets_oldest_open_age_seconds", "Age of the oldest open ticket.", figures.oldest_open_s),
            ("ledger_entries", "Entries of the ledger.", len(entries)),
            (
                "ledger_accumulated_error_left",
                "What policy leaves of the sequential error budget.",
                limits.accumulated_error - account.accumulated_error,
            ),
            (
                "ledger_releases_left",
                "Releases that policy leaves before an exact training.",
                limits.releases - account.step,
            ),
        ]
        return [
            tickets,
            batches,
            *(GaugeMetricFamily(f"expunge_{name}", text, value=value) for name, text, value in plain),
        ]

    def describe(self) -> list[Metric]:
        """Nothing is read when it is registered.

        Returns:
            No metric.
        """
        return []


def render(state: State) -> bytes:
    """The figures in Prometheus' text format.

    Args:
        state: The workspace.

    Returns:
        Text in UTF-8.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Workspace(state))
    return generate_latest(registry)
