"""What all attacks on a model found, and whether limits of policy were shown to be passed."""

from dataclasses import asdict, dataclass
from typing import Any

from expunge.attacks.difference import DifferenceResult
from expunge.attacks.empirical_epsilon import EmpiricalEpsilon
from expunge.attacks.exposure import Exposure
from expunge.attacks.result import AttackResult
from expunge.attacks.roc import Roc


@dataclass(frozen=True)
class Limits:
    """How far the forgotten may be told from people never seen; fixed before the request.

    Args:
        auc: Largest area under the curve, in [0.5, 1]; its mirror ``1 - auc`` is the smallest: records that the model
            is unusually *un*sure of are told apart as well.
        tpr: Largest true positive rate at ``fpr``.
        fpr: False positive rate of that limit, one of those measured.
    """

    auc: float = 0.6
    tpr: float = 0.1
    fpr: float = 0.01


@dataclass(frozen=True)
class Verdict:
    """What attacks say of a model.

    Args:
        passed: Whether no limit was shown to be passed, with 95 % confidence each. It proves nothing.
        conclusive: Whether every area's interval lies within the limit, so that attacks of this strength were shown to
            fail; with few forgotten records they seldom are.
        findings: What was shown; one line each, to be sealed.
    """

    passed: bool
    conclusive: bool
    findings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class AttackReport:
    """All attacks on one model.

    Args:
        forgotten: Attacks on the forget set.
        retained: The same attacks on retained records, for comparison: they *are* members.
        exposure: What became of the retained people's exposure; None where there is no parent to compare with.
        epsilon: Lower bounds beside the certificate.
        difference: Of parent and child, by size of batch.
        shadow_models: How many were used.
        shadow_seconds: What they were predicted to take; None without any, or where nothing was measured.
    """

    forgotten: tuple[AttackResult, ...]
    retained: tuple[AttackResult, ...] = ()
    exposure: Exposure | None = None
    epsilon: tuple[EmpiricalEpsilon, ...] = ()
    difference: tuple[DifferenceResult, ...] = ()
    shadow_models: int = 0
    shadow_seconds: float | None = None

    def passes(self, limits: Limits) -> Verdict:
        """Hold the attacks on the forget set, and the proved epsilons, against limits.

        The answer depends on the forget set: a gate made of it is no post-processing of the release, and the
        certificate's scope says so. The difference of two releases is outside every certificate, and not judged.

        Args:
            limits: Of policy.

        Returns:
            The verdict.
        """
        findings = [line for found in self.forgotten for line in _findings(found, limits)]
        findings += [
            f"{e.method}: epsilon is at least {e.lower:.3g} at delta {e.delta:g}, certified {e.certified:.3g}"
            for e in self.epsilon
            if e.certified is not None and e.contradicts
        ]
        conclusive = bool(self.forgotten) and all(
            found.roc.auc_high <= limits.auc and found.roc.auc_low >= 1 - limits.auc
            for found in self.forgotten
        )
        return Verdict(not findings, conclusive, tuple(findings))

    def public(self) -> dict[str, Any]:
        """What may stand in a certificate: what was run, nothing of what was found.

        Returns:
            A JSON-able dict; nothing in it depends on the forget set.
        """
        return {
            "attacks": [found.attack for found in self.forgotten],
            "non_members": self.forgotten[0].roc.non_members if self.forgotten else 0,
            "retained_attacked": bool(self.retained),
            "exposure_measured": self.exposure is not None,
            "difference_measured": bool(self.difference),
            "shadow_models": self.shadow_models,
            "shadow_seconds_predicted": self.shadow_seconds,
        }

    def sealed(self) -> dict[str, Any]:
        """What goes into the sealed annex alone: all that depends on the forget set, or on those who stay.

        Returns:
            A JSON-able dict.
        """
        return {
            "forgotten": [found.to_json() for found in self.forgotten],
            "retained": [found.to_json() for found in self.retained],
            "exposure": self.exposure.to_json() if self.exposure else None,
            "epsilon": [{**asdict(e), "contradicts": e.contradicts} for e in self.epsilon],
            "difference": [found.to_json() for found in self.difference],
        }

    def to_json(self) -> dict[str, Any]:
        """Plain data, the two halves kept apart.

        Returns:
            ``{"public": ..., "sealed": ...}``, JSON-able.
        """
        return {"public": self.public(), "sealed": self.sealed()}


def _findings(found: AttackResult, limits: Limits) -> list[str]:
    roc: Roc = found.roc
    said = []
    if roc.auc_low > limits.auc or roc.auc_high < 1 - limits.auc:
        said.append(
            f"{found.attack}: AUC {roc.auc:.3f} [{roc.auc_low:.3f}, {roc.auc_high:.3f}], limit {limits.auc:g}"
        )
    point = roc.at(limits.fpr)
    if point.tpr is not None and point.tpr_low is not None and point.tpr_low > limits.tpr:
        said.append(
            f"{found.attack}: TPR {point.tpr:.3f} (at least {point.tpr_low:.3f}) at {limits.fpr:g} FPR, "
            f"limit {limits.tpr:g}"
        )
    return said
