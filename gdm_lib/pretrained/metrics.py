"""Classifiers that judge what models draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gdm_lib.metrics import ImageClassifier

__all__ = ["letters"]


def letters() -> ImageClassifier:
    """The twenty letters of ``data.glyphs.LARGE_GLYPHS``, in grey and in colour."""
    from gdm_lib.metrics import ImageClassifier

    return ImageClassifier(20)
