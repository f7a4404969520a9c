"""Streams of erasure requests from public seeds: when they arrive, who they are, how a policy puts them in batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Records
from expunge.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Opened:
    """One batch as a policy forms it.

    Args:
        at: Day on which it starts.
        requests: Their numbers, in order of arrival.
        why: "size" or "wait": which limit started it.
    """

    at: float
    requests: tuple[int, ...]
    why: str


def arrive(kind: str, requests: int, options: Mapping[str, float], seed: int) -> Floats:
    """Days on which requests arrive.

    ``poisson``: independent exponential gaps, ``per_day`` requests on average. ``bursty``: bursts of ``burst``
    requests within ``burst_hours`` each, the bursts themselves a Poisson process with the same average.

    Args:
        kind: poisson or bursty.
        requests: How many.
        options: As named above.
        seed: Public.

    Returns:
        Ascending, shape (requests,), in days.

    Raises:
        InputError: If the kind is unknown.
    """
    draw = np.random.default_rng([seed, requests])
    if kind == "poisson":
        return np.cumsum(draw.exponential(1 / options["per_day"], requests))
    if kind != "bursty":
        raise InputError("unknown arrivals", expected="poisson or bursty", got=kind)
    size = int(options["burst"])
    bursts = -(-requests // size)
    starts = np.cumsum(draw.exponential(size / options["per_day"], bursts))
    within = draw.uniform(0, options["burst_hours"] / 24, (bursts, size))
    return np.sort((starts[:, None] + within).reshape(-1)[:requests])


def form_batches(arrivals: Floats, minimum_size: int, maximum_wait_days: float) -> list[Opened]:
    """Batches of a policy: as soon as so many wait, or when the first of them has waited so long; all who wait go.

    Deadlines and holds are left out, and a batch may start while another is at work: it then queues.

    Args:
        arrivals: Ascending, in days.
        minimum_size: At least 1.
        maximum_wait_days: At least 0.

    Returns:
        Every request in exactly one batch, in order.

    Example:
        >>> [len(batch.requests) for batch in form_batches(np.array([0.0, 1.0, 9.0]), 2, 7)]
        [2, 1]
    """
    batches: list[Opened] = []
    waiting: list[int] = []
    for request, day in enumerate(arrivals):
        if waiting and day > arrivals[waiting[0]] + maximum_wait_days:
            batches.append(Opened(float(arrivals[waiting[0]] + maximum_wait_days), tuple(waiting), "wait"))
            waiting = []
        waiting.append(request)
        if len(waiting) >= minimum_size:
            batches.append(Opened(float(day), tuple(waiting), "size"))
            waiting = []
    if waiting:
        batches.append(Opened(float(arrivals[waiting[0]] + maximum_wait_days), tuple(waiting), "wait"))
    return batches


def choose_people(kind: str, data: Records, requests: int, seed: int, label: int = 0) -> list[Any]:
    """Who asks to be forgotten, in order; a request takes all of a person's records.

    ``uniform``: people drawn alike. ``class``: people whose first record has one label, as when a ward leaves
    together. ``person``: those with the most records first.

    Args:
        kind: uniform, class or person.
        data: The training records.
        requests: How many people.
        seed: Public.
        label: The class of ``class``.

    Returns:
        Ids of people.

    Raises:
        InputError: If the kind is unknown, or there are too few people.
    """
    people, first, counts = np.unique(data.subjects, return_index=True, return_counts=True)
    if kind == "class":
        people = people[data.labels.numpy()[first] == label]
    if len(people) < requests:
        raise InputError("too few people", expected=f"{requests} or more", got=str(len(people)))
    if kind == "person":
        return list(people[np.lexsort((people, -counts))][:requests])
    if kind not in ("uniform", "class"):
        raise InputError("unknown deletions", expected="uniform, class or person", got=kind)
    return list(np.random.default_rng([seed, 1]).choice(people, requests, replace=False))


def closed(opened: Sequence[Opened], seconds: Sequence[float]) -> Floats:
    """Days on which batches close, one after another: simulated arrivals, measured work.

    Args:
        opened: In order.
        seconds: Of work on each.

    Returns:
        Shape (batches,), in days.
    """
    ends = []
    free = 0.0
    for batch, work in zip(opened, seconds, strict=True):
        free = max(free, batch.at) + work / 86400
        ends.append(free)
    return np.array(ends)
