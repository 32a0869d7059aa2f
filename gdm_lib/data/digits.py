"""Real handwriting without a download: the 1,797 digits of 8x8 pixels that scikit-learn ships.

They are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak
1998, UCI Machine Learning Repository): each pixel counts the inked pixels in a 4x4 block of a
32x32 bitmap, so it has the 17 levels 0..16. The data card is ``data/digits.md``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

from gdm_lib.data.levels import from_levels
from gdm_lib.data.splits import Labelled, Splits

__all__ = ["LEVELS", "load"]

LEVELS = 17
"""Grey levels of a pixel: 0..16, divided by 16."""

TEST_SHARE = 0.2


def load() -> Splits[Labelled]:
    """The digits in a fixed split, 80 % of each class for training and 20 % for the test.

    Split and order are those of the SHA-256 of each image's pixels: a class's first fifth is its
    test part. That depends on no library's random numbers and would keep equal images together.
    Writers are not known, and are likely to be in both parts.

    Returns:
        ``train`` with 1,438 items and ``test`` with 359; ``x`` is ``(N, 1, 8, 8)``, multiples of
        1/16 in [0, 1], and ``y`` the digit.
    """
    from sklearn.datasets import load_digits  # half a second, which other data sets needn't pay

    bunch = load_digits()
    levels = bunch.images.astype("uint8")
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in levels]
    test = []
    for digit in range(10):
        members = [i for i, y in enumerate(bunch.target) if y == digit]
        members.sort(key=lambda i: digests[i][:32])
        test += members[: round(TEST_SHARE * len(members))]
    train = set(range(len(levels))).difference(test)

    def part(indices: Iterable[int]) -> Labelled:
        # Another half of the digest: ordered by the first, a part would end in few classes.
        order = sorted(indices, key=lambda i: digests[i][32:])
        x = from_levels(torch.from_numpy(levels[order]), LEVELS)[:, None]
        return Labelled(x, torch.from_numpy(bunch.target[order]).long())

    return Splits(part(train), part(test))
