"""Every message that names a cure: it is provoked, its advice followed to the letter, and what
comes of that is compared with what was found by another way.

``advice.py`` lists the messages; one without an entry here fails.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib import viz
from gdm_lib.autoregressive import MADE, PixelCNNpp
from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
from gdm_lib.autoregressive.made import MaskedMLP, random_degrees
from gdm_lib.autoregressive.wavenet import mu_law_encode
from gdm_lib.bijections import BatchNorm, Dequantise, Flow, Logit, OneHot, Squeeze
from gdm_lib.data import glyphs
from gdm_lib.data.tones import AutoregressiveProcess
from gdm_lib.flows import IAF, MAF, NICE, Glow, RealNVP
from gdm_lib.flows.glow import ActNorm
from gdm_lib.flows.nice import AdditiveCoupling
from gdm_lib.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Gaussian,
    IsotropicGaussian,
    MixtureOfGaussians,
)
from gdm_lib.metrics import ppca_log_likelihood
from gdm_lib.nn import ClassEmbedding, mlp
from gdm_lib.vae import VAE, BottomPrior
from gdm_lib.vae.vqvae import AutoregressiveLikelihood
from tests.helpers import seeded
from tests.inputs.advice import LIBRARY, place_of, places
from tests.inputs.follow import followed
from tests.zoo import made

OTHERS = (  # what reads files and the network, trains, or checks answers has tests of its own
    "__main__.py", "_lazy.py", "_loop.py", "_batches.py", "_checkpoint.py", "_players.py",
    "_files.py", "_tensorfile.py", "training.py",
    "cli.py", "pretrained", "recipes", "exercises", "widgets", "data/_download.py",
    "data/mnist.py", "data/fsdd.py", "data/dcss.py", "viz/families.py",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cure:
    """An error, what its advice says, and whether following it gave what it should."""

    refused: Callable[[], Any]
    told: str
    """The advice, as the message has it."""
    follow: Callable[[str], Any]
    """Of the message: the advice as code."""
    right: Callable[[Any], bool] = lambda _: True


def close(got: Tensor, wanted: Any, within: float = 1e-5) -> bool:
    return torch.allclose(got.double(), torch.as_tensor(wanted).double(), atol=within)


def code(**values: Any) -> Callable[[str], Any]:
    """The advice is code, behind "take"."""
    return lambda message: followed(message, **values)


def refuses(call: Callable[[], Any]) -> Exception:
    with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
        call()
    return caught.value


BITS = torch.tensor([[1.0, 0.0, 1.0]])
LOGITS = torch.tensor([[0.3, -0.2, 1.0]])
GREY = torch.tensor([[0.9, 0.2, 0.6]])
PICTURE = (255 * torch.rand(3, 1, 4, 4, generator=seeded())).byte()
POINTS = torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]])
LABELS = torch.tensor([0, 2, 1])
MADE_OF_Y = MADE((2,), (8,), likelihood=Gaussian(), context_dim=3, embed=OneHot(3))
COUPLING = AdditiveCoupling(2, mlp((1 + 3, 4, 1)), context_dim=3)
FREE_COUPLING = AdditiveCoupling(2, mlp((1, 4, 1)))
FRESH: dict[str, Any] = {"levels": 4, "components": 2, "features": 4, "blocks": 1, "strides": ()}
TOLD_PIXELS = AutoregressiveLikelihood(
    GatedPixelCNN((1, 2, 2), levels=2, p=4, layers=1, context_dim=3)
)
FINER_CODES = BottomPrior(
    (1, 2, 2), [(2, 1, 1)], levels=2, p=4, layers=1, blocks=1, level_features=2, classes=3
)
FLAT = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 2, 0], [0, -2, 0]])
CONTEXT = F.one_hot(LABELS, 3).float()


def bits_by_hand(bits: Tensor) -> Tensor:
    """log p of bits under ``LOGITS``."""
    p = 1 / (1 + (-LOGITS.double()).exp())
    return (bits.double() * p.log() + (1 - bits.double()) * (1 - p).log()).sum(1)


def normal_by_hand(x: Tensor, mean: Tensor, std: float = 1.0) -> Tensor:
    each = torch.distributions.Normal(mean.double(), std).log_prob(x.double())
    return each.flatten(1).sum(1)


def initialised() -> PixelCNNpp:
    model = PixelCNNpp((1, 4, 4), **FRESH)
    model.initialise(torch.randint(4, (8, 1, 4, 4), generator=seeded()))
    return model


def grown(step: Callable[[nn.Module], Any]) -> nn.Module:
    module = initialised()
    step(module)
    return module


def mixture(params: Tensor, x: Tensor) -> Tensor:
    """log p of one variable a row under two Gaussians, by hand."""
    w, mean, alpha = params.double().chunk(3, 1)
    density = (
        torch.softmax(w, 1)
        * torch.distributions.Normal(mean, alpha.exp()).log_prob(x.double()[:, None]).exp()
    )
    return density.sum(1).log().sum(1)


def of_one_variable(flow: Any) -> bool:
    """A density on the line: it integrates to 1."""
    line = torch.linspace(-30, 30, 20001)[:, None]
    return close(torch.trapezoid(flow.log_prob(line).exp(), line[:, 0]), 1.0)


def drawn(sampled: str, shown: str) -> Tensor:
    """Glyphs of some characters, drawn as if of others."""
    factors = glyphs.sample_factors(40, characters=sampled, generator=seeded())
    return glyphs.draw(factors, characters=shown)


CURES: dict[str, Cure] = {
    # -- bits
    "grey values to a Bernoulli": Cure(
        lambda: Bernoulli().log_prob(LOGITS, GREY),
        "binarise it, (x > 0.5).to(torch.float32) or torch.bernoulli(x), or take another",
        lambda _: (GREY > 0.5).to(torch.float32),
        lambda x: close(Bernoulli().log_prob(LOGITS, x), bits_by_hand(BITS)),
    ),
    "grey values to a Bernoulli, drawn": Cure(
        lambda: Bernoulli().log_prob(LOGITS, GREY),
        "torch.bernoulli(x)",
        lambda _: torch.bernoulli(GREY.expand(9000, 3), generator=seeded()),
        lambda x: (x.mean(0) - GREY).abs().max() < 0.02,
    ),
    "bytes as floats to a Bernoulli": Cure(
        lambda: Bernoulli().log_prob(LOGITS, torch.tensor([[250.0, 100.0, 128.0]])),
        "(x / 255 > 0.5).to(torch.float32) or torch.bernoulli(x / 255)",
        lambda _: (torch.tensor([[250.0, 100.0, 128.0]]) / 255 > 0.5).to(torch.float32),
        lambda x: close(Bernoulli().log_prob(LOGITS, x), bits_by_hand(BITS)),
    ),
    "numbers to a Bernoulli": Cure(
        lambda: Bernoulli().log_prob(LOGITS, torch.tensor([[-2.0, 0.5, 3.5]])),
        "take another likelihood, such as Gaussian()",
        lambda _: Gaussian(),
        lambda like: close(
            like.log_prob(torch.zeros(1, 2, 3), torch.tensor([[-2.0, 0.5, 3.5]])),
            normal_by_hand(torch.tensor([[-2.0, 0.5, 3.5]]), torch.zeros(1, 3)),
            1e-3,  # the variance has a smooth floor
        ),
    ),
    "bits as integers to a Bernoulli": Cure(
        lambda: Bernoulli().log_prob(LOGITS, BITS.byte()),
        "take x.to(torch.float32)",
        code(x=BITS.byte()),
        lambda x: close(Bernoulli().log_prob(LOGITS, x), bits_by_hand(BITS)),
    ),
    "bytes to a Gaussian": Cure(
        lambda: IsotropicGaussian().log_prob(torch.zeros(3, 1, 4, 4), PICTURE),
        "take x / 255",
        code(x=PICTURE),
        lambda x: close(
            IsotropicGaussian().log_prob(torch.zeros(3, 1, 4, 4), x),
            normal_by_hand(PICTURE.double() / 255, torch.zeros(3, 1, 4, 4)),
        ),
    ),
    # -- parameters of another shape
    "params of a Gaussian": Cure(
        lambda: Gaussian().log_prob(torch.zeros(3, 2), POINTS),
        "give the network the output shape that params_shape(data_shape) names",
        lambda _: torch.zeros(3, *Gaussian().params_shape((2,))),
        lambda params: close(
            Gaussian().log_prob(params, POINTS), normal_by_hand(POINTS, torch.zeros(3, 2)), 1e-3
        ),
    ),
    "params of a mixture": Cure(
        lambda: MixtureOfGaussians(2).log_prob(torch.zeros(3, 2, 2), POINTS),
        "give the network as many outputs as params_shape names",
        lambda _: torch.randn(3, *MixtureOfGaussians(2).params_shape((2,)), generator=seeded()),
        lambda params: close(
            MixtureOfGaussians(2).log_prob(params, POINTS), mixture(params, POINTS)
        ),
    ),
    "params of logistics": Cure(
        lambda: DiscretizedLogisticMixture(3, 2).log_prob(
            torch.zeros(1, 5, 1), torch.tensor([[[1]]])
        ),
        "give the network as many outputs as params_shape names",
        lambda _: torch.zeros(1, *DiscretizedLogisticMixture(3, 2).params_shape((1, 1))),
        lambda params: close(  # the middle bin of [-1, 1] under a logistic of mean 0 and scale 1
            DiscretizedLogisticMixture(3, 2).log_prob(params, torch.tensor([[[1]]])),
            [math.log(1 / (1 + math.exp(-0.5)) - 1 / (1 + math.exp(0.5)))],
            1e-3,  # the scale has a smooth floor
        ),
    ),
    "channels of a likelihood": Cure(
        lambda: DiscretizedLogisticMixture(4).params_shape((3, 2, 2)),
        "make the likelihood with channels=3",
        lambda _: DiscretizedLogisticMixture(4, channels=3),
        lambda like: like.params_shape((3, 2, 2)) == (10 * (1 + 3 + 3 + 3), 2, 2),
    ),
    # -- the shape and the kind of data
    "an array of doubles": Cure(
        lambda: made("maf").log_prob(np.zeros((3, 4))),
        "take torch.as_tensor(x)",
        code(x=np.zeros((3, 4))),
        lambda x: close(made("maf").eval().log_prob(x), made("maf").eval().log_prob(x.float())),
    ),
    "channels last": Cure(
        lambda: made("glow").log_prob(torch.zeros(2, 4, 4, 1)),
        "take x.movedim(-1, 1)",
        code(x=(torch.arange(32.0).view(2, 4, 4, 1) % 4) / 3),
        lambda x: torch.equal(x[1, 0], (torch.arange(16, 32).view(4, 4) % 4) / 3),
    ),
    "bytes to Glow": Cure(
        lambda: Glow((1, 4, 4), levels=256, steps=1, scales=1, hidden=4).log_prob(PICTURE),
        "take x / 255",
        code(x=PICTURE),
        lambda x: (
            torch.equal((x * 255).round().byte(), PICTURE)
            and Glow((1, 4, 4), levels=256, steps=1, scales=1, hidden=4)
            .log_prob(x)
            .isfinite()
            .all()
        ),
    ),
    "bytes to a flow of fewer levels": Cure(
        lambda: made("nice_levels").log_prob(torch.tensor([[[[0, 80], [90, 255]]]]).byte()),
        "take (x / 255 * 3).round() / 3",
        code(x=torch.tensor([[[[0, 80], [90, 255]]]]).byte()),
        lambda x: (
            close(x.flatten() * 3, [0, 1, 1, 3])
            and made("nice_levels").log_prob(x).isfinite().all()
        ),
    ),
    "levels to a flow of grey values": Cure(
        lambda: made("nice_levels").log_prob(torch.tensor([[[[0, 1], [2, 3]]]])),
        "take x / 3",
        code(x=torch.tensor([[[[0, 1], [2, 3]]]])),
        lambda x: close(
            made("nice_levels").dequantise.inverse(made("nice_levels").dequantise(x)[0])[0], x
        ),
    ),
    "grey values between the levels": Cure(
        lambda: Dequantise(4)(torch.tensor([[0.3, 0.9]])),
        "quantise the data; take (x * 3).round() / 3",
        code(x=torch.tensor([[0.3, 0.9]])),
        lambda x: close(x, [[1 / 3, 1]]) and Dequantise(4)(x)[0].isfinite().all(),
    ),
    "grey values of more levels": Cure(
        lambda: Dequantise(4)(torch.tensor([[1 / 16, 0.5]])),
        "set levels to what they have",
        lambda _: Dequantise(17),
        lambda d: close(d.inverse(d(torch.tensor([[1 / 16, 0.5]]))[0])[0], [[1 / 16, 0.5]]),
    ),
    "grey values from -1 to 1": Cure(
        lambda: Dequantise(4)(torch.tensor([[-1.0, 0.3]])),
        "take ((x + 1) / 2 * 3).round() / 3",
        code(x=torch.tensor([[-1.0, 1 / 3]])),
        lambda x: close(x, [[0, 2 / 3]]),
    ),
    "bytes as floats between the levels": Cure(
        lambda: Dequantise(256)(torch.tensor([[51.0, 255.0]])),
        "take x / 255",
        code(x=torch.tensor([[51.0, 255.0]])),
        lambda x: close(x, [[0.2, 1]]),
    ),
    "bytes to a Gaussian VAE": Cure(
        lambda: VAE.mlp((1, 4, 4), 2, likelihood=IsotropicGaussian()).log_prob(PICTURE),
        "take x / 255",
        code(x=PICTURE),
        lambda x: close(x * 255, PICTURE),
    ),
    "bytes to a VAE of bits": Cure(
        lambda: VAE.mlp((1, 4, 4), 2, hidden=(4,)).log_prob(PICTURE),
        "take (x / 255).round()",
        code(x=PICTURE),
        lambda x: (
            torch.equal(x, (PICTURE > 127).float())
            and VAE.mlp((1, 4, 4), 2, hidden=(4,)).log_prob(x).isfinite().all()
        ),
    ),
    "a logit's end": Cure(
        lambda: Logit(0.0)(torch.tensor([[0.0, 0.5]])),
        "take a larger alpha",
        lambda _: Logit(0.05)(torch.tensor([[0.0, 0.5]]))[0],
        lambda z: close(z, [[math.log(0.05 / 0.95), 0]]),
    ),
    "beyond a logit": Cure(
        lambda: Logit(0.05)(torch.tensor([[0.0, 4.0]])),
        "scale the data",
        lambda _: Logit(0.05)(torch.tensor([[0.0, 4.0]]) / 4)[0],
        lambda z: close(z, [[math.log(0.05 / 0.95), math.log(0.95 / 0.05)]]),
    ),
    "an odd image to be squeezed": Cure(
        lambda: Squeeze()(torch.ones(2, 1, 3, 4)),
        "pad the images",
        lambda _: Squeeze()(F.pad(torch.ones(2, 1, 3, 4), (0, 0, 0, 1)))[0],
        lambda z: z.shape == (2, 4, 2, 2) and float(z.sum()) == 24,
    ),
    # -- conditions
    "labels to a model without condition": Cure(
        lambda: made("realnvp").log_prob(torch.zeros(3, 4), LABELS),
        "leave y out, or make one with context_dim",
        lambda _: made("realnvp").log_prob(torch.zeros(3, 4)),
        lambda value: value.shape == (3,),
    ),
    "labels to a model without condition, which is made with one": Cure(
        lambda: made("realnvp").log_prob(torch.zeros(3, 4), LABELS),
        "make one with context_dim",
        lambda _: RealNVP.vector(4, hidden=(8,), context_dim=3, embed=OneHot(3)),
        lambda model: model.log_prob(torch.zeros(3, 4), LABELS).shape == (3,),
    ),
    "no condition": Cure(
        lambda: MADE_OF_Y.log_prob(POINTS),
        "this model was made with context_dim=3",
        lambda _: MADE_OF_Y.log_prob(POINTS, LABELS),
        lambda value: close(value[1:2], MADE_OF_Y.log_prob(POINTS[1:2], LABELS[1:2])),
    ),
    "labels without an embedding": Cure(
        lambda: MAF(2, hidden=(8,), context_dim=3).log_prob(POINTS, LABELS),
        "for labels make the model with embed=OneHot(3)",
        lambda _: MAF(2, hidden=(8,), context_dim=3, embed=OneHot(3)).eval(),
        lambda model: close(
            model.log_prob(POINTS, LABELS),
            Flow(model.bijection, model.base).eval().log_prob(POINTS, CONTEXT),
        ),
    ),
    "whole numbers for context": Cure(
        lambda: MAF(2, hidden=(8,), context_dim=3).log_prob(POINTS, CONTEXT.long()),
        "for other numbers take y.float()",
        lambda _: CONTEXT.long().float(),
        lambda y: MAF(2, hidden=(8,), context_dim=3).eval().log_prob(POINTS, y).shape == (3,),
    ),
    "a context of too few features": Cure(
        lambda: MAF(2, hidden=(8,), context_dim=3).log_prob(POINTS, CONTEXT[:, :2]),
        "give such a context",
        lambda _: MAF(2, hidden=(8,), context_dim=3).eval().log_prob(POINTS, CONTEXT),
        lambda value: value.shape == (3,),
    ),
    "an embedding of too few features": Cure(
        lambda: MAF(2, hidden=(8,), context_dim=5, embed=OneHot(3)).log_prob(POINTS, LABELS),
        "make embed put out as many features",
        lambda _: MAF(2, hidden=(8,), context_dim=5, embed=ClassEmbedding(3, 5)).eval(),
        lambda model: model.log_prob(POINTS, LABELS).shape == (3,),
    ),
    "one label for all": Cure(
        lambda: MADE_OF_Y.log_prob(POINTS, 2),
        "take torch.full((3,), y)",
        code(y=2),
        lambda y: torch.equal(y, torch.tensor([2, 2, 2])),
    ),
    "labels as whole floats": Cure(
        lambda: MADE_OF_Y.log_prob(POINTS, LABELS.double()),
        "take y.long()",
        code(y=LABELS.double()),
        lambda y: torch.equal(y, LABELS),
    ),
    "no context to a bijection": Cure(
        lambda: COUPLING(POINTS),
        "this bijection was made with context_dim=3",
        lambda _: COUPLING(POINTS, CONTEXT)[0],
        lambda z: close(COUPLING.inverse(z, CONTEXT)[0], POINTS),
    ),
    "a context to a bijection without": Cure(
        lambda: FREE_COUPLING(POINTS, CONTEXT),
        "this bijection takes no context, make it with context_dim",
        lambda _: AdditiveCoupling(2, mlp((1 + 3, 4, 1)), context_dim=3)(POINTS, CONTEXT)[0],
        lambda z: z.shape == (3, 2),
    ),
    "a context of one row to a bijection": Cure(
        lambda: COUPLING(POINTS, CONTEXT[:1]),
        "give one row for each item",
        lambda _: COUPLING(POINTS, CONTEXT[:1].expand(3, -1))[0],
        lambda z: close(z[1:2], COUPLING(POINTS[1:2], CONTEXT[:1])[0]),
    ),
    "a context for each place": Cure(
        lambda: PixelCNNpp((1, 4, 4), context_dim=3, **FRESH).log_prob(
            torch.zeros(2, 1, 4, 4).long(), torch.zeros(2, 3, 4, 4)
        ),
        "y must give a context of shape (B, 3)",
        lambda _: PixelCNNpp((1, 4, 4), context_dim=3, **FRESH).log_prob(
            torch.zeros(2, 1, 4, 4).long(), torch.zeros(2, 3)
        ),
        lambda value: value.shape == (2,),
    ),
    "a mask of numbers": Cure(
        lambda: made("pixelcnn").complete(torch.zeros(2, 1, 3, 3).long(), torch.ones(3, 3)),
        "take known.bool()",
        code(known=torch.ones(3, 3)),
        lambda known: not made("pixelcnn").complete(torch.zeros(2, 1, 3, 3).long(), known).any(),
    ),
    # -- what models are made of
    "a trained PixelCNN++": Cure(
        lambda: initialised().initialise(torch.zeros(4, 1, 4, 4).long()),
        "initialise a new model",
        lambda _: initialised(),
        lambda model: all(p.isfinite().all() for p in model.parameters()),
    ),
    "a trained PixelCNN++ again": Cure(
        lambda: initialised().initialise(torch.zeros(4, 1, 4, 4).long()),
        "give again=True",
        lambda _: grown(
            lambda m: m.initialise(torch.randint(4, (9, 1, 4, 4), generator=seeded(1)), again=True)
        ),
        lambda model: all(p.isfinite().all() for p in model.parameters()),
    ),
    "an embedding without a context": Cure(
        lambda: PixelCNNpp((1, 4, 4), embed=OneHot(3), **FRESH),
        "for OneHot(K) that is K, without a condition leave embed out",
        lambda _: PixelCNNpp((1, 4, 4), embed=OneHot(3), context_dim=3, **FRESH).eval(),
        lambda model: model.sample(3, LABELS).shape == (3, 1, 4, 4),
    ),
    "a class for a module": Cure(
        lambda: PixelCNNpp((1, 4, 4), embed=OneHot, context_dim=3, **FRESH),
        "make one of it, OneHot(...)",
        lambda _: PixelCNNpp((1, 4, 4), embed=OneHot(3), context_dim=3, **FRESH).eval(),
        lambda model: model.sample(3, LABELS).shape == (3, 1, 4, 4),
    ),
    "one order": Cure(
        lambda: MaskedMLP(3, (8,), orders=[0, 2, 1]),
        "one order alone is [order]",
        lambda _: MaskedMLP(3, (8,), orders=[[0, 2, 1]]),
        lambda net: net.degrees(0).tolist() == [1, 3, 2],
    ),
    "many masks of one kind": Cure(
        lambda: MADE((3,), (8,), masks=2),
        "take degrees=random_degrees",
        lambda _: MADE((3,), (8,), masks=2, degrees=random_degrees),
        lambda model: close(
            model.log_prob(torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)).exp().sum(), 1.0
        ),
    ),
    "colours to MADE": Cure(
        lambda: MADE((3, 2, 2), (8,), likelihood=DiscretizedLogisticMixture(4, 2, 3)),
        "make it with channels=1",
        lambda _: MADE((2,), (8,), likelihood=DiscretizedLogisticMixture(3, 2, channels=1)),
        lambda model: close(
            model.log_prob(torch.cartesian_prod(*[torch.arange(3)] * 2)).exp().sum(), 1.0
        ),
    ),
    "one variable to NICE": Cure(
        lambda: NICE((1,)),
        "for one variable take MAF(1)",
        lambda _: MAF(1).eval(),
        of_one_variable,
    ),
    "one variable to a coupling": Cure(
        lambda: AdditiveCoupling(1, nn.Identity()),
        "or IAF(1)",
        lambda _: IAF(1).eval(),
        of_one_variable,
    ),
    "one width": Cure(
        lambda: MAF(3, hidden=8),
        "one alone is (8,)",
        lambda _: MAF(3, hidden=(8,)).eval(),
        lambda model: model.log_prob(torch.zeros(2, 3)).shape == (2,),
    ),
    "an image without colours": Cure(
        lambda: Glow((4, 4)),
        "a grey image has C = 1",
        lambda _: Glow((1, 4, 4), levels=4, steps=1, hidden=4),
        lambda model: model.sample(2).shape == (2, 1, 4, 4),
    ),
    "an image of odd size": Cure(
        lambda: Glow((1, 6, 8), levels=4, steps=1, hidden=4),
        "pad the images",
        lambda _: Glow(
            (1, *F.pad(torch.zeros(6, 8), (0, 0, 1, 1)).shape), levels=4, steps=1, hidden=4
        ),
        lambda model: model.sample(2).shape == (2, 1, 8, 8),
    ),
    "a shape with channels last": Cure(
        lambda: Glow((4, 8, 3), levels=4, steps=1, hidden=4),
        "channels come first: (3, 4, 8)",
        lambda _: Glow((3, 4, 8), levels=4, steps=1, hidden=4),
        lambda model: model.sample(2).shape == (2, 3, 4, 8),
    ),
    "too small an image": Cure(
        lambda: RealNVP.image((1, 4, 4), scales=3, hidden=4, blocks=1),
        "take fewer scales",
        lambda _: RealNVP.image((1, 4, 4), scales=2, hidden=4, blocks=1).eval(),
        lambda model: model.sample(2).shape == (2, 1, 4, 4),
    ),
    "the inverse of a batch norm in training": Cure(
        lambda: BatchNorm(2).train().inverse(POINTS),
        "call eval() of the model first",
        lambda _: BatchNorm(2).eval().inverse(POINTS)[0],
        lambda x: close(x, POINTS.double() * math.sqrt(1 + 1e-5)),
    ),
    "a constant channel to an actnorm": Cure(
        lambda: ActNorm(1).train()(torch.ones(1, 1, 2, 2)),
        "take a larger batch",
        lambda _: ActNorm(1).train()(torch.cat([torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)]))[
            0
        ],
        lambda z: close(z.mean(), 0.0) and close(z.square().mean(), 1.0),
    ),
    "a constant channel to an actnorm, dequantised": Cure(
        lambda: ActNorm(1).train()(torch.ones(1, 1, 2, 2)),
        "or dequantise",
        lambda _: ActNorm(1).train()(Dequantise(4)(torch.ones(1, 1, 2, 2), generator=seeded())[0])[
            0
        ],
        lambda z: close(z.mean(), 0.0) and close(z.square().mean(), 1.0),
    ),
    # -- sound
    "samples of a file": Cure(
        lambda: mu_law_encode(torch.tensor([-32768, 16384], dtype=torch.int16)),
        "take x / 32768",
        code(x=torch.tensor([-32768, 16384], dtype=torch.int16)),
        lambda x: mu_law_encode(x, 3).tolist() == [0, 2],
    ),
    "too loud": Cure(
        lambda: mu_law_encode(torch.tensor([-3.0, 1.5])),
        "divide it by the largest magnitude, x / x.abs().max()",
        lambda _: torch.tensor([-3.0, 1.5]) / torch.tensor([-3.0, 1.5]).abs().max(),
        lambda x: close(x, [-1, 0.5]) and mu_law_encode(x).tolist()[0] == 0,
    ),
    # -- measures, data, pictures
    "no variance left": Cure(
        lambda: ppca_log_likelihood(FLAT, 2),
        "take a smaller latent_dim",
        lambda _: ppca_log_likelihood(FLAT, 1),
        lambda found: math.isclose(found[1], (0.5 + 0) / 2),
    ),
    "factors of other characters": Cure(
        lambda: drawn("ABCDEF", "A"),
        "pass the characters that the factors were drawn with",
        lambda _: drawn("ABCDEF", "ABCDEF"),
        lambda pictures: pictures.shape == (40, 1, 32, 32),
    ),
    "a character that a font lacks": Cure(
        lambda: drawn("A\u4e2d", "A\u4e2d"),
        "leave one of them out",
        lambda _: drawn("A", "A"),
        lambda pictures: pictures.shape == (40, 1, 32, 32),
    ),
    "a chain that doesn't settle": Cure(
        lambda: AutoregressiveProcess(4, (0.97,), scale=0.16),
        "take a larger scale or smaller coefficients",
        lambda _: AutoregressiveProcess(4, (0.97,), scale=0.8),
        lambda process: 0 < process.entropy_rate < math.log(4),
    ),
    "an explosive chain": Cure(
        lambda: AutoregressiveProcess(4, (1.2,)),
        "make them smaller",
        lambda _: AutoregressiveProcess(4, (0.6,)),
        lambda process: 0 < process.entropy_rate < math.log(4),
    ),
    "levels as a picture": Cure(
        lambda: viz.image_grid(torch.tensor([[[0, 4], [8, 16]]])),
        "give vmax=levels - 1",
        lambda _: viz.image_grid(torch.tensor([[[0, 4], [8, 16]]]), vmax=17 - 1).images[0],
        lambda image: close(
            torch.tensor(np.asarray(image.get_array()))[..., 0], [[0, 0.25], [0.5, 1]]
        ),
    ),
    "axes for a figure": Cure(
        lambda: viz.show(plt.figure().add_subplot(), alt="Nothing."),
        "of axes, pass ax.figure",
        lambda _: viz.show(plt.figure().add_subplot().figure, alt="Nothing."),
    ),
    # -- codes
    "an autoregressive likelihood that hears nothing of the decoder": Cure(
        lambda: AutoregressiveLikelihood(GatedPixelCNN((1, 2, 2), levels=2, p=4, layers=1)),
        "with context_dim as many features and no embed",
        lambda _: TOLD_PIXELS,
        lambda like: like.params_shape((1, 2, 2)) == (3, 2, 2),
    ),
    "the mean of an autoregressive likelihood": Cure(
        lambda: TOLD_PIXELS.mean(torch.zeros(2, 3, 2, 2)),
        "draw from it, likelihood.sample(params)",
        lambda _: TOLD_PIXELS.sample(torch.zeros(2, 3, 2, 2), generator=seeded()),
        lambda x: x.shape == (2, 1, 2, 2) and bool(((x == 0) | (x == 1)).all()),
    ),
    "finer codes without the class that their prior is told": Cure(
        lambda: FINER_CODES.given([torch.zeros(3, 1, 1, dtype=torch.int64)]),
        "y must have one label for each of 3 items",
        lambda _: FINER_CODES.given([torch.zeros(3, 1, 1, dtype=torch.int64)], LABELS),
        lambda y: torch.equal(y, torch.stack([LABELS, torch.zeros_like(LABELS)], 1)),
    ),
}


@pytest.fixture(autouse=True)
def _closed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    plt.close("all")


@pytest.mark.parametrize("name", CURES)
def test_following_the_advice_is_right(name):
    cure = CURES[name]
    message = str(refuses(cure.refused))
    assert cure.told in message
    with torch.no_grad():
        assert cure.right(cure.follow(message))


def test_every_message_that_gives_advice_has_its_entry():
    raised = [place_of(refuses(cure.refused)) for cure in CURES.values()]
    missing = [
        f"{file}:{first}"
        for path in sorted(LIBRARY.rglob("*.py"))
        if not str(path.relative_to(LIBRARY)).startswith(OTHERS)
        for file, first, last in places(path)
        if not any(where == file and first <= line <= last for where, line in raised)
    ]
    assert missing == []


def test_nan_is_said_as_such_and_nothing_is_advised():
    odd = torch.tensor([[0.0, 1.0], [0.0, math.nan]])
    for call in (
        lambda: Bernoulli().log_prob(odd, odd),
        lambda: Dequantise(4)(odd),
        lambda: Logit(0.05)(odd),
        lambda: mu_law_encode(odd),
        lambda: Categorical(2).log_prob(torch.zeros(2, 2, 2), odd),
        lambda: made("pixelcnn").log_prob(torch.full((1, 1, 3, 3), math.nan)),
        lambda: made("vae").log_prob(torch.full((1, 6), math.nan)),
        lambda: made("glow").log_prob(torch.full((1, 1, 4, 4), math.nan)),
    ):
        message = str(refuses(call))
        assert "nan at [" in message
        assert ";" not in message
