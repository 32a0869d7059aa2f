"""Pictures that a reader moves, in JupyterLab and on a page without kernel."""

from gdm_lib.widgets._base import Widget
from gdm_lib.widgets._export import export
from gdm_lib.widgets.latent_explorer import LatentExplorer, Slider, lerp, slerp

__all__ = ["LatentExplorer", "Slider", "Widget", "export", "lerp", "slerp"]
