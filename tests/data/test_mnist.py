"""The IDX reader and the loaders on small files made here, and on the real ones of GDM_MIRROR."""

import gzip
import hashlib
import os

import pytest
import torch

from gdm_lib.data import DataError, mnist
from gdm_lib.data._download import RemoteFile


def idx(data):
    """The IDX bytes of a uint8 tensor, written from the format's description."""
    header = bytes([0, 0, 8, data.ndim]) + b"".join(n.to_bytes(4, "big") for n in data.shape)
    return header + data.numpy().tobytes()


def images_and_labels(n, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 28, 28), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 10, (n,), generator=generator, dtype=torch.uint8)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """An empty mirror, an empty cache, and a function that puts the four files of a set there."""
    monkeypatch.setenv("GDM_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("GDM_MIRROR", (tmp_path / "mirror").as_uri())

    def fill(attribute, payloads):
        files = []
        for original, payload in zip(getattr(mnist, attribute), payloads, strict=True):
            path = tmp_path / "mirror" / original.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(payload)
            digest = hashlib.sha256(payload).hexdigest()
            files.append(RemoteFile(original.path, original.urls, digest, len(payload)))
        monkeypatch.setattr(mnist, attribute, tuple(files))

    return fill


@pytest.mark.parametrize(
    ("attribute", "load"), [("MNIST_FILES", "load"), ("FASHION_FILES", "load_fashion")]
)
def test_every_pixel_and_label_arrives(mirror, attribute, load):
    train, test = images_and_labels(7, 0), images_and_labels(3, 1)
    mirror(attribute, [gz(idx(data)) for data in (*train, *test)])
    data = getattr(mnist, load)()
    for part, (images, labels) in ((data.train, train), (data.test, test)):
        assert part.x.shape == (len(labels), 1, 28, 28)
        assert part.x.dtype == torch.float32
        assert part.y.dtype == torch.int64
        assert torch.equal((part.x[:, 0] * 255).round().to(torch.uint8), images)
        assert torch.equal(part.y, labels.long())
        assert float(part.x.min()) >= 0
        assert float(part.x.max()) <= 1


GOOD = idx(torch.zeros(2, 28, 28, dtype=torch.uint8))


def gz(content: bytes) -> bytes:
    """The same bytes at every call: a gzip header holds the time unless told otherwise."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"<html>moved</html>", "is not a whole gzip file"),
        (gz(GOOD)[:-12], "is not a whole gzip file"),
        (gz(b"\x00"), "header of an IDX file"),
        (gz(b"\x00\x00\x0d" + GOOD[3:]), "header of an IDX file.*00 00 0d 03"),
        (gz(GOOD[:9]), "header of an IDX file"),
        (gz(GOOD[:-1]), "1567 bytes of data, its header states"),
        (gz(GOOD + b"\0"), "at least 1569 bytes of data, its header states"),
        (gz(idx(torch.zeros(2, 27, 28, dtype=torch.uint8))), r"got \(2, 27, 28\)"),
        (gz(idx(torch.zeros(3, 28, 28, dtype=torch.uint8))), r"and \(2,\)"),
        (gz(b"\0\0\x08\x00\x07"), "in one dimension or three.*00 00 08 00"),
        (gz(b"\0\0\x08\xff" + bytes(1020)), "in one dimension or three.*00 00 08 ff"),
        (gz(b"\0\0\x08\x03" + b"\xff" * 12), r"states \[4294967295, 4294967295, 4294967295\]"),
        (gz(b"\0\0\x08\x03" + bytes(12)), r"states \[0, 0, 0\]"),
        (gz(GOOD + bytes(1 << 24)), "at least 1569 bytes of data"),
        (gz(GOOD) + gz(GOOD), r"not a whole gzip file: \d+ bytes follow it"),
        (gz(GOOD)[:-8] + bytes(8), "is not a whole gzip file: .* incorrect data check"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(mirror, payload, message):
    labels = gz(idx(torch.zeros(2, dtype=torch.uint8)))
    mirror("MNIST_FILES", [payload, labels, payload, labels])
    with pytest.raises(DataError, match=message):
        mnist.load()


def test_a_label_of_no_class_is_refused(mirror):
    images, labels = images_and_labels(3, 0)
    labels[1] = 10
    mirror("MNIST_FILES", [gz(idx(data)) for data in (images, labels) * 2])
    with pytest.raises(DataError, match="expected labels from 0 to 9, got one of 10; delete"):
        mnist.load()


def test_the_files_are_those_of_the_official_addresses():
    assert [file.path for file in mnist.MNIST_FILES] == [
        "mnist/train-images-idx3-ubyte.gz",
        "mnist/train-labels-idx1-ubyte.gz",
        "mnist/t10k-images-idx3-ubyte.gz",
        "mnist/t10k-labels-idx1-ubyte.gz",
    ]
    for file in mnist.MNIST_FILES + mnist.FASHION_FILES:
        assert len(file.sha256) == 64
        assert all(url.endswith(file.path.split("/")[1]) for url in file.urls)
    assert len({file.sha256 for file in mnist.MNIST_FILES + mnist.FASHION_FILES}) == 8


@pytest.mark.skipif("GDM_MIRROR" not in os.environ, reason="GDM_MIRROR names no mirror")
@pytest.mark.parametrize("load", ["load", "load_fashion"])
def test_real_files(tmp_path, monkeypatch, load):
    monkeypatch.setenv("GDM_DATA_DIR", str(tmp_path))
    data = getattr(mnist, load)()
    assert data.train.x.shape == (60_000, 1, 28, 28)
    assert data.test.x.shape == (10_000, 1, 28, 28)
    means = {"load": 0.1307, "load_fashion": 0.2860}  # as commonly published
    assert float(data.train.x.mean()) == pytest.approx(means[load], abs=1e-4)
    assert data.test.y.unique().tolist() == list(range(10))

    def items(part):
        pixels = (part.x * 255).round().to(torch.uint8).flatten(1).numpy()
        return {row.tobytes() for row in pixels}

    assert not items(data.train) & items(data.test)
