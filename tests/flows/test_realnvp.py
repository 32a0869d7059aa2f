"""What 1605.08803 claims of Real NVP, asserted."""

import math

import torch
from torch import nn

from gdm_lib.bijections import Flow, Logit, Squeeze
from gdm_lib.data.toy2d import two_moons
from gdm_lib.flows import realnvp as paper
from gdm_lib.flows.realnvp import (
    AffineCoupling,
    CheckerboardCoupling,
    RealNVP,
    ResNet,
    checkerboard,
)
from gdm_lib.metrics import bits_per_dim
from gdm_lib.protocols import LikelihoodModel
from tests.helpers import seeded


def image_model(**kwargs) -> RealNVP:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RealNVP.image((1, 8, 8), levels=17, hidden=8, blocks=1, **kwargs)


def levels(n: int = 6) -> torch.Tensor:
    return torch.randint(0, 17, (n, 1, 8, 8), generator=seeded()) / 16


def test_keeps_the_contract():
    vector, image = RealNVP.vector(3), image_model()
    assert paper.ARXIV == "1605.08803"
    assert isinstance(vector, LikelihoodModel)
    assert isinstance(image, LikelihoodModel)
    assert (vector.bound, image.bound) == (False, True)
    assert vector.eval().sample(4).shape == (4, 3)
    assert image.eval().sample(4).shape == (4, 1, 8, 8)


def test_coupling_is_equation_7():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        coupling = AffineCoupling(4, nn.Linear(2, 4))
        coupling.scale.data.uniform_(0.5, 2)
    x = torch.randn(5, 4, generator=seeded())
    with torch.no_grad():
        raw, t = coupling.net(x[:, :2]).chunk(2, 1)
        s = coupling.scale * torch.tanh(raw)
        z, logdet = coupling(x)
    torch.testing.assert_close(z, torch.cat([x[:, :2], x[:, 2:] * s.exp() + t], 1))
    torch.testing.assert_close(logdet, s.sum(1))


def test_the_checkerboard_and_its_coupling_are_equation_9():
    assert checkerboard(2, 3).tolist() == [[[0, 1, 0], [1, 0, 1]]]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        coupling = CheckerboardCoupling((2, 4, 4), ResNet(2, 8, 4, 1))
        other = CheckerboardCoupling((2, 4, 4), ResNet(2, 8, 4, 1), second=True)
    x, b = torch.randn(3, 2, 4, 4, generator=seeded()), checkerboard(4, 4)
    with torch.no_grad():
        raw, t = coupling.net(b * x).chunk(2, 1)
        s = torch.tanh(raw)
        z, logdet = coupling(x)
    torch.testing.assert_close(z, b * x + (1 - b) * (x * s.exp() + t))
    torch.testing.assert_close(logdet, ((1 - b) * s).sum((1, 2, 3)))
    assert torch.equal(other.mask, 1 - b)


def test_the_channel_mask_after_a_squeeze_is_not_the_checkerboard_again():
    """Section 3.6: the two partitions must differ. On a grey image: rows against diagonals."""
    board = Squeeze()(checkerboard(4, 4)[None])[0]
    assert (board == board[:, :, :1, :1]).all()
    assert len(board[0, :2, 0, 0].unique()) == 2, "half of the channels holds both colours"


def test_later_latents_see_the_whole_image_and_early_ones_their_neighbourhood():
    model = image_model(scales=3).eval()
    x = torch.full((1, 1, 8, 8), 0.5)
    jacobian = torch.autograd.functional.jacobian(lambda v: model.bijection(v)[0], x)[0, :, 0]
    assert (jacobian[-1] != 0).all()


# -- section 4: the models


def test_image_model_reports_bits_per_dimension_of_the_levels():
    model, x = image_model().eval(), levels()
    terms = model.loss(x, generator=seeded())
    told = bits_per_dim(model.log_prob(x, generator=seeded()), (1, 8, 8)).mean()
    torch.testing.assert_close(terms["bits_per_dim"], told.detach())
    flow = Flow(model.bijection, model.base)
    z, _ = model.dequantise(x, generator=seeded())
    by_hand = -(flow.log_prob(z) / 64 - math.log(17)) / math.log(2)
    torch.testing.assert_close(told, by_hand.mean())
    assert isinstance(model.bijection.parts[0], Logit)


def test_samples_of_an_image_model_are_its_data_s_kind():
    model = image_model().eval()
    x = model.sample(5, generator=seeded())
    assert torch.isfinite(model.log_prob(x, generator=seeded())).all()


def test_every_parameter_of_the_image_model_learns():
    model = image_model(scales=3)
    model.loss(levels())["loss"].backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def test_density_of_known_entropy_is_learned():
    """Two moons to within 0.12 nats in three seconds; its chapter does better."""
    target = two_moons()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RealNVP.vector(2, couplings=6, batch_norm=False)
    x = target.sample(20_000, generator=seeded())
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 500)
    for i in range(500):
        optimiser.zero_grad()
        rows = torch.randint(0, 20_000, (256,), generator=seeded(i))
        model.loss(x[rows])["loss"].backward()
        optimiser.step()
        decay.step()
    model.eval()
    held_out = target.sample(4000, generator=seeded(1))
    with torch.no_grad():
        gap = float(model.loss(held_out)["loss"]) - float(target.entropy)
    assert -0.05 < gap < 0.12
