"""A long training says beforehand what it costs, and gives signs of life without a terminal."""

import dataclasses

import pytest
import torch

from cli import output
from expunge import progress
from expunge.models import forecast as forecasts
from expunge.models.forecast import forecast, pass_seconds
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.models.zoo import build

CONVEX = ModelSpec(
    name="softmax",
    linearize=True,
    in_features=4,
    classes=2,
    seed=1,
    l2=1e-2,
    gradient_tolerance=1e-6,
    rounding_allowance=1e-9,
    max_products=500,
    norm_bound=10.0,
    epochs=3,
    batch_size=8,
    learning_rate=1e-2,
)
DEEP = dataclasses.replace(CONVEX, name="mlp", linearize=False, hyperparameters={"hidden": [4]})


def _records(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return features, (features[:, 0] > 0).long()


def test_a_short_training_is_not_forecast() -> None:
    assert forecast(DEEP, 1000, 0.01) is None
    assert forecast(CONVEX, 1000, 0.19) is None


def test_a_forecast_names_passes_and_their_sum() -> None:
    deep = dataclasses.replace(DEEP, epochs=50)
    assert forecast(deep, 1_500_000, 60.0) == (
        "training on 1,500,000 records: 50 passes of about 60 s, so about 50 min"
    )
    assert forecast(CONVEX, 1_500_000, 12.0) == (
        "training on 1,500,000 records: usually 50 to 300 passes of about 12 s, "
        "so 10 min to 60 min (longer for a small l2)"
    )


@pytest.mark.parametrize("spec", [CONVEX, DEEP])
def test_a_pass_is_scaled_from_what_was_timed(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []

    def seconds(*arguments: object) -> float:
        timed.append(len(arguments[3]))  # type: ignore[arg-type]
        return 0.001 * timed[-1]  # one millisecond a record

    monkeypatch.setattr(forecasts, "_timed", seconds)
    network = build(spec, None, "cpu")
    assert pass_seconds(spec, network, *_records(1000)) == pytest.approx(1.0)
    assert timed == ([512] if spec.linearize else [8])


@pytest.mark.parametrize("spec", [CONVEX, DEEP])
def test_a_training_tells_its_forecast_once_and_is_not_changed_by_it(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = train(spec, *_records(64))
    monkeypatch.setattr(forecasts, "WORTH_SAYING", 0.0)
    told: list[str] = []
    with progress.listening(lambda what, done, total: None, told.append):
        heard = train(spec, *_records(64))
    assert [sentence.split(":")[0] for sentence in told] == ["training on 64 records"]
    assert torch.equal(alone.weights, heard.weights)


def test_nothing_is_timed_where_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.models.training.pass_seconds", lambda *_: pytest.fail("timed for nobody"))
    with progress.listening(lambda what, done, total: None):
        train(CONVEX, *_records(16))


def test_a_pipe_gets_a_sign_of_life_every_half_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 10.0, 31.0, 40.0, 180.0])
    monkeypatch.setattr(output.time, "monotonic", lambda: next(clock))
    with output.showing_progress():
        for done in (0.0, 1.0, 0.0, 3.0, 6.0):
            progress.report(f"training: gradient norm {done}", done, 9.0)
    assert capsys.readouterr().err.splitlines() == [
        "  training ...",
        "  training: 1 min",
        "  training: 3 min, about 2 min left",
    ]
