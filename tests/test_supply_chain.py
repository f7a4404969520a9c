"""What a release is made of: every package of the lock is pinned by digests, too."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", re.M)


def pins(name):
    found = _PIN.findall((ROOT / name).read_text())
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found}


def test_the_hashed_lock_has_the_versions_of_the_lock():
    assert len(pins("requirements.lock")) > 100
    assert pins("requirements-hashed.lock") == pins("requirements.lock")


def test_every_package_has_digests():
    text = (ROOT / "requirements-hashed.lock").read_text()
    for entry in re.split(r"\n(?=[A-Za-z0-9])", text[text.index("\nabsl") + 1 :]):
        digests = re.findall(r"--hash=sha256:([0-9a-f]{64})(?= |$)", entry, re.M)
        assert digests, entry.splitlines()[0]
        assert entry.count("--hash=") == len(digests)


def test_tools_of_a_release_are_pinned():
    lines = (ROOT / "requirements-release.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#") and not _PIN.match(line)] == []
