"""Pictures that a reader moves, in JupyterLab and on a page without kernel.

A kind and its script are read when it is first used. They need the extra ``book``.
"""

from typing import TYPE_CHECKING

from gdm_lib._lazy import lazily

if TYPE_CHECKING:
    from gdm_lib.widgets._base import Widget
    from gdm_lib.widgets._export import export
    from gdm_lib.widgets.audio_probe import AudioProbe
    from gdm_lib.widgets.code_painter import CodePainter
    from gdm_lib.widgets.latent_explorer import LatentExplorer, Slider, lerp, slerp
    from gdm_lib.widgets.pixel_probe import PixelProbe
    from gdm_lib.widgets.playground2d import Playground2D
    from gdm_lib.widgets.step_through import StepThrough
    from gdm_lib.widgets.sweep import Sweep

__all__ = [
    "AudioProbe",
    "CodePainter",
    "LatentExplorer",
    "PixelProbe",
    "Playground2D",
    "Slider",
    "StepThrough",
    "Sweep",
    "Widget",
    "export",
    "lerp",
    "slerp",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "_base": ["Widget"],
        "_export": ["export"],
        "audio_probe": ["AudioProbe"],
        "code_painter": ["CodePainter"],
        "latent_explorer": ["LatentExplorer", "Slider", "lerp", "slerp"],
        "pixel_probe": ["PixelProbe"],
        "playground2d": ["Playground2D"],
        "step_through": ["StepThrough"],
        "sweep": ["Sweep"],
    },
)
