"""What 1711.00937 claims of the VQ-VAE, asserted."""

import itertools
import math

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
from gdm_lib.autoregressive.wavenet import WaveNet
from gdm_lib.likelihoods import Bernoulli, Categorical, IsotropicGaussian
from gdm_lib.nn import ClassEmbedding
from gdm_lib.protocols import LikelihoodModel
from gdm_lib.training import fit
from gdm_lib.vae.vqvae import (
    VQVAE,
    AutoregressiveLikelihood,
    LabelEmbedding,
    VectorQuantiser,
    perplexity,
    straight_through,
)
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


# -- section 4.3: an autoregressive decoder, which is told something


def spoken(**options) -> VQVAE:
    """Sounds of 8 samples in 3 levels, coded by two of three entries."""
    wavenet = WaveNet((8,), levels=3, residual=5, skip=6, dilations=(1, 2), context_dim=4)
    model = VQVAE.sound(wavenet, strides=(2, 2), count=3, dim=2, width=6, **options)
    return loud(model.double(), 0.3)


def told(**options) -> VQVAE:
    """The same, whose decoder is told the second of two labels."""
    return spoken(context_dim=2, embed=LabelEmbedding((0, 3), 2), **options)


def sounds(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels, and two labels of each: one of 4, one of 3."""
    rng = seeded(seed)
    x = torch.randint(3, (n, 8), generator=rng)
    return x, torch.stack([torch.randint(k, (n,), generator=rng) for k in (4, 3)], 1)


EVERY_SOUND = torch.cartesian_prod(*[torch.arange(3)] * 8)
EVERY_CODE = torch.cartesian_prod(torch.arange(3), torch.arange(3))


def test_an_autoregressive_likelihood_is_a_distribution():
    """Over all sounds the probabilities sum to 1, given any codes; each is a product in which the
    t-th factor sees only what is before t, and the decoder's output."""
    model = spoken()
    params = model.decode(EVERY_CODE)
    assert params.shape == (9, *model.likelihood.params_shape((8,)))
    for p in params[::4]:
        given = p.expand(len(EVERY_SOUND), *p.shape)
        with torch.no_grad():
            log_prob = model.likelihood.log_prob(given, EVERY_SOUND)
            logits = model.likelihood.model(EVERY_SOUND[:50], given[:50])
        assert float(log_prob.exp().sum()) == pytest.approx(1)
        by_hand = logits.log_softmax(1).gather(1, EVERY_SOUND[:50, None])[:, 0].sum(1)
        torch.testing.assert_close(log_prob[:50], by_hand)
    with torch.no_grad():
        first, second = (model.likelihood.log_prob(p[None], EVERY_SOUND[:1]) for p in params[:2])
    assert abs(float(first - second)) > 1e-3, "the codes reach it"


def test_draws_of_an_autoregressive_likelihood_are_those_of_its_probabilities():
    model = spoken()
    # Large enough that what is drawn without them, or with others, is something else.
    params = 3 * normal(1, *model.likelihood.params_shape((8,)))
    drawn = model.likelihood.sample(params.expand(20_000, -1, -1), generator=seeded())
    assert drawn.dtype == torch.int64
    with torch.no_grad():
        every = params.expand(len(EVERY_SOUND), -1, -1)
        share = model.likelihood.log_prob(every, EVERY_SOUND).exp()
    for t in range(8):
        for level in range(3):
            expected = float(share[EVERY_SOUND[:, t] == level].sum())
            assert float((drawn[:, t] == level).double().mean()) == pytest.approx(
                expected, abs=0.015
            )
    pair = (EVERY_SOUND[:, 6] == 1) & (EVERY_SOUND[:, 7] == 1)
    found = ((drawn[:, 6] == 1) & (drawn[:, 7] == 1)).double().mean()
    assert float(found) == pytest.approx(float(share[pair].sum()), abs=0.015)


@pytest.mark.parametrize("prior", [False, True])
def test_the_bound_of_an_autoregressive_decoder_that_is_told(prior):
    """By enumeration of all nine pairs of codes, for each speaker."""
    model, (x, y) = told(), sounds(6)
    if prior:
        condition = {"context_dim": 2, "embed": LabelEmbedding((4, 3), 2)}
        model.prior = loud(WaveNet((2,), levels=3, residual=4, dilations=(1,), **condition), 0.5)
        model.prior.double()
    terms = []
    with torch.no_grad():
        for codes in EVERY_CODE:
            same = codes.expand(6, 2)
            given = model.likelihood.log_prob(model.decode(same, y), x)
            terms.append(given + model.code_log_prob(same, y))
        bound, codes = model.log_prob(x, y), model.encode(x)
    terms = torch.stack(terms)
    assert (bound <= terms.logsumexp(0)).all()
    index = codes @ torch.tensor([3, 1])
    torch.testing.assert_close(bound, terms.gather(0, index[None])[0])
    torch.testing.assert_close(
        model.loss(x, y)["nats"],
        -model.likelihood.log_prob(model.decode(codes, y), x).mean(),
    )


def test_gradients_reach_all_that_is_trained_and_by_the_right_ways():
    model, (x, y) = told(), sounds(6)
    model.prior = WaveNet((2,), levels=3, residual=4, dilations=(1,)).double()
    model.loss(x, y)["loss"].backward()
    for name, parameter in model.named_parameters():
        if name.startswith("prior."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
    # A speaker who isn't in the batch learns nothing.
    model.zero_grad()
    model.loss(x, torch.zeros_like(y))["loss"].backward()
    table = model.embed.tables["1"].weight.grad
    assert table[0].any()
    assert not table[1:].any()


def test_straight_through_an_autoregressive_decoder():
    """The gradient of the nats for the encoder's output is that for the entries."""
    model, (x, y) = told(beta=0.0), sounds(5)
    z, codes = model.encoder(2 * x.double() / 2 - 1), model.encode(x)
    entries = model.quantiser.embed(codes).detach().requires_grad_()
    context = model.embed(y)[:, :, None].expand(5, 2, 2)
    params = model.decoder(torch.cat([entries, context], 1))
    nats = -model.likelihood.log_prob(params, x).mean()
    (wanted,) = torch.autograd.grad(nats, entries)
    ways = list(model.encoder.parameters())
    expected = torch.autograd.grad(z, ways, wanted)
    found = torch.autograd.grad(model.loss(x, y)["loss"], ways)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
        assert other.any()


def test_y_reaches_the_decoder_in_every_method_and_never_the_codes():
    model, (x, y) = told(), sounds(5)
    other = torch.stack([y[:, 0], (y[:, 1] + 1) % 3], 1)
    digit = torch.stack([(y[:, 0] + 1) % 4, y[:, 1]], 1)
    codes = model.encode(x)
    with torch.no_grad():
        for call in (
            lambda y: model.loss(x, y)["loss"][None],
            lambda y: model.log_prob(x, y),
            lambda y: model.decode(codes, y),
            lambda y: model.decode(model.sample_codes(5, y, generator=seeded(3)), y),
        ):
            assert (call(y) != call(other)).flatten(1 if call(y).ndim > 1 else 0).any()
            assert torch.equal(call(y), call(digit)), "it isn't told the first label"
        rows = model.decode(codes, torch.cat([y[:2], other[2:]]))
        assert torch.equal(rows[:2], model.decode(codes, y)[:2])
        assert torch.equal(rows[2:], model.decode(codes, other)[2:])
    drawn = [model.sample(300, v.repeat(60, 1), generator=seeded()) for v in (y, other)]
    assert not torch.equal(*drawn)


def test_a_conditional_prior_gets_the_same_y():
    """Whether the decoder is told, the prior, both or neither."""
    x, y = sounds(4)
    for model in (spoken(), told()):
        decoder_told = model.context_dim > 0
        for classes in ((4, 0), None):
            condition = {} if classes is None else {"context_dim": 2}
            if classes:
                condition["embed"] = LabelEmbedding(classes, 2)
            prior = WaveNet((2,), levels=3, residual=4, dilations=(1,), **condition).double()
            model.prior = loud(prior, 1.0)
            given = y if decoder_told or classes else None
            with torch.no_grad():
                whole = model.log_prob(x, given)
                parts = model.likelihood.log_prob(
                    model.decode(model.encode(x), given), x
                ) + prior.log_prob(model.encode(x), y if classes else None)
                torch.testing.assert_close(whole, parts)
            assert model.sample(4, given).shape == (4, 8)
            assert model.loss(x, given)["loss"].isfinite()
            if given is None:
                for call in (model.loss, model.log_prob):
                    with pytest.raises(ValueError, match="y must be None"):
                        call(x, y)
                with pytest.raises(ValueError, match="y must be None"):
                    model.sample(4, y)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, "y must have one row for each of 4 items, got None; .* context_dim=2"),
        ([[0, 1]] * 4, r"y must be a tensor, got \[\[0, 1\]"),
        (torch.zeros(3, 2, dtype=torch.int64), "y must have one row for each of 4 items, got 3"),
        (torch.zeros(4, dtype=torch.int64), r"y must be a batch of shape \(B, 2\), got \(4,\)"),
        (torch.zeros(4, 3, dtype=torch.int64), r"y must be a batch of shape \(B, 2\), got \(4, 3"),
        (torch.full((4, 2), 3), "y must hold labels 0 to 2, got 3 to 3"),
        (torch.full((4, 2), -1), "y must hold labels 0 to 2, got -1 to -1"),
        (torch.zeros(4, 2), "y must be int64 labels"),
        (torch.full((4, 2), math.nan), "y must be int64 labels"),
    ],
)
def test_bad_conditions_are_refused_by_name_in_every_method(bad, message):
    model, (x, _) = told(decay=0.9).train(), sounds(4)
    codes = model.encode(x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for call in (
        lambda: model.loss(x, bad),
        lambda: model.log_prob(x, bad),
        lambda: model.decode(codes, bad),
        lambda: model.decode_mean(codes, bad),
        lambda: model.code_log_prob(codes, bad),
        lambda: model.sample(4, bad),
        lambda: model.sample_codes(4, bad),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), "a call that is refused moves nothing"


def test_a_context_for_each_place_of_the_grid():
    """Without ``embed`` the context is given as it is: one vector, or one for each code."""
    model, (x, _) = spoken(context_dim=2), sounds(4)
    one, codes = normal(4, 2), model.encode(x)
    every = one[:, :, None].expand(4, 2, 2)
    assert torch.equal(model.decode(codes, one), model.decode(codes, every))
    moved = every.clone()
    moved[:, :, 1] += 1
    assert not torch.equal(model.decode(codes, one), model.decode(codes, moved))
    with pytest.raises(ValueError, match=r"\(B, 2, \*grid\) with grid \(2,\), got \(4, 2, 3\)"):
        model.decode(codes, normal(4, 2, 3))


def test_an_image_may_have_an_autoregressive_decoder():
    """A Gated PixelCNN that is told the codes, by a map of the image's size."""
    pixels = GatedPixelCNN((2, 4, 4), levels=3, p=8, layers=1, first_kernel=3, context_dim=3)
    likelihood = AutoregressiveLikelihood(pixels)
    model = VQVAE.image((2, 4, 4), count=3, dim=2, width=6, likelihood=likelihood)
    x = torch.randint(3, (3, 2, 4, 4), generator=seeded())
    params = model.decode(model.encode(x))
    assert params.shape == (3, *likelihood.params_shape((2, 4, 4))) == (3, 3, 4, 4)
    given = likelihood.log_prob(params, x)
    torch.testing.assert_close(given, pixels.log_prob(x, params))
    torch.testing.assert_close(model.log_prob(x), given - math.log(3))
    assert model.sample(2).shape == (2, 2, 4, 4)


def test_the_networks_for_sound_keep_what_passes_through_as_large_as_it_is():
    """So that the WaveNet hears the codes from the start, and doesn't learn to do without them."""
    wavenet = WaveNet((480,), levels=256, residual=4, dilations=(1,), context_dim=16)
    model = VQVAE.sound(wavenet, strides=(2, 2, 2, 2, 5), count=8, dim=32, width=64)
    z = model.encoder(normal(20, 480).float())
    assert z.shape == (20, 32, 6)
    assert 0.3 < float(z.detach().std()) < 3
    params = model.decoder(normal(20, 32, 6).float())
    assert params.shape == (20, 16, 480)
    assert 0.3 < float(params.detach().std()) < 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: AutoregressiveLikelihood(WaveNet((8,), levels=3, dilations=(1,))),
            "model must take what the decoder puts out .* got context_dim=0",
        ),
        (
            lambda: AutoregressiveLikelihood(
                WaveNet((8,), levels=3, context_dim=2, embed=ClassEmbedding(3, 2))
            ),
            "and no embed, got one with embed",
        ),
        (
            lambda: VQVAE.sound(WaveNet((9,), levels=3, context_dim=2), strides=(2, 2)),
            r"strides must divide the 9 samples of wavenet, got \(2, 2\), whose product is 4",
        ),
        (
            lambda: VQVAE.sound(WaveNet((8,), context_dim=2), strides=(2, 0)),
            r"strides\[1\] must be at least 1, got 0",
        ),
        (
            lambda: spoken(embed=ClassEmbedding(3, 2)),
            "context_dim must be as many features as embed puts out, got 0",
        ),
        (lambda: LabelEmbedding((0, 0), 3), r"classes must name at least one label .* \(0, 0\)"),
        (
            lambda: spoken().likelihood.params_shape((9,)),
            r"data_shape must be that of the likelihood's model, \(8,\), got \(9,\)",
        ),
        (
            lambda: spoken().decode_mean(torch.zeros(2, 2, dtype=torch.int64)),
            r"likelihood must have a mean in closed form, .*likelihood.sample\(params\)",
        ),
        (
            lambda: spoken().encode(torch.linspace(-1, 1, 16).view(2, 8)),
            r"x must hold int64 levels 0 to 2, got torch.float32; take mu_law_encode\(x, 3\)",
        ),
        (lambda: spoken().encode(sounds(2)[0][:, :4]), r"x must be a batch of shape \(B, 8\)"),
    ],
)
def test_bad_sounds_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class Allocated(TorchDispatchMode):
    """How many numbers all operations together put out, and the largest of them."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.total += tensor.numel()
                self.largest = max(self.largest, tensor.numel())
        return out


def test_memory_grows_linearly_with_the_vectors():
    """Of a part of them at a time there are all distances, and never all differences."""
    count, dim, part = 32, 8, 1024
    model = VectorQuantiser(count, dim, decay=0.9).train()
    model(normal(64, dim, dtype=torch.float32))  # entries that were never chosen behave otherwise
    used = []
    for n in (2 * part, 3 * part, 4 * part):
        with torch.no_grad(), Allocated() as memory:
            model(normal(n, dim, dtype=torch.float32))
        assert memory.largest == part * count
        used.append(memory.total)
    assert used[1] - used[0] == used[2] - used[1] > 0
