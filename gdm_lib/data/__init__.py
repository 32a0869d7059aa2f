"""Data sets: made on the spot (``toy2d``, ``digits``, ``glyphs``) or fetched once (``mnist``)."""

from gdm_lib.data._download import DataError

__all__ = ["DataError"]
