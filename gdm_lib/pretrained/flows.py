"""Models of the chapters on flows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gdm_lib.flows.glow import Glow

__all__ = ["glow_glyphs"]


def glow_glyphs() -> Glow:
    """Letters of ``data.glyphs.GLYPHS`` in 16 grey levels."""
    from gdm_lib.flows.glow import Glow

    return Glow((1, 16, 16), levels=16, scales=3, steps=6, hidden=80)
