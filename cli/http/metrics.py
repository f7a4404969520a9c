"""Figures for Prometheus: numbers only, no id of anything."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from expunge.evidence.ledger import left_of
from expunge.privacy.accountant import LedgerLimits
from expunge.state import State
from expunge.tickets.activity import LAST_BATCHES, LAST_TICKETS, count_near_deadline, read_durations
from expunge.tickets.figures import read_figures

_STAGE_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
_TICKET_S = (3600.0, 21600.0, 86400.0, 259200.0, 604800.0, 1209600.0, 2592000.0, 5184000.0)
_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class _Workspace(Collector):
    """Reads the workspace at every scrape: nothing is counted in this process, so restarts lose nothing."""

    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> list[Metric]:
        return [*self._counts(), *self._ledger(), *self._durations()]

    def _counts(self) -> list[Metric]:
        figures = read_figures(self._state.database)
        return [
            _gauges("tickets", "Tickets by state.", "state", figures.tickets),
            _gauges("batches", "Batches by stage.", "stage", figures.batches),
            _gauge("tickets_overdue", "Open tickets past their deadline.", figures.overdue),
            _gauge(
                "tickets_oldest_open_age_seconds", "Age of the oldest open ticket.", figures.oldest_open_s
            ),
            _gauges(
                "deadline_alarms",
                "Open tickets by the highest alarm that their deadline has reached; none while on hold.",
                "level",
                count_near_deadline(self._state.database),
            ),
        ]

    def _ledger(self) -> list[Metric]:
        entries = self._state.ledger.since_exact(self._state.lineage)
        left = left_of(entries, LedgerLimits(**self._state.policy.ledger.model_dump()))
        count = entries[-1].sequence + 1 if entries else 0
        return [
            _gauge("ledger_entries", "Entries of the ledger.", count),
            _gauge(
                "ledger_accumulated_error_left",
                "What policy leaves of the sequential error budget.",
                left.accumulated_error,
            ),
            _gauge(
                "ledger_composed_epsilon_left",
                "What policy leaves above the largest composed epsilon since the last exact training.",
                left.composed_epsilon,
            ),
            _gauge(
                "ledger_releases_left", "Releases that policy leaves before an exact training.", left.releases
            ),
        ]

    def _durations(self) -> list[Metric]:
        durations = read_durations(self._state.database)
        stages = GaugeHistogramMetricFamily(
            "expunge_batch_stage_seconds",
            f"Seconds of the last {LAST_BATCHES} closed batches by stage; no counter: use it without rate().",
            labels=["stage"],
        )
        for stage, seconds in sorted(durations.stages.items()):
            stages.add_metric([stage], _buckets(seconds, _STAGE_S), sum(seconds))
        last = f"of the last {LAST_TICKETS} closed tickets; no counter: use it without rate()."
        return [
            stages,
            GaugeHistogramMetricFamily(
                "expunge_ticket_close_seconds",
                f"Seconds from receipt to close {last}",
                buckets=_buckets(durations.tickets, _TICKET_S),
                gsum_value=sum(durations.tickets),
            ),
            GaugeHistogramMetricFamily(
                "expunge_ticket_deadline_ratio",
                f"Share of the time allowed from receipt to deadline that was used {last}",
                buckets=_buckets(durations.shares, _SHARES),
                gsum_value=sum(durations.shares),
            ),
        ]

    def describe(self) -> list[Metric]:
        """Nothing is read when it is registered.

        Returns:
            No metric.
        """
        return []


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"expunge_{name}", text, value=value)


def _gauges(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    made = GaugeMetricFamily(f"expunge_{name}", text, labels=[label])
    for key, count in values.items():
        made.add_metric([key], count)
    return made


def _buckets(values: Sequence[float], limits: Sequence[float]) -> list[tuple[str, float]]:
    found = [(f"{limit:g}", float(sum(value <= limit for value in values))) for limit in limits]
    return [*found, ("+Inf", float(len(values)))]


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
