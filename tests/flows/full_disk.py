"""A batch on a disk that fills up: `unshare -rm python -m tests.flows.full_disk FOLDER`.

In a mount namespace of its own, where an unprivileged user may mount a small file system. Each line of its output is
one run: bytes that were free, exit code, the batch's stage after it.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import Expunge, make_workspace
from tests.flows.killer import run
from tests.flows.test_kill import check_end_state

ROOM_KB = 200_000
PEOPLE = ["person-00011-x"]


def mount(place: Path, kilobytes: int, *options: str) -> None:
    sized = ",".join([*options, f"size={kilobytes}k"])
    subprocess.run(["mount", "-t", "tmpfs", "-o", sized, "tmpfs", str(place)], check=True)


def run_with(clinic: Expunge, place: Path, free_kb: int) -> int:
    """Run with so much room on a file system, then give it room again."""
    used = max(4, shutil.disk_usage(place).used // 1024)  # 0 would be no limit at all
    mount(place, used + free_kb, "remount")
    code = run(clinic.root)
    mount(place, ROOM_KB, "remount")
    (batch,) = clinic.batches()
    reached = batch.failed_stage or batch.stage
    print(f"RUN {free_kb} KB free on {place.name}: exit code {code}, batch {reached}", flush=True)
    assert clinic("ledger", "verify") == 0
    return code


def move_to_own_disk(place: Path, spare: Path) -> None:
    """Give a folder a file system of its own."""
    place.mkdir(exist_ok=True)
    shutil.copytree(place, spare)
    mount(place, ROOM_KB)
    shutil.copytree(spare, place, dirs_exist_ok=True)


def main(folder: Path) -> None:
    disk = folder / "disk"
    disk.mkdir()
    mount(disk, ROOM_KB)
    clinic = make_workspace(disk / "workspace", folder)
    dataset = clinic.state().workspace.dataset_dir
    before = shutil.copytree(dataset, folder / "before")
    original = {path.name: path.read_bytes() for path in before.iterdir()}
    workspace = clinic.state().workspace
    places = (dataset, clinic.root / ".git", workspace.evidence_dir, workspace.mlflow_artifacts)
    for place in places:
        move_to_own_disk(place, folder / f"spare-{place.name}")
    clinic.ticket(PEOPLE[0])

    assert run_with(clinic, dataset, 0) == 3  # the partition cannot be written
    assert original == {path.name: path.read_bytes() for path in dataset.iterdir()}
    (batch,) = clinic.batches()
    assert (batch.stage, batch.failed_stage) == ("failed", "planned")
    assert batch.error is not None
    assert "the disk is full" in batch.error
    for place in places[1:]:
        assert run_with(clinic, place, 0) == 3, place
    free = 0
    while run_with(clinic, disk, free):  # each time it comes a little further
        free += max(8, free // 4)  # compacting a database takes as much room as it has
    check_end_state(clinic, PEOPLE, before)
    print("END STATE HOLDS", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
