"""What the models of the autoregressive family share, and no paper of them alone.

``Autoregressive`` is their base class: a product of conditionals, of which a ``Rule`` makes the
values place by place. ``PixelModel`` is that of images whose colours come one after the other.

The rest are samplers: layers and networks that remember what they have computed, so that a sample
costs about what one pass costs. ``NetworkStep`` runs masked convolutions at one pixel, ``RowConv``
and its kin run convolutions with strides, ``Queues`` dilated ones, ``sequential`` a masked network
of vectors.
"""

from typing import TYPE_CHECKING

from gdm_lib._lazy import lazily

if TYPE_CHECKING:
    from gdm_lib.autoregression.base import Autoregressive, Place, Rule
    from gdm_lib.autoregression.masked import MaskedNetwork, sequential, sequential_naive
    from gdm_lib.autoregression.pixels import (
        ConvolutionStep,
        NetworkStep,
        PixelModel,
        PixelStep,
        one_pixel,
    )
    from gdm_lib.autoregression.queues import DilatedNetwork, Queues
    from gdm_lib.autoregression.strided import PixelConv, PixelGrow, RowConv, RowGrow

__all__ = [
    "Autoregressive",
    "ConvolutionStep",
    "DilatedNetwork",
    "MaskedNetwork",
    "NetworkStep",
    "PixelConv",
    "PixelGrow",
    "PixelModel",
    "PixelStep",
    "Place",
    "Queues",
    "RowConv",
    "RowGrow",
    "Rule",
    "one_pixel",
    "sequential",
    "sequential_naive",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "base": ["Autoregressive", "Place", "Rule"],
        "masked": ["MaskedNetwork", "sequential", "sequential_naive"],
        "pixels": ["ConvolutionStep", "NetworkStep", "PixelModel", "PixelStep", "one_pixel"],
        "queues": ["DilatedNetwork", "Queues"],
        "strided": ["PixelConv", "PixelGrow", "RowConv", "RowGrow"],
    },
)
