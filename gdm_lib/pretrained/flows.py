"""Models of the chapters on flows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gdm_lib.flows.glow import Glow
    from gdm_lib.flows.realnvp import RealNVP

__all__ = ["realnvp_glyphs", "glow_glyphs"]  # noqa: RUF022  (in the order of the chapters)


def realnvp_glyphs() -> RealNVP:
    """Letters of ``data.glyphs.GLYPHS`` in 16 grey levels."""
    from gdm_lib.flows.realnvp import RealNVP

    return RealNVP.image((1, 16, 16), levels=16, scales=3, hidden=24, blocks=1)


def glow_glyphs() -> Glow:
    """Letters of ``data.glyphs.GLYPHS`` in 16 grey levels."""
    from gdm_lib.flows.glow import Glow

    return Glow((1, 16, 16), levels=16, scales=3, steps=6, hidden=80)
