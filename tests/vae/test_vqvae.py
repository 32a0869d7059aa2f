"""What 1711.00937 claims of the VQ-VAE, asserted."""

import itertools
import math

import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
from gdm_lib.likelihoods import Bernoulli, Categorical, IsotropicGaussian
from gdm_lib.nn import ClassEmbedding
from gdm_lib.protocols import LikelihoodModel
from gdm_lib.training import fit
from gdm_lib.vae.vqvae import VQVAE, VectorQuantiser, perplexity, straight_through
from tests.helpers import loud, normal, same_weights, seeded

_same_weights = pytest.fixture(autouse=True)(same_weights)


def small(count: int = 5, **options) -> VQVAE:
    """Bits of 4x8, coded by 1x2 entries of three features."""
    return VQVAE.image(
        (1, 4, 8), count=count, dim=3, width=6, likelihood=Bernoulli(), **options
    ).double()


def bits(n: int, seed: int = 0) -> torch.Tensor:
    return (torch.rand(n, 1, 4, 8, generator=seeded(seed)) > 0.5).double()


# -- the look-up


def book(entries: torch.Tensor, **options) -> VectorQuantiser:
    quantiser = VectorQuantiser(*entries.shape, **options).to(entries.dtype)
    quantiser.codebook.data.copy_(entries)
    return quantiser.eval()


@pytest.mark.parametrize("shift", [0.0, 1e3, -3e4])
@pytest.mark.parametrize(("count", "dim", "vectors"), [(1, 3, 4), (7, 1, 50), (512, 64, 300)])
def test_the_code_is_that_of_the_nearest_entry(count, dim, vectors, shift):
    """Found by brute force in double precision. A shift of all, whose square is so large that the
    distances would drown in its rounding, changes nothing."""
    entries, z = normal(count, dim) + shift, normal(vectors, dim, seed=1) + shift
    quantiser = book(entries.float())
    codes = quantiser.nearest(z.float())
    distances = torch.cdist(z.float().double(), quantiser.codebook.double(), compute_mode=EXACT)
    best = distances.amin(1)
    found = distances.gather(1, codes[:, None])[:, 0]
    torch.testing.assert_close(found, best, rtol=1e-5, atol=0)


EXACT = "donot_use_mm_for_euclid_dist"


def test_of_entries_that_are_equally_near_the_first_is_taken_every_time():
    entries = torch.tensor([[0.0, 5.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 5.0]])
    z = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 6.0]]).repeat(1000, 1)
    quantiser = book(entries)
    for _ in range(3):
        assert quantiser.nearest(z).tolist() == [1, 1, 0] * 1000


def test_more_entries_than_vectors_and_none_at_all():
    quantiser = book(normal(100, 4).float())
    assert quantiser.nearest(normal(2, 4).float()).shape == (2,)
    assert quantiser(torch.zeros(0, 4, 3)).shape == (0, 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_vectors_that_are_not_finite_leave_the_codebook_and_are_told(bad):
    z = torch.zeros(2, 3, 4, 4)
    z[1, 2, 0, 3] = bad
    for decay in (0.9, None):
        quantiser = VectorQuantiser(5, 3, decay=decay, restart=1).train()
        before = {name: value.clone() for name, value in quantiser.state_dict().items()}
        assert quantiser(z).shape == (2, 4, 4)
        for name, value in quantiser.state_dict().items():
            assert torch.equal(value, before[name])
    model, x = small(), bits(3)
    with torch.no_grad():
        model.encoder[-1].bias[1] = bad
    assert model.log_prob(x).isnan().all()
    assert not model.loss(x)["loss"].isfinite()
    with pytest.raises(ValueError, match="x must be encoded as finite vectors, got nan or inf"):
        model.encode(x)


@pytest.mark.parametrize("grid", [(), (5,), (2, 3), (2, 3, 4)])
def test_shapes_from_single_vectors_to_volumes(grid):
    quantiser = book(normal(6, 3))
    z = normal(4, 3, *grid, seed=2)
    codes = quantiser(z)
    assert codes.shape == (4, *grid)
    entries = quantiser.embed(codes)
    assert entries.shape == z.shape
    for place in itertools.product(range(4), *map(range, grid)):
        vector = z[(place[0], slice(None), *place[1:])]
        assert codes[place] == quantiser.nearest(vector[None])
        entry = entries[(place[0], slice(None), *place[1:])]
        assert torch.equal(entry, quantiser.codebook[codes[place]])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"decay": 1.0}, "decay must be from 0 to below 1, or None, got 1.0"),
        ({"decay": -0.1}, "decay must be from 0 to below 1, or None, got -0.1"),
        ({"decay": math.nan}, "decay must be from 0 to below 1, or None, got nan"),
        ({"restart": -1}, "restart must be at least 0, got -1"),
    ],
)
def test_bad_options_are_refused_by_name(options, told):
    with pytest.raises(ValueError, match=told):
        VectorQuantiser(**{"count": 4, "dim": 2, **options})


# -- equation 3: what each term reaches


def test_the_gradient_goes_straight_through():
    z, entries = normal(4, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    z_q = straight_through(z, entries)
    assert torch.equal(z_q, entries)  # to the last bit
    weights = normal(4, 3, seed=2)
    (z_q**3 * weights).sum().backward()
    assert torch.equal(z.grad, 3 * entries.detach() ** 2 * weights)
    assert entries.grad is None


def test_each_term_reaches_what_the_paper_says():
    """The codebook: the second term alone, 2 (e - z_e) averaged over the codes. The decoder: the
    first alone. The encoder: the first, straight through, and the third."""
    x, model = bits(6), loud(small(beta=0.25), 0.4)
    model.loss(x)["loss"].backward()
    z, codes = model.encoder(x), model.encode(x)
    expected = torch.zeros_like(model.quantiser.codebook)
    vectors, chosen = z.detach().movedim(1, -1).flatten(0, -2), codes.flatten()
    for vector, code in zip(vectors, chosen, strict=True):
        expected[code] += 2 * (model.quantiser.codebook[code].detach() - vector) / len(chosen)
    torch.testing.assert_close(model.quantiser.codebook.grad, expected)

    entries = model.quantiser.embed(codes).detach()
    z_q = z + (entries - z).detach()
    nats = -model.likelihood.log_prob(model.decoder(z_q), x).mean()
    commitment = 0.25 * (z - entries).square().sum(1).mean()
    for part, term in ((model.decoder, nats), (model.encoder, nats + commitment)):
        wanted = torch.autograd.grad(term, list(part.parameters()), retain_graph=True)
        for parameter, gradient in zip(part.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
            assert gradient.any()


def test_beta_weighs_a_squared_norm_and_not_a_mean_over_features():
    x, model = bits(6), loud(small(beta=0.25), 0.4)
    terms = model.loss(x)
    gaps = model.encoder(x).detach() - model.quantiser.embed(model.encode(x)).detach()
    norms = [gap.norm() ** 2 for gap in gaps.movedim(1, -1).flatten(0, -2)]
    assert float(terms["commitment"]) == pytest.approx(float(sum(norms) / len(norms)))
    assert float(terms["codebook"]) == pytest.approx(float(terms["commitment"]))
    whole = terms["nats"] + terms["codebook"] + 0.25 * terms["commitment"]
    assert terms["loss"].item() == pytest.approx(whole.item())


def test_with_a_moving_average_the_second_term_is_left_out():
    x, model = bits(6), loud(small(decay=0.9), 0.4)
    terms = model.loss(x)
    assert not list(model.quantiser.parameters())
    whole = terms["nats"] + 0.25 * terms["commitment"]
    assert terms["loss"].item() == pytest.approx(whole.item())


# -- appendix A.1: moving averages, and entries that are never chosen


def test_moving_averages_are_those_of_the_paper():
    """Equations 6 to 8, written out in plain Python."""
    quantiser = VectorQuantiser(4, 2, decay=0.8).double().train()
    quantiser.codebook.copy_(torch.tensor([[0.0, 0], [3, 0], [0, 3], [90, 90]]))
    sizes, sums = [0.0] * 4, [[0.0, 0.0] for _ in range(4)]
    for step in range(6):
        z = 2 * normal(7, 2, seed=step)
        codes = quantiser(z).tolist()
        for k in range(4):
            mine = [vector for vector, code in zip(z.tolist(), codes, strict=True) if code == k]
            sizes[k] = 0.8 * sizes[k] + 0.2 * len(mine)
            sums[k] = [0.8 * s + 0.2 * sum(v[d] for v in mine) for d, s in enumerate(sums[k])]
        assert quantiser.sizes.tolist() == pytest.approx(sizes)
        for k in range(3):
            expected = [s / sizes[k] for s in sums[k]]
            assert quantiser.codebook[k].tolist() == pytest.approx(expected)
    assert quantiser.codebook[3].tolist() == [90, 90]  # nobody has chosen it: it stays


def test_without_memory_it_is_a_step_of_k_means():
    """``decay = 0`` on the whole data set is Lloyd's algorithm, as scikit-learn has it."""
    x, start = normal(200, 3), normal(5, 3, seed=4)
    quantiser = VectorQuantiser(5, 3, decay=0.0).double().train()
    quantiser.codebook.copy_(start)
    for _ in range(4):
        quantiser(x)
    theirs = KMeans(5, init=start.numpy(), n_init=1, max_iter=4, tol=0, algorithm="lloyd")
    theirs.fit(x.numpy())
    torch.testing.assert_close(quantiser.codebook, torch.from_numpy(theirs.cluster_centers_))


def test_an_entry_that_is_idle_for_ever_stays_and_stays_finite():
    quantiser = VectorQuantiser(2, 1, decay=0.5).train()
    quantiser.codebook.copy_(torch.tensor([[0.0], [9.0]]))
    quantiser(torch.tensor([[8.0], [0.0]]))
    for _ in range(300):  # 0.5^300 is below what 32 bits can hold
        quantiser(torch.zeros(3, 1))
    assert quantiser.codebook.isfinite().all()
    assert quantiser.codebook.flatten().tolist() == pytest.approx([0.0, 8.0])


@pytest.mark.parametrize("decay", [None, 0.9])
def test_an_entry_that_was_idle_for_so_many_batches_restarts_at_a_vector(decay):
    quantiser = VectorQuantiser(3, 2, decay=decay, restart=4).train()
    quantiser.codebook.data.copy_(torch.tensor([[0.0, 0.0], [50.0, 50.0], [60.0, 60.0]]))
    z = torch.randn(20, 2, generator=seeded())
    for _ in range(3):
        quantiser(z)
        assert quantiser.codebook[1].tolist() == [50, 50]
    quantiser(z)
    for entry in quantiser.codebook[1:]:
        assert (z == entry).all(1).any()
    assert quantiser.idle.tolist() == [0, 0, 0]
    assert len(quantiser(z).unique()) >= 2


def test_only_training_moves_the_codebook():
    model = small(decay=0.9, restart=1)
    before = {k: v.clone() for k, v in model.quantiser.state_dict().items()}
    x = bits(4)
    for model_in_mode in (model.train(), model.eval()):
        model_in_mode.log_prob(x)
        model_in_mode.encode(x)
        model_in_mode.sample(2)
    model.eval().loss(x)
    for name, value in model.quantiser.state_dict().items():
        assert torch.equal(value, before[name]), name
    model.train().loss(x)
    assert not torch.equal(model.quantiser.codebook, before["codebook"])


def test_restarts_cure_a_codebook_that_nobody_uses():
    """Entries drawn far too wide: without restart one code says it all."""
    x = torch.rand(256, 1, 8, 8, generator=seeded(3))
    used = {}
    for restart in (0, 5):
        torch.manual_seed(0)
        model = VQVAE.image((1, 8, 8), count=16, dim=4, width=8, decay=0.9, restart=restart)
        with torch.no_grad():
            model.quantiser.codebook.normal_(std=5.0)
        fit(model, x, steps=100, batch_size=32, progress=False)
        used[restart] = float(perplexity(model.encode(x), 16))
    assert used[0] < 2
    assert used[5] > 6


def test_perplexity():
    assert float(perplexity(torch.arange(8).repeat(3), 8)) == pytest.approx(8)
    assert float(perplexity(torch.zeros(5, 2, dtype=torch.int64), 8)) == pytest.approx(1)
    codes = torch.tensor([0, 0, 0, 1])
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert float(perplexity(codes, 4)) == pytest.approx(expected)


# -- the model


def with_prior(count: int = 3, classes: int = 0) -> VQVAE:
    condition = {"context_dim": 2, "embed": ClassEmbedding(classes, 2)} if classes else {}
    model = loud(small(count), 0.5)
    model.prior = loud(
        GatedPixelCNN(
            (1, 1, 2), levels=count, level_features=4, p=6, layers=1, first_kernel=3, **condition
        )
    )
    return model


@pytest.mark.parametrize("prior", [False, True])
def test_log_prob_is_a_bound_and_one_term_of_a_sum(prior):
    """log p(x) over all nine pairs of codes, by enumeration."""
    model = with_prior() if prior else loud(small(3), 0.5)
    x = bits(5)
    every = torch.cartesian_prod(torch.arange(3), torch.arange(3)).view(-1, 1, 2)
    with torch.no_grad():
        log_prior = model.code_log_prob(every)
        assert float(log_prior.exp().sum()) == pytest.approx(1)
        given = torch.stack(
            [model.likelihood.log_prob(p.expand(5, *p.shape), x) for p in model.decode(every)]
        )
        terms = given + log_prior[:, None]
        bound = model.log_prob(x)
    assert model.bound is True
    assert (bound <= terms.logsumexp(0)).all()
    codes = model.encode(x)
    index = codes.view(5, 2) @ torch.tensor([3, 1])
    torch.testing.assert_close(bound, terms.gather(0, index[None])[0])


def test_codes_survive_and_decode_to_what_the_loss_saw():
    model, x = loud(small(), 0.5), bits(4)
    codes = model.encode(x)
    assert codes.shape == (4, *model.grid)
    assert codes.dtype == torch.int64
    nats = -model.likelihood.log_prob(model.decode(codes), x).mean()
    torch.testing.assert_close(model.loss(x)["nats"], nats)
    torch.testing.assert_close(model.decode_mean(codes), model.decode(codes).sigmoid())


@pytest.mark.parametrize("classes", [0, 2])
def test_samples_are_codes_of_the_prior_and_data_of_the_codes(classes):
    model = with_prior(classes=classes)
    y = torch.tensor([0, 1]).repeat(2000) if classes else None
    codes = model.sample_codes(4000, y, generator=seeded(1))
    assert codes.shape == (4000, 1, 2)
    every = torch.cartesian_prod(torch.arange(3), torch.arange(3)).view(-1, 1, 2)
    for label in range(max(1, classes)):
        mine = codes if y is None else codes[y == label]
        condition = None if y is None else torch.full((9,), label)
        with torch.no_grad():
            expected = len(mine) * model.code_log_prob(every, condition).exp()
        counts = torch.bincount(mine.view(-1, 2) @ torch.tensor([3, 1]), minlength=9)
        chi2 = ((counts - expected).square() / expected).sum()
        assert chi2 < 35, "beyond 1 in 10,000 for 8 degrees of freedom"
    drawn = model.sample(3, None if y is None else y[:3], generator=seeded(2))
    assert drawn.shape == (3, 1, 4, 8)
    assert isinstance(model, LikelihoodModel)


def test_without_a_prior_codes_are_uniform_and_labels_are_refused():
    model = small(4)
    counts = torch.bincount(model.sample_codes(4000, generator=seeded()).flatten(), minlength=4)
    assert ((counts - 2000).abs() < 200).all()
    with pytest.raises(ValueError, match="y must be None"):
        model.loss(bits(2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="y must be None"):
        model.sample(2, torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "likelihood", [IsotropicGaussian(), Bernoulli(), Categorical(4)], ids=lambda p: type(p).__name__
)
def test_images_of_the_papers_networks(likelihood):
    model = VQVAE.image((3, 8, 12), count=6, dim=4, width=8, likelihood=likelihood)
    levels = isinstance(likelihood, Categorical)
    x = torch.randint(4 if levels else 2, (2, 3, 8, 12), generator=seeded())
    x = x if levels else x.float()
    assert model.encode(x).shape == (2, 2, 3)
    assert model.sample(2).shape == x.shape
    assert model.log_prob(x).isfinite().all()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda m: m.decode(torch.zeros(2, 1, 3, dtype=torch.int64)), r"codes must be a batch of"),
        (lambda m: m.decode(torch.zeros(2, 1, 2)), "codes must hold int64 levels 0 to 4"),
        (lambda m: m.decode(torch.full((2, 1, 2), 5)), "codes must hold levels 0 to 4, got 5 to 5"),
        (lambda m: m.loss(bits(0)), "x must have at least one item"),
        (lambda m: m.encode(bits(2)[..., :4]), "x must be a batch of shape"),
        (
            lambda m: VQVAE.image((1, 6, 8)),
            "data_shape must be .* multiples of 4 for two strides of 2, got .1, 6, 8",
        ),
        (lambda m: small(beta=-1.0), "beta must be a finite number from 0, got -1.0"),
        (
            lambda m: VQVAE(
                nn.Identity(),
                m.decoder,
                m.quantiser,
                m.likelihood,
                data_shape=(1, 4, 8),
                grid=(1, 2),
            ).encode(bits(2)),
            r"encoder must give \(B, 3, \*grid\) with grid \(1, 2\), got \(2, 1, 4, 8\)",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, told):
    with pytest.raises(ValueError, match=told):
        call(small())
