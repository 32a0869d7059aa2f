"""MNIST and Fashion-MNIST: 70,000 grey images of 28x28 each, downloaded once and verified.

The files are the original IDX ones. Data cards: ``data/mnist.md``, ``data/fashion_mnist.md``.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from gdm_lib._files import read_plain
from gdm_lib.data._download import DataError, RemoteFile, fetch
from gdm_lib.data._packed import gunzip
from gdm_lib.data.levels import from_levels
from gdm_lib.data.splits import Labelled, Splits

__all__ = ["FASHION_CLASSES", "LEVELS", "load", "load_fashion"]

LEVELS = 256
"""Grey levels of a pixel: 0..255, divided by 255."""

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""The names of Fashion-MNIST's classes, in the order of their labels."""

SIDE = 28
CLASSES = 10
MAX_PACKED = 1 << 25  # bytes; the largest file has 26 MB
MAX_DATA = 60_000 * SIDE**2

# The host of the original page, yann.lecun.com, refuses downloads; these two serve the same bytes.
_MNIST_HOSTS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_FASHION_HOSTS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)


def _remote(folder: str, hosts: tuple[str, ...], name: str, size: int, sha256: str) -> RemoteFile:
    return RemoteFile(f"{folder}/{name}", tuple(host + name for host in hosts), sha256, size)


# Train images and labels, test images and labels.
MNIST_FILES = tuple(
    _remote("mnist", _MNIST_HOSTS, *row)
    for row in (
        (
            "train-images-idx3-ubyte.gz",
            9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    )
)
FASHION_FILES = tuple(
    _remote("fashion_mnist", _FASHION_HOSTS, *row)
    for row in (
        (
            "train-images-idx3-ubyte.gz",
            26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            29515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            4422102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            5148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    )
)


def load() -> Splits[Labelled]:
    """MNIST in its official split: 60,000 handwritten digits to train, 10,000 to test.

    Returns:
        ``x`` is ``(N, 1, 28, 28)``, multiples of 1/255 in [0, 1], and ``y`` the digit.

    Raises:
        DataError: the files can't be had, or aren't what they should be.
    """
    return _load(MNIST_FILES)


def load_fashion() -> Splits[Labelled]:
    """Fashion-MNIST (Xiao et al. 2017, 1708.07747) in its official split, 60,000 and 10,000.

    Returns:
        ``x`` is ``(N, 1, 28, 28)``, multiples of 1/255 in [0, 1], and ``y`` an index into
        ``FASHION_CLASSES``.

    Raises:
        DataError: the files can't be had, or aren't what they should be.
    """
    return _load(FASHION_FILES)


def _load(files: tuple[RemoteFile, ...]) -> Splits[Labelled]:
    train_x, train_y, test_x, test_y = (_read_idx(fetch(file)) for file in files)
    return Splits(_labelled(train_x, train_y), _labelled(test_x, test_y))


def _labelled(images: Tensor, labels: Tensor) -> Labelled:
    if images.shape != (len(labels), SIDE, SIDE) or labels.shape != images.shape[:1]:
        raise DataError(
            f"expected images (N, {SIDE}, {SIDE}) and labels (N,), got {tuple(images.shape)} and "
            f"{tuple(labels.shape)}; delete the folder from the cache and load it again"
        )
    if int(labels.max()) >= CLASSES:
        raise DataError(
            f"expected labels from 0 to {CLASSES - 1}, got one of {int(labels.max())}; delete the "
            "folder from the cache and load it again"
        )
    return Labelled(from_levels(images, LEVELS)[:, None], labels.long())


def _read_idx(path: Path) -> Tensor:
    """The bytes of a gzipped IDX file, uint8, in the shape that its header states.

    The header is two zero bytes, 8 for unsigned bytes, the number of dimensions, and each dimension
    as a big-endian 32-bit integer. Nothing is unpacked beyond what it states.
    """
    try:
        packed = read_plain(path, MAX_PACKED)
        head = gunzip(packed, 4)[:4]
        if head not in (b"\0\0\x08\x01", b"\0\0\x08\x03"):
            raise ValueError(
                "it should begin with the header of an IDX file of unsigned bytes in one dimension "
                f"or three, 00 00 08 and 01 or 03, got {head.hex(' ')}"
            )
        start = 4 + 4 * head[3]
        head = gunzip(packed, start)[:start]
        shape = [int.from_bytes(head[i : i + 4], "big") for i in range(4, len(head), 4)]
        size = math.prod(shape)
        if len(head) < start or not 0 < size <= MAX_DATA:
            raise ValueError(
                f"the header of an IDX file should state 1 to {MAX_DATA:,} bytes of data, but "
                f"states {shape}"
            )
        raw = gunzip(packed, start + size)
        if len(raw) != start + size:
            least = "at least " * (len(raw) > start + size)
            raise ValueError(
                f"it has {least}{len(raw) - start} bytes of data, its header states {shape}"
            )
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}; delete it and load it again") from error
    # A bytearray, since torch warns of memory that it can't write to.
    return torch.frombuffer(bytearray(raw[start:]), dtype=torch.uint8).reshape(shape)
