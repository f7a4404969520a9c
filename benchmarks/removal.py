"""Taking a hundred people out of ten million rows: `python -m benchmarks.removal --out docs/benchmarks` (Linux).

Made-up rows in 256 partitions, tracked by DVC with a folder as remote, in a temporary folder (3 GB at 10,000,000 rows).
A process of its own collects the people's rows, rewrites their partitions, and adds, pushes and commits the new
version; its peak memory, and the bytes that the rewriting wrote, are the kernel's figures. Another process rewrites
every partition. Everything is read from the page cache.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from benchmarks.common import (
    SEED,
    bars,
    best,
    emit,
    fresh_process,
    hardware,
    high_water,
    panels,
    parser,
    pick_device,
    say,
    timed,
)
from expunge.datasets.partitions import (
    count_rows,
    find_subjects,
    partition_files,
    partition_index,
    partition_name,
    remove_subjects,
    rewrite_partition,
    rows_of,
    write_partition,
)
from expunge.datasets.placement import Placement
from tasks.adapters.versioning import DATASET, Repository

ROWS, PARTITIONS, SUBJECTS = 10_000_000, 256, 100
KEY, KNOWN = b"\x07" * 32, "placement.json"
_FEATURES, _WORKS = 6, ("remove", "rewrite everything")


def person(number: int) -> str:
    """Id of a made-up person."""
    return f"person-{number:07d}"


def generate(directory: Path, rows: int, partitions: int) -> int:
    """Write a dataset as `write_partitions` would, one partition in memory at a time; one to five rows a person.

    Args:
        directory: Must not exist.
        rows: How many.
        partitions: How many.

    Returns:
        Number of people.
    """
    draw = np.random.default_rng(SEED)
    who = np.repeat(np.arange(rows), draw.integers(1, 6, rows))[:rows]
    record = draw.permutation(rows)  # the rows of a person lie apart
    people = int(who[-1]) + 1
    places = np.array([partition_index(KEY, person(number), partitions) for number in range(people)])
    order = np.lexsort((record, places[who]))
    ends = np.searchsorted(places[who][order], np.arange(partitions + 1))
    directory.mkdir(parents=True)
    for index in range(partitions):
        rows_here = order[ends[index] : ends[index + 1]]
        whose, draw = who[rows_here], np.random.default_rng([SEED, index])
        columns: dict[str, Any] = {
            "record_id": record[rows_here],
            "subject_id": [person(number) for number in whose],
            "label": np.where(draw.random(len(whose)) < 0.3, "ill", "well"),
            "split": np.where(whose % 5 == 0, "test", "train"),
            **{f"x{i}": draw.normal(size=len(whose)) for i in range(_FEATURES)},
            "age": draw.integers(18, 100, len(whose)),
            "ward": np.array(["north", "south", "west"])[draw.integers(0, 3, len(whose))],
        }
        write_partition(pa.table(columns), directory / partition_name(KEY, index))
    return people


def work(name: str, folder: Path) -> dict[str, Any]:
    """What one process does to the dataset, and what that took; to be called in a process of its own."""
    import dvc.repo  # noqa: F401 - its memory is that of imports

    root, subjects = folder / "workspace", json.loads((folder / "subjects.json").read_text(encoding="utf-8"))
    dataset, placement = root / DATASET, Placement(KEY, root / KNOWN)
    imports = high_water()
    if name == "remove":
        (rows, names), collecting = timed(lambda: rows_of(dataset, subjects, placement))
        before = _written()
        removed, rewriting = timed(lambda: remove_subjects(dataset, subjects, placement))
        written = _written() - before
        repository = Repository(root, folder / "state")
        _, versioning = timed(lambda: repository.track_dataset("Remove people"))
        done = {
            "records": len(rows),
            "removed": removed,
            "partitions": len(names),
            "bytes_written": written,
            "collecting_seconds": collecting,
            "versioning_seconds": versioning,
        }
    else:
        files = partition_files(dataset)
        _, rewriting = timed(lambda: [rewrite_partition(path, subjects) for path in files])
        done = {"partitions": len(files)}
    return {
        **done,
        "rewriting_seconds": rewriting,
        "bytes_of_imports": imports,
        "peak_bytes": high_water(),
    }


def _written() -> int:
    """Bytes that this process has given to the system to write."""
    status = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in status if line.startswith("wchar:")).split()[1])


def _sizes(directory: Path) -> dict[str, int]:
    return {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for path in directory.rglob("*")
        if path.is_file()
    }


def measure(
    folder: Path, *, rows: int = ROWS, partitions: int = PARTITIONS, subjects: int = SUBJECTS
) -> dict[str, Any]:
    """Make a dataset, remove people from it, and version both states."""
    root, remote = folder / "workspace", folder / "remote"
    dataset = root / DATASET
    people, seconds = timed(lambda: generate(dataset, rows, partitions))
    say(f"{rows} rows of {people} people in {partitions} partitions written in {seconds:.0f} s")
    import dvc.repo  # noqa: F401 - no part of the first version's seconds

    repository = Repository(root, folder / "state")
    repository.init(remote)
    _, first = timed(lambda: repository.track_dataset("Add a dataset"))
    before, pushed = _sizes(dataset), _sizes(remote)
    say(f"first version added and pushed in {first:.0f} s")

    chosen = np.random.default_rng([SEED, subjects]).choice(people, subjects, replace=False)
    ids = [person(int(number)) for number in sorted(chosen)]
    placement = Placement(KEY, root / KNOWN)
    _, checking = timed(lambda: placement.partitions_of(dataset, ids))
    found, keyed = best(lambda: find_subjects(dataset, ids, placement))
    scanned, scanning = best(lambda: find_subjects(dataset, ids))
    one, keyed_one = best(lambda: find_subjects(dataset, ids[:1], placement))
    if found != scanned or any(scanned[subject] != count for subject, count in one.items()):
        raise RuntimeError("the key and the full scan found other rows")
    touched = [path.name for path in placement.partitions_of(dataset, ids)]

    (folder / "subjects.json").write_text(json.dumps(ids), encoding="utf-8")

    def process(name: str) -> dict[str, Any]:
        return fresh_process("benchmarks.removal", ["--work", name, "--folder", str(folder)])

    removal = process("remove")
    say(f"{removal['removed']} rows removed in {removal['rewriting_seconds']:.1f} s")
    if removal["removed"] != sum(found.values()) or any(find_subjects(dataset, ids).values()):
        raise RuntimeError("people were left")
    if count_rows(dataset) != rows - removal["removed"]:
        raise RuntimeError("other rows left too")
    second = removal["versioning_seconds"]
    after = {name: size for name, size in _sizes(remote).items() if name not in pushed}
    say(f"second version added and pushed in {second:.0f} s: {len(after)} objects")
    everything = process("rewrite everything")
    touched_bytes, whole = sum(before[name] for name in touched), sum(before.values())
    return {
        "rows": rows,
        "people": people,
        "partitions": partitions,
        "subjects": subjects,
        "records_removed": removal["removed"],
        "dataset_bytes": whole,
        "touched": {
            "partitions": len(touched),
            "expected_partitions": partitions * (1 - (1 - 1 / partitions) ** subjects),
            "bytes": touched_bytes,
            "ratio_of_dataset": touched_bytes / whole,
        },
        "removal": {
            **removal,
            "ratio_written_of_touched": removal["bytes_written"] / touched_bytes,
            "rewriting_everything_seconds": everything["rewriting_seconds"],
            "ratio_of_rewriting_everything": removal["rewriting_seconds"] / everything["rewriting_seconds"],
        },
        "finding": {
            "checking_places_once_seconds": checking,
            "seconds": keyed,
            "one_person_seconds": keyed_one,
            "full_scan_seconds": scanning,
            "ratio_of_full_scan": keyed / scanning,
            "ratio_one_person_of_full_scan": keyed_one / scanning,
        },
        "versions": {
            "first_seconds": first,
            "second_seconds": second,
            "ratio_seconds": second / first,
            "first_objects": len(pushed),
            "first_bytes": sum(pushed.values()),
            "pushed_objects": len(after),
            "pushed_bytes": sum(after.values()),
            "ratio_pushed_of_dataset": sum(after.values()) / whole,
        },
    }


def plot(document: dict[str, Any]) -> Figure:
    """Bytes and seconds beside what they are compared with."""
    figure, (sizes, seconds) = panels(2)
    removal, finding, versions = document["removal"], document["finding"], document["versions"]
    megabytes = {
        "dataset": document["dataset_bytes"],
        "touched partitions": document["touched"]["bytes"],
        "written by the removal": removal["bytes_written"],
        "pushed by DVC": versions["pushed_bytes"],
        "peak memory": removal["peak_bytes"],
        "of it imports": removal["bytes_of_imports"],
    }
    bars(sizes, {name: size / 1e6 for name, size in megabytes.items()}, "MB")
    times = {
        "find one person": finding["one_person_seconds"],
        f"find {document['subjects']} people": finding["seconds"],
        "full scan": finding["full_scan_seconds"],
        "rewrite what they touch": removal["rewriting_seconds"],
        "rewrite everything": removal["rewriting_everything_seconds"],
        "DVC: first version": versions["first_seconds"],
        "DVC: without them": versions["second_seconds"],
    }
    bars(seconds, times, "seconds", log=True)
    return figure


def main() -> None:
    options = parser(__doc__, device=False)
    options.add_argument("--work", choices=_WORKS, help="for the processes that this starts")
    options.add_argument("--folder", type=Path, help="for the processes that this starts")
    given = options.parse_args()
    if given.work:
        sys.stdout.write(json.dumps(work(given.work, given.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        document = measure(Path(folder), rows=given.records or ROWS)
    document["hardware"] = hardware(pick_device("cpu"))
    emit("removal", document, plot(document), given.out)


if __name__ == "__main__":
    main()
