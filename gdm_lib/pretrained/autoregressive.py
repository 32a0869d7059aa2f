"""Models of the chapters on autoregressive models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
    from gdm_lib.autoregressive.pixelcnn import PixelCNN
    from gdm_lib.autoregressive.pixelcnn_pp import PixelCNNpp
    from gdm_lib.autoregressive.wavenet import WaveNet

__all__ = [  # noqa: RUF022  (in the order of the chapters)
    "pixelcnn_mnist",
    "gated_glyphs",
    "pp_digits",
    "pp_full",
    "pp_softmax",
    "pp_no_downsampling",
    "pp_no_shortcuts",
    "wavenet_digits",
]


def pixelcnn_mnist() -> PixelCNN:
    """MNIST's digits, each pixel black from one half on and white below."""
    from gdm_lib.autoregressive.pixelcnn import PixelCNN

    return PixelCNN((1, 28, 28), levels=2, h=32, layers=12, head=64)


def gated_glyphs() -> GatedPixelCNN:
    """The twenty letters of ``data.glyphs.GLYPHS`` in 8 grey levels; ``y`` is the letter."""
    from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
    from gdm_lib.nn import ClassEmbedding

    return GatedPixelCNN(
        (1, 16, 16), levels=8, p=48, layers=8, context_dim=20, embed=ClassEmbedding(20, 20)
    )


def pp_digits() -> PixelCNNpp:
    """Digits of ``data.glyphs.COLOUR_DIGITS`` in 32 levels of each colour; ``y`` is the digit."""
    from gdm_lib.autoregressive.pixelcnn_pp import PixelCNNpp
    from gdm_lib.nn import ClassEmbedding

    return PixelCNNpp(
        (3, 16, 16),
        levels=32,
        components=5,
        features=24,
        blocks=1,
        dropout=0.0,
        context_dim=10,
        embed=ClassEmbedding(10, 10),
    )


def _ablation(**changes: Any) -> PixelCNNpp:
    """The green of ``data.glyphs.COLOUR_GLYPHS`` in 256 levels; the same in all but what is
    named."""
    from gdm_lib.autoregressive.pixelcnn_pp import PixelCNNpp

    return PixelCNNpp((1, 16, 16), components=5, features=18, blocks=1, dropout=0.0, **changes)


def pp_full() -> PixelCNNpp:
    """What the ablations are compared with."""
    return _ablation()


def pp_softmax() -> PixelCNNpp:
    """``pp_full`` with a softmax over the levels instead of a mixture of logistics."""
    from gdm_lib.likelihoods import Softmax

    return _ablation(likelihood=Softmax(256))


def pp_no_downsampling() -> PixelCNNpp:
    """``pp_full`` at one resolution."""
    return _ablation(strides=(1, 1))


def pp_no_shortcuts() -> PixelCNNpp:
    """``pp_full`` without connections from the way down to the way up."""
    return _ablation(shortcuts=False)


def wavenet_digits() -> WaveNet:
    """Spoken digits of two voices, 0.55 s at 8 kHz; ``y`` is what ``data.fsdd.spoken`` tells."""
    from gdm_lib.autoregressive.wavenet import Upsample, WaveNet, dilations

    features = 10 * 8 + 2 + 1  # eight phases of each digit, the voices, silence
    return WaveNet(
        (4400,),
        residual=32,
        skip=64,
        dilations=dilations(2, 10),
        context_dim=16,
        embed=nn.Sequential(nn.Conv1d(features, 16, 3, padding=1), Upsample(16, 16, 80)),
    )
