"""The device is chosen in one place, refused before anything is changed, and used by one computation at a time."""

import os
import socket
import threading

import pytest
import torch

from cli.worker import worker_name
from expunge.devices import chosen_device, device_in_use
from expunge.errors import InputError


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """Make PyTorch see so many GPUs; what choosing one sets is put back."""

    def seen(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("EXPUNGE_DEVICE", raising=False)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [part.allow_tf32 for part in parts]
    for part in parts:
        part.allow_tf32 = True
    yield seen
    for part, allowed in zip(parts, before, strict=True):
        part.allow_tf32 = allowed
    torch.use_deterministic_algorithms(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.parametrize(
    ("named", "count", "device"),
    [
        (None, 0, "cpu"),
        (None, 2, "cuda:0"),
        ("", 1, "cuda:0"),
        ("cpu", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_what_is_named_else_a_gpu_else_the_cpu(gpus, monkeypatch, named, count, device):
    gpus(count)
    if named is not None:
        monkeypatch.setenv("EXPUNGE_DEVICE", named)
    assert chosen_device() == torch.device(device)


@pytest.mark.parametrize(
    ("named", "count", "expected"),
    [
        ("cuda", 0, "expected cpu, got cuda"),
        ("cuda:1", 1, "expected cpu, cuda:0, got cuda:1"),
        ("cuda:0001", 2, "cuda:1"),
        ("cuda:-1", 1, "cuda:0"),
        ("CPU", 0, "cpu"),
        ("meta", 1, "got meta"),
        ("mps", 1, "got mps"),
        ("cpu:0", 1, "got cpu:0"),
        (" cuda", 1, "got  cuda"),
    ],
)
def test_what_is_not_here_is_refused_in_one_line(gpus, monkeypatch, named, count, expected):
    gpus(count)
    monkeypatch.setenv("EXPUNGE_DEVICE", named)
    with pytest.raises(InputError, match="EXPUNGE_DEVICE names no device") as caught:
        chosen_device()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gpu_computes_without_tf32_and_in_one_order_and_the_cpu_is_left_as_it_is(gpus):
    gpus(0)
    chosen_device()
    assert torch.backends.cudnn.allow_tf32
    assert not torch.are_deterministic_algorithms_enabled()
    gpus(1)
    chosen_device()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


class Second(threading.Thread):
    """Another computation that chooses its device."""

    def __init__(self):
        super().__init__(daemon=True)
        self.device, self.in_use = None, threading.Event()
        self.start()

    def run(self):
        with device_in_use() as self.device:
            self.in_use.set()


def test_two_computations_never_share_a_gpu(gpus, monkeypatch):
    gpus(2)
    with device_in_use() as device:
        assert device == torch.device("cuda:0")
        same = Second()
        assert not same.in_use.wait(0.5)
        monkeypatch.setenv("EXPUNGE_DEVICE", "cuda:1")
        other = Second()
        assert other.in_use.wait(30)
    assert same.in_use.wait(30)
    assert (same.device, other.device) == (torch.device("cuda:0"), torch.device("cuda:1"))


def test_the_cpu_is_shared(gpus, tmp_path):
    gpus(0)
    with device_in_use():
        assert Second().in_use.wait(30)
    assert not list(tmp_path.iterdir())


def test_workers_on_one_machine_are_told_apart_by_their_device(gpus, monkeypatch):
    gpus(2)
    host, names = socket.gethostname(), []
    assert worker_name("cpu") == f"cpu-{host}"
    for device in ("", "cuda", "cuda:0", "cuda:1", "cpu"):
        monkeypatch.setenv("EXPUNGE_DEVICE", device)
        names.append(worker_name("gpu").removeprefix(f"gpu-{host}"))
    assert names == ["", "-cuda-0", "-cuda-0", "-cuda-1", "-cpu"]
    monkeypatch.setenv("EXPUNGE_DEVICE", "cuda:2")
    with pytest.raises(InputError):
        worker_name("gpu")
