"""What 1807.03039 claims of Glow, asserted."""

import copy
import math
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gdm_lib import pretrained
from gdm_lib.bijections import Chain, Flow, Permute, StandardNormal
from gdm_lib.data import glyphs
from gdm_lib.data.glyphs import GLYPHS
from gdm_lib.data.levels import quantise
from gdm_lib.flows import glow as paper
from gdm_lib.flows.glow import (
    ActNorm,
    ConvNet,
    Coupling,
    Glow,
    InvertibleConv,
    InvertibleConvLU,
    SplitPrior,
    log_exponential,
    log_sigmoid,
)
from gdm_lib.metrics import bits_per_dim
from gdm_lib.protocols import LikelihoodModel
from tests.helpers import seeded, shaken


def small(**kwargs) -> Glow:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Glow((1, 8, 8), levels=17, steps=2, hidden=8, **kwargs)


def levels(n: int = 8) -> torch.Tensor:
    return torch.randint(0, 17, (n, 1, 8, 8), generator=seeded()) / 16


def test_keeps_the_contract():
    model = small().eval()
    assert isinstance(model, LikelihoodModel)
    assert model.bound is True
    assert paper.ARXIV == "1807.03039"
    assert model.sample(4).shape == (4, 1, 8, 8)


# -- section 3.1: actnorm


@pytest.mark.parametrize("shape", [(64, 3), (16, 3, 4, 5)])
def test_actnorm_leaves_the_first_batch_with_mean_0_and_variance_1(shape):
    norm, x = ActNorm(3).double(), 5 * torch.randn(shape, generator=seeded()).double() + 3
    z, logdet = norm(x)
    flat = z.movedim(1, 0).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(3).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(flat.var(1, correction=0), torch.ones(3).double())
    pixels = math.prod(shape[2:])
    variances = x.movedim(1, 0).flatten(1).var(1, correction=0)
    torch.testing.assert_close(logdet[0], -0.5 * pixels * variances.log().sum())


def test_actnorm_looks_at_the_data_once_and_only_in_training():
    norm, x = ActNorm(2), torch.randn(50, 2, generator=seeded())
    norm.eval()
    assert torch.equal(norm(x)[0], x)
    assert not norm.ready
    norm.train()
    first = norm(3 * x + 1)[0].detach()
    before = copy.deepcopy(norm.state_dict())
    norm(100 * x)
    assert all(torch.equal(v, norm.state_dict()[k]) for k, v in before.items())
    torch.testing.assert_close(first.std(0, correction=0), torch.ones(2))


def test_actnorm_is_not_initialised_again_after_a_resume():
    norm, x = ActNorm(2), torch.randn(50, 2, generator=seeded())
    norm(3 * x + 1)
    resumed = ActNorm(2)
    resumed.load_state_dict(norm.state_dict())
    assert torch.equal(resumed(7 * x)[0], norm(7 * x)[0])


def test_actnorm_parameters_learn_from_the_first_step():
    norm = ActNorm(2)
    z, logdet = norm(torch.randn(50, 2, generator=seeded()) + 1)
    (z.pow(3).sum() + logdet.sum()).backward()
    assert (norm.shift.grad != 0).all()
    assert (norm.log_scale.grad != 0).all()


def test_actnorm_refuses_a_batch_without_variance():
    with pytest.raises(ValueError, match="x must vary in every channel of the first batch"):
        ActNorm(2)(torch.ones(5, 2))
    with pytest.raises(ValueError, match="x must vary"):
        ActNorm(2)(torch.randn(1, 2))


WORKER = """
import sys, torch, torch.distributed as dist
from safetensors.torch import save_file
from gdm_lib.flows.glow import ActNorm
rank, meeting, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2)
x = torch.randn(30, 3, 2, 2, generator=torch.Generator().manual_seed(0)) * 4 + 2
norm = ActNorm(3)
norm(x[:10] if rank == 0 else x[10:])
save_file(norm.state_dict(), out + str(rank))
dist.destroy_process_group()
"""


def test_actnorm_of_two_processes_is_that_of_one(tmp_path):
    """Each sees a part, of another size; both must come out with the statistics of the whole."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["PYTHONPATH"] = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    runs = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                WORKER,
                str(rank),
                str(tmp_path / "meet"),
                str(tmp_path / "out"),
            ],
            env=environment,
        )
        for rank in (0, 1)
    ]
    assert [run.wait(60) for run in runs] == [0, 0]
    alone = ActNorm(3)
    alone(torch.randn(30, 3, 2, 2, generator=seeded()) * 4 + 2)
    for rank in (0, 1):
        for name, value in load_file(f"{tmp_path}/out{rank}").items():
            torch.testing.assert_close(value, alone.state_dict()[name])


# -- section 3.2: invertible 1x1 convolution


@pytest.mark.parametrize("cls", [InvertibleConv, InvertibleConvLU])
def test_convolution_starts_as_a_rotation(cls):
    conv = cls(6, seeded())
    weight, logdet = conv.matrix()
    torch.testing.assert_close(weight @ weight.T, torch.eye(6), atol=1e-5, rtol=0)
    assert abs(float(logdet.detach())) < 1e-5
    assert torch.equal(weight, cls(6, seeded()).matrix()[0])


def test_both_start_as_the_same_rotation():
    torch.testing.assert_close(
        InvertibleConv(6, seeded()).matrix()[0], InvertibleConvLU(6, seeded()).matrix()[0]
    )


@pytest.mark.parametrize("seed", range(5))
def test_lu_logdet_is_slogdet_and_its_inverse_the_inverse(seed):
    conv = shaken(InvertibleConvLU(6, seeded(seed)).double(), 0.3)
    weight, logdet = conv.matrix()
    torch.testing.assert_close(logdet, torch.linalg.slogdet(weight).logabsdet)
    inverse, same = conv.inverse_matrix()
    torch.testing.assert_close(inverse, torch.linalg.inv(weight))
    torch.testing.assert_close(same, logdet)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 16])
def test_triangular_matrices_are_inverted_by_products_alone(size):
    lower = torch.randn(size, size, generator=seeded(), dtype=torch.float64).tril(-1)
    lower = 0.5 * lower + torch.eye(size).double()
    for triangular in (lower, lower.T):
        torch.testing.assert_close(paper._unit_inverse(triangular), torch.linalg.inv(triangular))


def test_what_a_page_decodes_is_what_torch_decodes():
    """An exported model has no solver, and must not be for one batch size."""
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    from gdm_lib.widgets import export

    conv = shaken(InvertibleConvLU(6, seeded()), 0.3).eval()
    model = Flow(Chain(ActNorm(6), conv), StandardNormal((6,))).eval()
    page = ReferenceEvaluator(onnx.load_from_string(export(model.decode, (6,))))
    for batch in (1, 2, 5):
        z = torch.randn(batch, 6, generator=seeded())
        with torch.no_grad():
            expected = model.decode(z)
        shown = torch.from_numpy(page.run(None, {page.input_names[0]: z.numpy()})[0])
        torch.testing.assert_close(shown, expected, atol=1e-5, rtol=1e-5)


def test_lu_form_is_p_l_u_with_unit_lower_and_cannot_be_singular():
    conv = shaken(InvertibleConvLU(5, seeded()).double(), 2.0)
    lower, upper = conv._factors()
    assert (lower.triu(0) == 0).all()
    assert (upper.tril(-1) == 0).all()
    unit = lower + torch.eye(5).double()
    torch.testing.assert_close(conv.matrix()[0], conv.permutation @ unit @ upper)
    torch.testing.assert_close(upper.diagonal().abs().log(), conv.log_s)
    assert torch.isfinite(conv.matrix()[1])


@pytest.mark.parametrize("cls", [InvertibleConv, InvertibleConvLU])
def test_convolution_mixes_channels_of_each_pixel_and_counts_every_pixel(cls):
    conv = shaken(cls(4, seeded()).double(), 0.1)
    x = torch.randn(2, 4, 3, 5, generator=seeded(), dtype=torch.float64)
    z, logdet = conv(x)
    weight, one = conv.matrix()
    torch.testing.assert_close(z, torch.einsum("ij,bjhw->bihw", weight, x))
    torch.testing.assert_close(logdet, (15 * one).expand(2))


def test_a_singular_matrix_has_no_inverse():
    conv = InvertibleConv(3)
    conv.weight.data[2] = conv.weight.data[1] = 0
    with pytest.raises(torch.linalg.LinAlgError):
        conv.inverse(torch.zeros(1, 3))


# -- section 3.3 and table 1: coupling


@pytest.mark.parametrize(
    ("log_scale", "start"), [(log_sigmoid, 1 / (1 + math.exp(-2))), (log_exponential, 1)]
)
def test_coupling_starts_without_the_network(log_scale, start):
    """The last convolution is zero, so the first half is only scaled, by the function's start."""
    coupling = Coupling(4, ConvNet(2, 8, 4), log_scale=log_scale)
    x = torch.randn(3, 4, 2, 2, generator=seeded())
    z, logdet = coupling(x)
    torch.testing.assert_close(z, torch.cat([start * x[:, :2], x[:, 2:]], 1))
    torch.testing.assert_close(logdet, torch.full((3,), 8 * math.log(start)))


def test_coupling_is_table_1():
    coupling = shaken(Coupling(4, ConvNet(2, 8, 4), log_scale=log_exponential), 0.1)
    x = torch.randn(3, 4, 2, 2, generator=seeded())
    log_s, t = coupling.net(x[:, 2:]).chunk(2, 1)
    z, logdet = coupling(x)
    torch.testing.assert_close(z[:, :2], log_s.exp() * x[:, :2] + t)
    assert torch.equal(z[:, 2:], x[:, 2:])
    torch.testing.assert_close(logdet, log_s.sum((1, 2, 3)))


def test_coupling_is_additive_with_a_scale_of_zeros():
    coupling = shaken(Coupling(4, ConvNet(2, 8, 4), log_scale=torch.zeros_like), 0.1)
    x = torch.randn(3, 4, 2, 2, generator=seeded())
    z, logdet = coupling(x)
    assert torch.equal(logdet, torch.zeros(3))
    torch.testing.assert_close(coupling.inverse(z)[0], x)


def test_an_odd_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="features must be even"):
        Coupling(3, nn.Identity())


# -- the model


def test_split_prior_is_a_gaussian_given_what_goes_on():
    prior = shaken(SplitPrior(2, 3), 0.5)
    z, h = torch.randn(4, 2, 3, 3, generator=seeded()), torch.randn(4, 3, 3, 3, generator=seeded(1))
    mean, log_sd = prior.conv(h).chunk(2, 1)
    expected = torch.distributions.Normal(mean, log_sd.exp()).log_prob(z).sum((1, 2, 3))
    eps, logdet = prior(z, h)
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(eps).sum((1, 2, 3))
    torch.testing.assert_close(standard + logdet, expected)
    torch.testing.assert_close(prior.inverse(eps, h)[0], z)


def test_after_the_first_batch_every_actnorm_is_ready():
    model = small()
    model.loss(levels(), generator=seeded())
    norms = [m for m in model.modules() if isinstance(m, ActNorm)]
    assert len(norms) == 4
    assert all(norm.ready for norm in norms)


@pytest.mark.parametrize(
    "mixing", [InvertibleConv, InvertibleConvLU, Permute.reverse, Permute.shuffle]
)
def test_every_mixing_of_the_ablation_makes_a_density_that_inverts(mixing):
    model = shaken(small(mixing=mixing), 0.02).double()
    x = levels()
    first = float(model.loss(x.double(), generator=seeded())["loss"].detach())
    assert math.isfinite(first)
    model.eval()
    z = model.encode(x.double(), generator=seeded())
    torch.testing.assert_close(model.decode(z), x.double())


def test_every_parameter_learns():
    model = shaken(small(), 0.1)
    model.loss(levels())["loss"].backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def test_temperature_scales_the_latents():
    model = shaken(small(), 0.1).eval()
    seen = []
    model.decode = lambda z, context: seen.append(z) or z
    for temperature in (1.0, 0.7, 0.0):
        model.sample(3, temperature=temperature, generator=seeded())
    torch.testing.assert_close(seen[1], 0.7 * seen[0])
    assert torch.equal(seen[2], torch.zeros(3, 64))


def test_temperature_zero_is_one_picture_and_warmer_is_more_varied():
    model = shaken(small(), 0.02)
    model.loss(levels(64), generator=seeded())
    model.eval()
    cold, mild, warm = (
        model.sample(200, temperature=t, generator=seeded()) for t in (0.0, 0.4, 1.0)
    )
    assert torch.equal(cold, cold[:1].expand_as(cold))
    assert 0 < mild.var(0).mean() < warm.var(0).mean()


def test_an_additive_glow_samples_from_a_power_of_its_density():
    """``log p`` of a sample at T, up to a constant, is ``log p_T * T^2``: volumes don't change."""
    model = shaken(small(log_scale=torch.zeros_like, scales=1, mixing=Permute.reverse), 0.02)
    model.loss(levels(64), generator=seeded())
    model.eval()
    z = torch.randn(5, 64, generator=seeded())
    x, logdet = model.bijection.inverse(z)
    torch.testing.assert_close(logdet, logdet[:1].expand(5))
    assert x.shape == (5, 1, 8, 8)


def test_bits_per_dimension_are_those_of_the_levels():
    model = shaken(small(), 0.1).eval()
    x = levels()
    told = model.loss(x, generator=seeded())["bits_per_dim"]
    expected = bits_per_dim(model.log_prob(x, generator=seeded()), (1, 8, 8)).mean()
    torch.testing.assert_close(told, expected.detach())


def test_a_few_steps_of_training_compress_below_the_uniform_code():
    """Blocks of one grey level: far fewer bits than log2(17) a pixel."""
    coarse = torch.randint(4, 13, (256, 1, 2, 2), generator=seeded())
    x = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3) / 16
    model = small()
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for i in range(80):
        optimiser.zero_grad()
        rows = torch.randint(0, 256, (32,), generator=seeded(i))
        terms = model.loss(x[rows], generator=seeded(i))
        terms["loss"].backward()
        optimiser.step()
    assert float(terms["bits_per_dim"]) < 0.6 * math.log2(17)


def test_sizes_that_cannot_be_squeezed_are_refused():
    with pytest.raises(ValueError, match=r"multiples of 4 for 2 scales, got \(1, 6, 8\); pad"):
        Glow((1, 6, 8))


# -- the reference weights


@pytest.fixture(scope="module")
def reference() -> tuple[Glow, torch.Tensor]:
    """The model, and held-out letters."""
    x = glyphs.load(0, 2000, **GLYPHS).test.x
    return pretrained.load("flows/glow_glyphs"), quantise(x, 16)


def test_reference_weights_measure_what_their_record_says(reference):
    model, x = reference
    record = pretrained.record("flows/glow_glyphs")
    assert record["command"] == "gdm train flows/glow_glyphs"
    with torch.no_grad():
        bits = bits_per_dim(model.log_prob(x, generator=seeded()), (1, 16, 16)).mean()
    assert abs(float(bits) - record["metrics"]["test bits per dimension"]) < 1e-3
    assert record["bytes"] < pretrained.MAX_BYTES


def test_reference_model_finds_letters_likelier_than_what_is_none(reference):
    model, x = reference
    with torch.no_grad():
        told = [
            model.log_prob(part, generator=seeded()).mean()
            for part in (x[:200], x[:200].flip(2), torch.zeros(50, 1, 16, 16))
        ]
    assert told[0] > told[1] + 50
    assert told[0] > told[2] + 50


def test_directions_of_attributes_move_the_factors_that_they_are_named_after(reference):
    """Slant by the ink's second moments, which a shear changes by its tangent."""
    model, x = reference
    slant = glyphs.load(0, 2000, **GLYPHS).test.factors.slant
    with torch.no_grad():
        z = model.encode(x, generator=seeded())
        direction = z[slant > 7].mean(0) - z[slant < -7].mean(0)
        moved = [model.decode(z[:300] + a * direction) for a in (-0.5, 0.0, 0.5)]

    def measured(pictures: torch.Tensor) -> torch.Tensor:
        ink, at = pictures[:, 0] * (pictures[:, 0] > 0.15), torch.arange(16.0)
        share = ink / ink.sum((1, 2), keepdim=True)
        dx = at - (share * at).sum((1, 2))[:, None, None]
        dy = (share * at[:, None]).sum((1, 2))[:, None, None] - at[:, None]
        return torch.rad2deg(
            torch.atan((share * dx * dy).sum((1, 2)) / (share * dy * dy).sum((1, 2)))
        )

    left, still, right = (measured(m).mean() for m in moved)
    assert torch.equal(moved[1], x[:300])
    assert left < still - 5
    assert right > still + 5


def test_the_page_gets_the_reference_decoder_in_a_megabyte(reference):
    pytest.importorskip("onnx")
    from gdm_lib.widgets import LatentExplorer, export

    model, _ = reference
    assert len(export(model.decode, (256,))) <= 1_000_000
    widget = LatentExplorer.samples(model.decode, torch.zeros(2, 256))
    assert widget.page_weights == "flows/glow_glyphs:decode"
