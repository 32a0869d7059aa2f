"""Autoregressive models.

A paper's models can be had from here, ``from gdm_lib.autoregressive import WaveNet``, and all
that it has from its own module.
"""

from typing import TYPE_CHECKING

from gdm_lib._lazy import lazily

if TYPE_CHECKING:
    from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN as GatedPixelCNN
    from gdm_lib.autoregressive.made import MADE as MADE
    from gdm_lib.autoregressive.pixelcnn import PixelCNN as PixelCNN
    from gdm_lib.autoregressive.pixelcnn import PixelNetwork as PixelNetwork
    from gdm_lib.autoregressive.pixelcnn_pp import PixelCNNpp as PixelCNNpp
    from gdm_lib.autoregressive.pixelrnn import PixelRNN as PixelRNN
    from gdm_lib.autoregressive.wavenet import WaveNet as WaveNet

__getattr__, __dir__ = lazily(
    __name__,
    {
        "gated_pixelcnn": ["GatedPixelCNN"],
        "made": ["MADE"],
        "pixelcnn": ["PixelCNN", "PixelNetwork"],
        "pixelcnn_pp": ["PixelCNNpp"],
        "pixelrnn": ["PixelRNN"],
        "wavenet": ["WaveNet"],
    },
)
