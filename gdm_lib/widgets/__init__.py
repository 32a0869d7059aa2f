"""Pictures that a reader moves, in JupyterLab and on a page without kernel."""

from gdm_lib.widgets._base import Widget
from gdm_lib.widgets._export import export
from gdm_lib.widgets.audio_probe import AudioProbe
from gdm_lib.widgets.latent_explorer import LatentExplorer, Slider, lerp, slerp
from gdm_lib.widgets.pixel_probe import PixelProbe
from gdm_lib.widgets.playground2d import Playground2D
from gdm_lib.widgets.step_through import StepThrough
from gdm_lib.widgets.sweep import Sweep

__all__ = [
    "AudioProbe",
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
