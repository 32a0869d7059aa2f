"""Data sets: made on the spot (``toy2d``, ``digits``, ``glyphs``) or fetched once (``mnist``)."""
