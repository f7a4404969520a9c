"""Shadow models as Prefect tasks: Dask, Prefect's threads and a plain loop give the same numbers."""

import pytest
import torch

from expunge.attacks.shadows import ShadowCache, plan_shadows, train_shadows
from tests.attacks.problems import records, spec_of

SPEC = spec_of(epochs=2)


def _run(prefect_api, tmp_path, runner):
    from prefect import flow

    from tasks.shadows import train_shadows_in_flow

    plan, data = plan_shadows(SPEC, 40, 4, seed=2), records(40, 31)
    cache = ShadowCache(tmp_path / "shadows", b"key", "v1")

    @flow(name="attacks", task_runner=runner, validate_parameters=False)
    def attacks():
        found = train_shadows_in_flow(plan, *data, cache, tmp_path / "scratch")
        assert train_shadows_in_flow(plan, *data, cache, tmp_path / "scratch").equal(
            found
        )  # all from the cache
        return [found]

    found = attacks()[0]
    torch.testing.assert_close(found, train_shadows(plan, *data), rtol=0, atol=0)
    assert len(list((tmp_path / "shadows").iterdir())) == 4
    assert not any((tmp_path / "scratch").rglob("job.pt"))  # the records do not stay


def test_threads_of_prefect_give_the_numbers_of_a_loop(prefect_api, tmp_path):
    from prefect.task_runners import ThreadPoolTaskRunner

    _run(prefect_api, tmp_path, ThreadPoolTaskRunner(max_workers=2))


def test_a_local_dask_cluster_gives_the_numbers_of_a_loop(prefect_api, tmp_path):
    pytest.importorskip("prefect_dask", reason="prefect-dask of requirements.lock is not installed")
    from tasks.shadows import dask_runner

    _run(prefect_api, tmp_path, dask_runner(workers=2))
