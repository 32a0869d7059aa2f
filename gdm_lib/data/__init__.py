"""Data sets: made on the spot (``toy2d``, ``tones``, ``digits``, ``glyphs``) or fetched once.

Fetched are ``mnist``, with Fashion-MNIST, ``fsdd`` and ``dcss``.
"""

from gdm_lib.data._download import DataError

__all__ = ["DataError"]
