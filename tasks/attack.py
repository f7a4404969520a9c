"""The attack of every release: whether the people who leave can still be told, before anything is certified.

The forget set is read from the dataset version before the removal, which the purge has not destroyed yet, into memory
alone. What the attack finds is sealed; outside the annex there is only which gates were passed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from expunge.attacks.difference import DifferenceResult, rank_forgotten
from expunge.attacks.empirical_epsilon import EmpiricalEpsilon
from expunge.attacks.lira import likelihood_ratios
from expunge.attacks.report import AttackReport
from expunge.attacks.result import attack_result
from expunge.attacks.scores import logit_confidence
from expunge.attacks.shadows import plan_shadows, score_models, train_shadows
from expunge.datasets.partitions import rows_in
from expunge.datasets.poor import people_in_both_splits
from expunge.datasets.preprocessing import encode
from expunge.devices import device_in_use
from expunge.errors import GateError, NotConvergedError
from expunge.evidence.annex import ATTACK_GATES
from expunge.gates.contradiction import lowest_epsilon
from expunge.gates.membership import Membership, alarms, membership
from expunge.models.serving import SavedModel
from expunge.settings import AttacksPolicy
from expunge.state import State
from expunge.tickets.batches import Batch
from tasks.adapters import access
from tasks.adapters.checkouts import objects_named

MEMBERSHIP_GATE, SERVED_GATE, SHADOW_GATE = ATTACK_GATES
RETAINED_GATE = "exposure of retained people"
_SEED = 0  # public: which never-trained rows are looked at, which half sets thresholds
_MOST = 1e9
_FEWEST = 4  # never-trained people, that an attack is worth reporting of


@dataclass(frozen=True)
class Attacked:
    """What came of the attacks on one release.

    Args:
        gates: ``{name, passed, limit}`` of each that was applied; public.
        sealed: Everything else; for the annex.
        contradicted: Whether an attack cannot be, if the certificate is true.
    """

    gates: list[dict[str, Any]]
    sealed: dict[str, Any]
    contradicted: bool


@dataclass(frozen=True)
class _Rows:
    """Rows of forgotten people, then of never-trained ones."""

    frame: pd.DataFrame
    forgotten: NDArray[np.bool_]
    labels: NDArray[np.int64]

    def compare(self, scores: NDArray[np.float64]) -> Membership:
        return membership(scores, self.labels, list(self.frame["subject_id"]), self.forgotten)


def attack(
    state: State, batch: Batch, frame: pd.DataFrame, released: SavedModel, parent: SavedModel
) -> Attacked:
    """Attack a release, and decide by policy.

    Args:
        state: The workspace.
        batch: With its release.
        frame: The dataset after the removal.
        released: As read from the files that will be registered.
        parent: The model before it, which shows how strong the attack is.

    Returns:
        Gates, what is sealed, and whether the certificate is contradicted.

    Raises:
        GateError: If the forget set cannot be read.
    """
    policy, exact = state.policy.attacks, batch.data["release"]["guarantee"] == "exact"
    if not policy.population.enabled:
        return Attacked(
            [], {"attacked": False, "why": "attacks.population is not enabled in policy.yaml"}, False
        )
    fresh = _never_trained(frame, policy.population.max_rows)
    leave = _forget_set(state, batch)
    if _split_by_row(frame) or _split_by_row(leave):
        why = "some people have rows in both splits: nobody among the never-trained is like them, and no test is exact"
        return Attacked([], {"attacked": False, "why": why}, False)
    forgotten = leave if leave.empty else leave[leave["split"] == "train"]
    others = fresh["subject_id"].nunique()
    names = [
        MEMBERSHIP_GATE,
        *([SERVED_GATE] if policy.served else ()),
        *([SHADOW_GATE] if policy.shadows.count else ()),
    ]
    # all together raise a false alarm no more often than policy accepts
    level = policy.false_alarm / len(names)
    too_few = others < _FEWEST
    stays = None if too_few else _retained(frame, fresh, released)
    about_stays = (
        [_retained_gate(stays, policy.retained.max_auc)]
        if policy.retained.max_auc is not None and stays is not None and not exact
        else []
    )
    if forgotten.empty or too_few:
        why = "no row of theirs was trained on" if forgotten.empty else "too few people were never trained on"
        return Attacked(about_stays, {"attacked": False, "why": why}, False)
    rows = _rows(forgotten, fresh, released)
    logits, before = _logits(released, rows.frame), _logits(parent, rows.frame)
    scores = {MEMBERSHIP_GATE: logit_confidence(logits, rows.labels)}
    if policy.served:
        scores[SERVED_GATE] = _as_served(released, rows)
    if policy.shadows.count:
        scores[SHADOW_GATE] = _by_shadows(policy, frame, rows, released, logits)
    found = {name: rows.compare(values) for name, values in scores.items()}
    told = {name: alarms(one, level=level, margin=policy.population.margin) for name, one in found.items()}
    bounds = _bounds(found, batch, policy.contradiction.confidence)
    contradicting = {name: bound.contradicts for name, bound in bounds.items()}
    # a contradiction stops the release even where the difference is too small to matter
    gates = [
        _gate(name, found[name], not (told[name] or contradicting[name]), level, policy)
        for name in names
        if not exact
    ]
    sealed = {
        "attacked": True,
        "enforced": not exact,
        "level": level,
        "margin": policy.population.margin,
        "gates": {
            name: {**one.to_json(), "alarm": told[name], "contradicts": contradicting[name]}
            for name, one in found.items()
        },
        "parent": rows.compare(logit_confidence(before, rows.labels)).to_json(),
        "retained": stays.to_json() if stays is not None else None,
        "people": _people(state, rows, scores[MEMBERSHIP_GATE]),
        "report": _report(rows, scores, bounds, _difference(rows, logits, before)).sealed(),
    }
    return Attacked([*gates, *about_stays], sealed, any(contradicting.values()))


def _bounds(found: dict[str, Membership], batch: Batch, confidence: float) -> dict[str, EmpiricalEpsilon]:
    """What each attack proves of epsilon, beside the certificate; retraining states none that could be refuted."""
    release = batch.data["release"]
    certified = None if release["guarantee"] == "exact" else release["epsilon"]
    return {
        name: EmpiricalEpsilon(
            # as many chances as there are attacks
            lowest_epsilon(min(1.0, one.p_value * len(found)), release["delta"], confidence) or 0.0,
            release["delta"],
            confidence,
            f"{name}: exact rank test of one release, people taken to be alike",
            certified,
        )
        for name, one in found.items()
    }


def _report(
    rows: _Rows,
    scores: dict[str, NDArray[np.float64]],
    bounds: dict[str, EmpiricalEpsilon],
    difference: DifferenceResult,
) -> AttackReport:
    """Curves, lower bounds on epsilon and the difference of the two versions, for the annex."""
    return AttackReport(
        forgotten=tuple(
            attack_result(name, values[rows.forgotten], values[~rows.forgotten], seed=_SEED)
            for name, values in scores.items()
        ),
        epsilon=tuple(bounds.values()),
        difference=(difference,),
    )


def _logits(model: SavedModel, frame: pd.DataFrame) -> NDArray[np.float64]:
    with device_in_use() as device:
        return np.asarray(model.logits(frame, device).numpy(), dtype=np.float64)


def _forget_set(state: State, batch: Batch) -> pd.DataFrame:
    """Rows of the people who leave, from the version before the removal; never written anywhere."""
    repo, md5 = access.repository(state), batch.data["before"]["md5"]
    paths = objects_named(repo, md5, batch.data["partitions"])
    if paths is None:
        raise GateError(
            "the forget set cannot be read any more, and no attack can be made",
            expected=f"dataset version {md5} in the cache or the remote, until this batch's purge",
            got="objects that are gone",
            remedy="`dvc fetch` them; or set attacks.population.enabled to false in policy.yaml, which the certificate "
            "then shows: it names no such gate",
        )
    return (
        rows_in(paths, state.tickets.subject_ids(batch.batch_id), state.contract.identity)
        if paths
        else pd.DataFrame()
    )


def _split_by_row(frame: pd.DataFrame) -> bool:
    """Whether anybody has training rows and test rows: those of whom both are seen are unlike those of one."""
    return not frame.empty and people_in_both_splits(frame) > 0


def _never_trained(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """Test rows of people without a training row, whole people as long as there is room."""
    trained = frame.loc[frame["split"] == "train", "subject_id"].unique()
    rows = frame[(frame["split"] == "test") & ~frame["subject_id"].isin(trained)]
    return _sample(rows, most)


def _sample(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """Rows of some people, drawn by position, of nobody with more rows than there is room for."""
    if len(rows) <= most:
        return rows
    people = rows["subject_id"].unique()
    drawn = pd.Series(np.random.default_rng(_SEED).permutation(people))
    sizes = drawn.map(rows["subject_id"].value_counts())
    drawn, sizes = drawn[sizes <= most], sizes[sizes <= most]
    return rows[rows["subject_id"].isin(drawn[sizes.cumsum() <= most])]


def _rows(forgotten: pd.DataFrame, fresh: pd.DataFrame, model: SavedModel) -> _Rows:
    frame = pd.concat([forgotten, fresh], ignore_index=True)
    mask = np.arange(len(frame)) < len(forgotten)
    return _Rows(frame, mask, encode(frame, model.preprocessing).labels)


def _as_served(model: SavedModel, rows: _Rows) -> NDArray[np.float64]:
    """The same statistic from what a caller gets: probabilities of the served interface, in single precision."""
    answer = model.predict(rows.frame)
    columns = [f"p_{name}" for name in model.preprocessing.classes]
    likely = answer[columns].to_numpy(dtype=np.float32).astype(np.float64)
    tiny = float(np.finfo(np.float32).tiny)
    return logit_confidence(np.log(np.maximum(likely, tiny)), rows.labels)


def _by_shadows(
    policy: AttacksPolicy, frame: pd.DataFrame, rows: _Rows, model: SavedModel, logits: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How unusual each row is among models that saw neither it nor any of the people compared."""
    train = frame[frame["split"] == "train"]
    encoded, asked = encode(train, model.preprocessing), encode(rows.frame, model.preprocessing)
    count = policy.shadows.count + policy.shadows.count % 2
    plan = plan_shadows(model.spec, len(train), count, seed=_SEED, people=list(train["subject_id"]))
    features, labels = torch.from_numpy(encoded.features), torch.from_numpy(encoded.labels)
    try:
        weights = train_shadows(
            plan, features, labels, search=model.search
        )  # in memory alone: nothing to purge
    except NotConvergedError as error:
        raise GateError(
            "shadow models cannot be trained, and the attack that policy asks for cannot be made",
            expected="models that converge on half of the retain set",
            got=error.message,
            remedy="set attacks.shadows.count to 0 in policy.yaml and run again (the certificate names no such gate), "
            "or raise training.l2 in params.yaml and train anew",
        ) from error
    shadows = score_models(
        plan, weights, torch.from_numpy(asked.features), asked.labels, search=model.search
    ).logit_confidence
    never = np.zeros(shadows.shape, dtype=bool)
    ratios = likelihood_ratios(
        logit_confidence(logits, rows.labels), shadows, never, online=False, variance="record"
    )
    return np.minimum(ratios, _MOST)  # JSON has no infinity


def _retained(frame: pd.DataFrame, fresh: pd.DataFrame, model: SavedModel) -> Membership | None:
    """How well people who stay are told from never-trained ones, of whom there are as many: they are in the model."""
    train = _sample(frame[frame["split"] == "train"], len(fresh))
    if train.empty:
        return None
    rows = _rows(train, fresh, model)
    return rows.compare(logit_confidence(_logits(model, rows.frame), rows.labels))


def _difference(rows: _Rows, logits: NDArray[np.float64], before: NDArray[np.float64]) -> DifferenceResult:
    """What whoever kept the parent sees: whose rows lost most from one version to the next."""
    lost = logit_confidence(before, rows.labels) - logit_confidence(logits, rows.labels)
    return rank_forgotten(lost, [int(place) for place in np.flatnonzero(rows.forgotten)])


def _people(state: State, rows: _Rows, scores: NDArray[np.float64]) -> list[dict[str, Any]]:
    """The score of each person who leaves, by pseudonym, the highest first."""
    own = rows.frame[rows.forgotten].assign(score=scores[rows.forgotten])
    means = own.groupby("subject_id")["score"].agg(["mean", "max", "size"])
    found = [
        {
            "person": state.pseudonymiser.of(str(name)),
            "mean": float(row["mean"]),
            "highest": float(row["max"]),
            "rows": int(row["size"]),
        }
        for name, row in means.iterrows()
    ]
    return sorted(found, key=lambda person: -person["mean"])


def _gate(name: str, found: Membership, passed: bool, level: float, policy: AttacksPolicy) -> dict[str, Any]:
    """Public: it tells how many of those who leave were trained on, as every certificate's scope says."""
    few = " and could not fail with so few" if found.smallest > level else ""
    limit = (
        f"area under the curve less than {policy.population.margin:g} from 0.5, or two-sided rank test above "
        f"{level:.2g}; {found.people} who leave against {found.others} never trained on{few}"
    )
    return {"name": name, "passed": passed, "limit": limit}


def _retained_gate(found: Membership, most: float) -> dict[str, Any]:
    limit = f"people who stay are told from people never trained on with an area under the curve of at most {most:g}"
    return {"name": RETAINED_GATE, "passed": found.auc <= most, "limit": limit}
