"""Image sets with their own split: MNIST, Fashion-MNIST (idx files) and CIFAR-10 (binary batches)."""

import struct
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from expunge.datasets.contract import ColumnRule, DatasetContract, Scale, SplitRule
from expunge.datasets.sources import SourceFile, read_source
from expunge.errors import DatasetError

_IDX_DIMENSIONS = {2049: 1, 2051: 3}
_CIFAR_RECORD = 3073  # one label byte, then three planes of 32 x 32
_MNIST_HOST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_FASHION_HOST = "https://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
# sha256 of the uncompressed files
_MNIST = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_FASHION = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
# Not the original archive: 98 of 60,000 images come from JPEG (see the data's own manifest); nobody serves these files.
_CIFAR = {
    "data_batch_1.bin": "0def081c410489f98b3935c2d405fc7436d23377894a5d6a710ce1fad8082588",
    "data_batch_2.bin": "69cda47c0145e3c217e9d41887b354db05bc67d8e824a0007c909625de6c9935",
    "data_batch_3.bin": "1a4d0920ea06101641902b09fdac800cad7b5105963deee31ddff8e83fbabe6c",
    "data_batch_4.bin": "7f8e9534c4aa91fa34cb7cb4561b126eac16e9a5aff31f1fdb6b38d83f3b92d6",
    "data_batch_5.bin": "ace578a129b1d9695ee4254afb079a7573b408a36f818d5d96062484607c1619",
    "test_batch.bin": "b7a8afae140bbcc0153185efcbd5d6b73bc11a49943288e23ba94c44c391c169",
}


def parse_idx(content: bytes) -> NDArray[np.uint8]:
    """Array of an idx file of unsigned bytes.

    Args:
        content: The file.

    Returns:
        uint8, of the shape the header states.

    Raises:
        DatasetError: If it is not such a file.

    Example:
        >>> parse_idx(struct.pack(">II", 2049, 2) + bytes([7, 9]))
        array([7, 9], dtype=uint8)
    """
    magic = struct.unpack(">I", content[:4])[0]
    if magic not in _IDX_DIMENSIONS:
        raise DatasetError("not an idx file of bytes", expected="magic 2049 or 2051", got=str(magic))
    rank = _IDX_DIMENSIONS[magic]
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape)


def _frame(
    name: str, pixels: NDArray[np.uint8], labels: NDArray[np.uint8], train: int
) -> tuple[pd.DataFrame, DatasetContract]:
    names = [f"p{index:04d}" for index in range(pixels.shape[1])]
    raw = pd.DataFrame(pixels, columns=names)
    raw["class_name"] = labels.astype(str)
    raw["split_name"] = ["train"] * train + ["test"] * (len(labels) - train)
    contract = DatasetContract(
        name=name,
        label="class_name",
        classes=tuple(str(index) for index in range(10)),
        split=SplitRule(column="split_name"),
        columns=tuple(ColumnRule(name=column, scale=Scale(divide=255)) for column in names),
    )
    return raw, contract


def _load_idx(
    name: str, digests: dict[str, str], host: str, source: Path | None
) -> tuple[pd.DataFrame, DatasetContract]:
    arrays = [
        parse_idx(read_source(SourceFile(file, sha256, f"{host}/{file}.gz"), source))
        for file, sha256 in digests.items()
    ]
    pixels = np.concatenate([images.reshape(len(images), -1) for images in arrays[0::2]])
    return _frame(name, pixels, np.concatenate(arrays[1::2]), len(arrays[1]))


def load_mnist(source: Path | None) -> tuple[pd.DataFrame, DatasetContract]:
    """MNIST: 70,000 handwritten digits of 28 x 28.

    Args:
        source: Folder of the four idx files; None to download them.

    Returns:
        Raw rows and their contract.
    """
    return _load_idx("mnist", _MNIST, _MNIST_HOST, source)


def load_fashion_mnist(source: Path | None) -> tuple[pd.DataFrame, DatasetContract]:
    """Fashion-MNIST: 70,000 pieces of clothing of 28 x 28.

    Args:
        source: Folder of the four idx files; None to download them.

    Returns:
        Raw rows and their contract.
    """
    return _load_idx("fashion-mnist", _FASHION, _FASHION_HOST, source)


def load_cifar10(source: Path | None) -> tuple[pd.DataFrame, DatasetContract]:
    """CIFAR-10: 60,000 colour images of 32 x 32, in the official binary layout.

    Args:
        source: Folder of data_batch_1.bin ... test_batch.bin (plain, .gz or .xz).

    Returns:
        Raw rows and their contract.

    Raises:
        DatasetError: If a file is missing or not the expected one.
    """
    content = b"".join(read_source(SourceFile(file, sha256), source) for file, sha256 in _CIFAR.items())
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, _CIFAR_RECORD)
    return _frame("cifar10", records[:, 1:], records[:, 0], len(records) * 5 // 6)
