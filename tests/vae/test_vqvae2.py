"""What 1906.00446 claims of the VQ-VAE-2, asserted."""

import copy
import itertools
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib.likelihoods import Bernoulli, Categorical, IsotropicGaussian
from gdm_lib.nn import ClassEmbedding
from gdm_lib.protocols import LikelihoodModel
from gdm_lib.training import fit
from gdm_lib.vae.vqvae import perplexity
from gdm_lib.vae.vqvae2 import (
    VQVAE2,
    BottomPrior,
    ConditioningStack,
    Level,
    MaskedAttention,
    TopPrior,
    reject,
)
from tests.helpers import Recorder, loud, normal, same_weights, seeded

_same_weights = pytest.fixture(autouse=True)(same_weights)


def small(count: int = 3, depth: int = 2, **options) -> VQVAE2:
    """Bits; the coarsest grid is 1x1, the next 2x2."""
    size = 2 ** (depth + 1)
    options = {"dim": 3, "width": 6, "inner": 5, "blocks": 1, "likelihood": Bernoulli(), **options}
    return VQVAE2.image((1, size, size), count=count, depth=depth, **options).double()


def noisy(count: int = 3, depth: int = 2, **options) -> VQVAE2:
    """The same with loud weights, and with vectors of the encoder for entries, so that all are
    chosen."""
    model = loud(small(count, depth, **options), 0.4)
    x = bits(count, seed=5, size=2 ** (depth + 1))
    for i, level in enumerate(model.hierarchy):
        vectors = model._quantised(x)[i][0].detach().movedim(1, -1).flatten(0, -2)
        level.quantiser.codebook.data.copy_(vectors[:: len(vectors) // count])
    return model


def bits(n: int, seed: int = 0, size: int = 8) -> Tensor:
    return (torch.rand(n, 1, size, size, generator=seeded(seed)) > 0.5).double()


def priors(count: int = 3, classes: int = 0) -> nn.ModuleList:
    condition = {"context_dim": 4, "embed": ClassEmbedding(classes, 4)} if classes else {}
    options = {"levels": count, "p": 6, "layers": 1, "first_kernel": 3, "level_features": 4}
    top = TopPrior((1, 1, 1), every=1, heads=2, stack=1, **options, **condition)
    bottom = BottomPrior((1, 2, 2), [(count, 1, 1)], blocks=1, classes=classes, **options)
    return nn.ModuleList([loud(top, 0.5), loud(bottom, 0.5)])


def every_code(count: int) -> tuple[Tensor, Tensor]:
    every = torch.cartesian_prod(*[torch.arange(count)] * 5)
    return every[:, :1].view(-1, 1, 1), every[:, 1:].reshape(-1, 2, 2)


# -- algorithm 1: codes of two levels and more


def by_hand(model: VQVAE2, x: Tensor) -> dict[str, Tensor]:
    """Algorithm 1 and the terms of equation 2, written out for two levels."""
    top, bottom = model.hierarchy
    fine = bottom.encoder(x)
    h_top = top.project(top.encoder(fine))
    e_top = nearest(h_top, top.quantiser.codebook)
    z_top = h_top + (e_top - h_top).detach()
    h_bottom = bottom.project(torch.cat([fine, top.finer(z_top)], 1))
    e_bottom = nearest(h_bottom, bottom.quantiser.codebook)
    z_bottom = h_bottom + (e_bottom - h_bottom).detach()
    params = model.decoder(torch.cat([top.up(z_top), bottom.up(z_bottom)], 1))
    pairs = ((h_top, e_top), (h_bottom, e_bottom))
    return {
        "nats": F.binary_cross_entropy_with_logits(params, x, reduction="sum") / len(x),
        "codebook": sum((h.detach() - e).square().sum(1).mean() for h, e in pairs),
        "commitment": sum((h - e.detach()).square().sum(1).mean() for h, e in pairs),
    }


def nearest(h: Tensor, codebook: Tensor) -> Tensor:
    vectors = h.detach().movedim(1, -1)
    distances = (vectors[..., None, :] - codebook.detach()).square().sum(-1)
    return codebook[distances.argmin(-1)].movedim(-1, 1)


@pytest.mark.parametrize("decay", [None, 0.99])
def test_the_loss_and_all_gradients_are_those_of_the_algorithm(decay):
    """So each term reaches what it should: the codebooks the second alone, the decoder the first
    alone, and the coarse encoder also what the finer level says of its codes."""
    model, x = noisy(decay=decay, beta=0.3), bits(6)
    terms, wanted = model.loss(x), by_hand(model, x)
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value.detach())
    second = 0.0 if decay else wanted["codebook"]
    whole = wanted["nats"] + second + 0.3 * wanted["commitment"]
    torch.testing.assert_close(terms["loss"], whole)
    assert bool(list(model.hierarchy[0].quantiser.parameters())) == (decay is None)
    named = dict(model.named_parameters())
    found = torch.autograd.grad(terms["loss"], list(named.values()))
    for name, got, want in zip(
        named, found, torch.autograd.grad(whole, list(named.values())), strict=True
    ):
        torch.testing.assert_close(got, want, msg=name)
        assert got.any(), name


def test_the_second_term_reaches_the_codebooks_alone_and_the_first_no_codebook():
    model, x = noisy(decay=None), bits(6)
    named = dict(model.named_parameters())
    for term, of_codebooks in (("codebook", True), ("nats", False)):
        grads = torch.autograd.grad(
            by_hand(model, x)[term], list(named.values()), allow_unused=True
        )
        for name, grad in zip(named, grads, strict=True):
            assert (grad is not None and bool(grad.any())) == (
                name.endswith("codebook") == of_codebooks
            ), name
    # And the model's own: without the two others, the loss is the first.
    model.beta = 0.0
    for level in model.hierarchy:
        level.quantiser.decay = 0.5  # as if averages moved them
    model.loss(x)["loss"].backward()
    for name, parameter in named.items():
        assert (parameter.grad is None) == name.endswith("codebook"), name


def test_the_bottom_is_told_what_the_top_has_said():
    model, x = noisy(), bits(5)
    top, bottom = model._quantised(x)
    (grad,) = torch.autograd.grad(bottom[0].sum(), top[0])
    assert grad.any(), "and so the top's encoder learns what the bottom needs"
    other = copy.deepcopy(model)
    other.hierarchy[0].quantiser.codebook += 1.0
    with torch.no_grad():
        moved_top, moved = other._quantised(x)
        assert torch.equal(moved_top[0], top[0])
        assert not torch.allclose(moved[0], bottom[0], atol=1e-3)
        deaf = copy.deepcopy(model)
        deaf.hierarchy[0].finer[-1].weight.zero_()
        first = deaf._quantised(x)[1][0]
        deaf.hierarchy[0].quantiser.codebook += 1.0
        assert torch.equal(deaf._quantised(x)[1][0], first)


def test_codes_come_coarse_to_fine_and_decode_to_what_the_loss_saw():
    model, x = noisy(), bits(4)
    codes = model.encode(x)
    assert [tuple(c.shape) for c in codes] == [(4, 1, 1), (4, 2, 2)]
    assert model.grids == ((1, 1), (2, 2))
    assert all(c.dtype == torch.int64 for c in codes)
    nats = -model.likelihood.log_prob(model.decode(codes), x).mean()
    terms = model.loss(x)
    torch.testing.assert_close(terms["nats"], nats)
    torch.testing.assert_close(model.decode_mean(codes), model.decode(codes).sigmoid())
    for i, c in enumerate(codes):
        assert len(c.unique()) > 1
        assert float(terms[f"perplexity_{i}"]) == pytest.approx(float(perplexity(c, 3)))


def test_only_training_moves_the_codebooks():
    model, x = small(restart=1), bits(4)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for model_in_mode in (model.train(), model.eval()):
        model_in_mode.log_prob(x)
        model_in_mode.encode(x)
        model_in_mode.sample(2)
    model.eval().loss(x)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    model.train().loss(x)
    for level in model.hierarchy:
        assert level.quantiser.sizes.any()


def test_three_levels():
    """Each is told all that coarser ones have said, and the decoder sees all of them."""
    model, x = noisy(depth=3), bits(3, size=16)
    codes = model.encode(x)
    assert [tuple(c.shape[1:]) for c in codes] == [(1, 1), (2, 2), (4, 4)]
    found = model._quantised(x)
    for fine, coarse in ((1, 0), (2, 0), (2, 1)):
        (grad,) = torch.autograd.grad(found[fine][0].sum(), found[coarse][0], retain_graph=True)
        assert grad.any()
    for coarse, fine in ((0, 1), (0, 2), (1, 2)):
        assert not dependent(found[coarse][0], found[fine][0])
    terms = model.loss(x)
    gaps = [(z - e).square().sum(1).mean() for z, _, e in found]
    torch.testing.assert_close(terms["commitment"], sum(gaps).detach())
    assert {"perplexity_0", "perplexity_1", "perplexity_2"} < set(terms)
    for i in range(3):
        others = list(codes)
        others[i] = (codes[i] + 1) % 3
        assert not torch.allclose(model.decode(others), model.decode(codes), atol=1e-4)
    assert model.sample(2).shape == (2, 1, 16, 16)


def dependent(value: Tensor, on: Tensor) -> bool:
    (grad,) = torch.autograd.grad(value.sum(), on, retain_graph=True, allow_unused=True)
    return grad is not None and bool(grad.any())


@pytest.mark.parametrize(
    "likelihood", [IsotropicGaussian(), Bernoulli(), Categorical(4)], ids=lambda p: type(p).__name__
)
def test_images_of_the_papers_networks(likelihood):
    model = VQVAE2.image(
        (3, 8, 16), count=6, dim=4, width=8, inner=4, blocks=2, likelihood=likelihood
    )
    levels = isinstance(likelihood, Categorical)
    x = torch.randint(4 if levels else 2, (2, 3, 8, 16), generator=seeded())
    x = x if levels else x.float()
    assert [tuple(c.shape) for c in model.encode(x)] == [(2, 1, 2), (2, 2, 4)]
    assert model.sample(2).shape == x.shape
    assert model.log_prob(x).isfinite().all()
    assert isinstance(model, LikelihoodModel)


@pytest.mark.parametrize("depth", [2, 3])
def test_a_code_of_the_finest_level_may_stand_for_two_by_two_pixels(depth):
    options = {"count": 6, "dim": 4, "width": 8, "inner": 4, "blocks": 1}
    model = VQVAE2.image((3, 16, 32), depth=depth, stride=2, **options)
    assert model.grids == ((2, 4), (4, 8), (8, 16))[3 - depth :]
    codes = model.encode(torch.rand(2, 3, 16, 32, generator=seeded()))
    assert [tuple(c.shape) for c in codes] == [(2, *grid) for grid in model.grids]
    assert model.decode_mean(codes).shape == (2, 3, 16, 32)
    # One convolution and one transposed one less than the paper's, both of the finest level.
    lost = VQVAE2.image((3, 16, 32), depth=depth, **options)
    halves = [sum(getattr(m, "stride", 0) == (2, 2) for m in n.modules()) for n in (model, lost)]
    assert halves[1] - halves[0] == 2


def test_sizes_of_the_paper():
    with torch.device("meta"):
        model = VQVAE2.image((3, 256, 256))
        faces = VQVAE2.image((3, 1024, 1024), depth=3, width=8, inner=4)
        top = TopPrior((1, 32, 32), context_dim=8, embed=ClassEmbedding(1000, 8))
        bottom = BottomPrior((1, 64, 64), [(512, 32, 32)], classes=1000)
    assert model.grids == ((32, 32), (64, 64))
    assert faces.grids[1:] == ((128, 128), (256, 256))
    assert [q.quantiser.codebook.shape for q in model.hierarchy] == [(512, 64)] * 2
    assert [q.quantiser.decay for q in model.hierarchy] == [0.99] * 2
    assert model.beta == 0.25
    assert len(top.attention) == 4
    assert {a.heads for a in top.attention} == {8}
    assert len(top.stack) == 20
    assert {part.p for part in top.modules() if isinstance(part, nn.Dropout)} == {0.1}
    assert len(bottom.embed.nets[0]) == 20 + 2


# -- figure 3: levels left out, and levels of another image


def test_a_level_that_is_left_out_is_zeros():
    model, codes = noisy(), every_code(3)
    top, bottom = model.hierarchy
    entries = [level.quantiser.embed(c) for level, c in zip(model.hierarchy, codes, strict=True)]
    for keep in itertools.product((True, False), repeat=2):
        parts = [e if k else torch.zeros_like(e) for e, k in zip(entries, keep, strict=True)]
        wanted = model.decoder(torch.cat([top.up(parts[0]), bottom.up(parts[1])], 1))
        torch.testing.assert_close(model.decode(codes, keep), wanted)
    assert torch.equal(model.decode(codes, (True, True)), model.decode(codes))
    shuffled = (codes[0], codes[1].flip(0))
    assert torch.equal(model.decode(codes, (True, False)), model.decode(shuffled, [True, False]))
    assert not torch.allclose(model.decode(codes), model.decode(shuffled))
    torch.testing.assert_close(
        model.decode_mean(codes, (False, True)), model.decode(codes, (False, True)).sigmoid()
    )


# -- level dropout, which is not in the paper


class Spy(nn.Module):
    """Remembers what a module gets."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.seen = net, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach())
        return self.net(x)


@pytest.mark.parametrize("depth", [2, 3])
def test_level_dropout_takes_the_finer_levels_of_so_many_items(depth):
    """The finest is lost with the probability that is asked for, coarser ones as much more seldom,
    never without all finer ones, and the coarsest never."""
    model = noisy(depth=depth, level_dropout=0.4).train()
    for level in model.hierarchy:
        level.up = Spy(level.up)
    x = bits(100, size=2 ** (depth + 1))
    with torch.no_grad():
        for _ in range(10):
            model.loss(x)
    lost = [torch.cat(level.up.seen).flatten(1).eq(0).all(1) for level in model.hierarchy]
    assert not lost[0].any()
    for i in range(1, depth):
        expected = 0.4 * i / (depth - 1)
        slack = 4 * math.sqrt(expected * (1 - expected) / 1000)
        assert float(lost[i].double().mean()) == pytest.approx(expected, abs=slack)
    for coarse, fine in itertools.pairwise(lost):
        assert not (coarse & ~fine).any()
    for spied in (level.up for level in model.hierarchy):
        spied.seen.clear()
    model.log_prob(x)
    model.eval().loss(x)
    assert not any(s.flatten(1).eq(0).all(1).any() for lv in model.hierarchy for s in lv.up.seen)


def test_what_is_dropped_gets_no_gradient_of_the_data_and_is_committed_all_the_same():
    model, x = noisy(level_dropout=1.0, beta=0.0).train(), bits(5)
    model.loss(x)["loss"].backward()
    assert not model.hierarchy[1].project.weight.grad.any()
    assert not model.hierarchy[0].finer[-1].weight.grad.any()
    assert model.hierarchy[0].project.weight.grad.any()
    torch.testing.assert_close(
        model.loss(x)["nats"],
        -model.likelihood.log_prob(model.decode(model.encode(x), (True, False)), x).mean(),
    )
    model.beta = 1.0
    model.zero_grad()
    model.loss(x)["loss"].backward()
    assert model.hierarchy[1].project.weight.grad.any()
    plain = noisy(beta=0.0).train()
    plain.loss(x)["loss"].backward()
    assert plain.hierarchy[1].project.weight.grad.any()


def test_level_dropout_makes_the_top_carry_what_it_can():
    """Images of one grey each: the finest level could say all, and says so when nothing is
    dropped."""
    x = torch.rand(256, 1, 1, 1, generator=seeded(3)).expand(-1, 1, 8, 8).contiguous()
    error = {}
    for dropout in (0.0, 0.5):
        torch.manual_seed(0)
        model = VQVAE2.image(
            (1, 8, 8), count=16, dim=4, width=12, inner=8, blocks=1, restart=5, decay=0.9,
            level_dropout=dropout,
        )  # fmt: skip
        fit(model, x, steps=100, batch_size=32, progress=False)
        alone = model.decode_mean(model.encode(x), (True, False)).detach()
        error[dropout] = float((alone - x).square().mean() / x.var())
    assert error[0.5] < 0.2
    assert error[0.0] > 2 * error[0.5]


# -- the bound


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize("learned", [False, True])
def test_log_prob_is_a_bound_and_one_term_of_a_sum(learned, classes):
    """log p(x) over all 3^5 codes, by enumeration."""
    if classes and not learned:
        pytest.skip("nothing to condition")
    model, x, every = noisy(), bits(4), every_code(3)
    if learned:
        model.priors = priors(classes=classes)
    labels = torch.tensor([0, 1, 1, 0]) if classes else None
    with torch.no_grad():
        bound = model.log_prob(x, labels)
        decoded = model.decode(every)
        codes = model.encode(x)
    digits = torch.cat([codes[0].flatten(1), codes[1].flatten(1)], 1)
    index = digits @ torch.tensor([81, 27, 9, 3, 1])
    for i in range(4):
        y = None if labels is None else labels[i : i + 1].expand(243)
        with torch.no_grad():
            log_prior = model.code_log_prob(every, y)
            given = model.likelihood.log_prob(decoded, x[i : i + 1].expand(243, -1, -1, -1))
        assert float(log_prior.exp().sum()) == pytest.approx(1)
        terms = log_prior + given
        assert bound[i] <= terms.logsumexp(0)
        torch.testing.assert_close(bound[i], terms[index[i]])
    assert model.bound is True
    if not learned:
        torch.testing.assert_close(log_prior, torch.full((243,), -5 * math.log(3)).double())
    if classes:
        assert not torch.allclose(bound, model.log_prob(x, 1 - labels), atol=1e-4)


@pytest.mark.parametrize("classes", [0, 2])
def test_samples_are_codes_of_the_priors_and_data_of_the_codes(classes):
    model = noisy(2)
    model.priors = priors(2, classes)
    y = torch.tensor([0, 1]).repeat(1500) if classes else None
    codes = model.sample_codes(3000, y, generator=seeded(1))
    assert [tuple(c.shape) for c in codes] == [(3000, 1, 1), (3000, 2, 2)]
    index = torch.cat([c.flatten(1) for c in codes], 1) @ torch.tensor([16, 8, 4, 2, 1])
    for label in range(max(1, classes)):
        mine = index if y is None else index[y == label]
        condition = None if y is None else torch.full((32,), label)
        with torch.no_grad():
            expected = len(mine) * model.code_log_prob(every_code(2), condition).exp()
        counts = torch.bincount(mine, minlength=32)
        chi2 = ((counts - expected).square() / expected).sum()
        assert chi2 < 72, "beyond 1 in 10,000 for 31 degrees of freedom"
    drawn = model.sample(3, None if y is None else y[:3], generator=seeded(2))
    assert drawn.shape == (3, 1, 8, 8)


def test_without_priors_codes_are_uniform_and_labels_are_refused():
    model = small(4)
    for c in model.sample_codes(2000, generator=seeded()):
        counts = torch.bincount(c.flatten(), minlength=4) / c.numel()
        assert ((counts - 0.25).abs() < 0.04).all()
    y = torch.tensor([0, 1])
    codes = model.encode(bits(2))
    for call in (
        lambda: model.loss(bits(2), y),
        lambda: model.log_prob(bits(2), y),
        lambda: model.code_log_prob(codes, y),
        lambda: model.sample(2, y),
        lambda: model.sample_codes(2, y),
    ):
        with pytest.raises(ValueError, match="y must be None"):
            call()


@pytest.mark.parametrize(
    "bad", [None, torch.tensor([0, 1, 0]), torch.tensor([0, 2]), torch.tensor([0.5, 1.0]), [0, 1]]
)
def test_bad_labels_are_refused_by_every_method_that_needs_them(bad):
    model, x = noisy(), bits(2)
    model.priors = priors(classes=2)
    codes = model.encode(x)
    for call in (
        lambda: model.log_prob(x, bad),
        lambda: model.code_log_prob(codes, bad),
        lambda: model.sample(2, bad),
        lambda: model.sample_codes(2, bad),
        lambda: model.priors[1].given(codes[:1], bad),
    ):
        with pytest.raises((ValueError, TypeError), match=r"^y must"):
            call()


def test_it_travels_with_its_priors():
    model, x, y = noisy(), bits(3), torch.tensor([1, 0, 1])
    model.priors = priors(classes=2)
    twin = pickle.loads(pickle.dumps(model))
    fresh = small()
    fresh.priors = priors(classes=2)
    fresh.load_state_dict(model.state_dict())
    for other in (twin, fresh, copy.deepcopy(model)):
        assert torch.equal(other.log_prob(x, y), model.log_prob(x, y))
        drawn, wanted = (m.sample(3, y, generator=seeded()) for m in (other, model))
        assert torch.equal(drawn, wanted)


def test_priors_are_trained_as_it_is_written():
    model, x = small(), bits(40)
    y = x.mean((1, 2, 3)).gt(0.5).long()
    codes = model.encode(x)
    top, bottom = priors(classes=2).float()
    for prior, data, condition in (
        (top, codes[0], y),
        (bottom, codes[1], bottom.given(codes[:1], y)),
    ):
        before = prior.loss(data[:, None], condition)["loss"].item()
        fit(prior, (data[:, None], condition), steps=30, batch_size=20, progress=False)
        assert prior.eval().loss(data[:, None], condition)["loss"].item() < before
    model.priors = nn.ModuleList([top, bottom])
    assert model.log_prob(x, y).isfinite().all()
    assert model.sample(2, y[:2]).shape == (2, 1, 8, 8)


def test_a_bottom_without_classes_leaves_the_label_to_the_top():
    model, x = noisy(), bits(3)
    model.priors = nn.ModuleList([priors(classes=2)[0], priors()[1]])
    labels = torch.tensor([0, 1, 1])
    apart = model.code_log_prob(model.encode(x), labels)
    top, bottom = model.priors
    codes = model.encode(x)
    wanted = top.log_prob(codes[0][:, None], labels)
    wanted = wanted + bottom.log_prob(codes[1][:, None], codes[0].flatten(1))
    torch.testing.assert_close(apart, wanted)


# -- section 3.2: the top's prior


def top_prior(**options) -> TopPrior:
    options = {
        "levels": 5, "p": 12, "layers": 4, "every": 2, "heads": 3, "stack": 2, "kernel": 3,
        "first_kernel": 3, "level_features": 4, **options,
    }  # fmt: skip
    return loud(TopPrior((1, 4, 5), **options))


def attended(block: MaskedAttention, h: Tensor, image: Tensor) -> Tensor:
    """Attention of one item in loops: places, heads, keys."""
    flat = h.flatten(1).T + block.where
    codes = image.flatten(1).T
    size = flat.shape[1] // block.heads
    found = torch.zeros_like(flat)
    for i in range(len(flat)):
        query = block.query(flat[i])
        pairs = [(torch.zeros(flat.shape[1]).double(),) * 2]
        for j in range(i):
            pairs.append(block.memory(torch.cat([flat[j], codes[j]])).chunk(2))
        for head in range(block.heads):
            part = slice(head * size, (head + 1) * size)
            logits = torch.stack([query[part] @ key[part] for key, _ in pairs]) / math.sqrt(size)
            shares = logits.softmax(0)
            found[i, part] = sum(
                share * value[part] for share, (_, value) in zip(shares, pairs, strict=True)
            )
    return h + block.out(found).T.view_as(h)


def test_attention_is_that_of_loops_over_places_heads_and_keys():
    block = loud(MaskedAttention(6, 2, 12, 3))
    h, image = normal(2, 6, 3, 4), normal(2, 2, 3, 4, seed=1)
    found = block(h, image)
    for i in range(2):
        torch.testing.assert_close(found[i], attended(block, h[i], image[i]))


def test_attention_sees_all_places_before_its_own_and_no_other():
    """Not its own either. What passes by it does, and is causal by itself."""
    block = loud(MaskedAttention(6, 2, 12, 3))
    h, image = normal(1, 6, 3, 4).requires_grad_(), normal(1, 2, 3, 4, seed=1).requires_grad_()
    out = block(h, image) - h
    for place in range(12):
        value = out.flatten(2)[0, :, place].sum()
        of_h, of_image = torch.autograd.grad(value, (h, image), retain_graph=True)
        reach = of_image.abs().sum(1).flatten()
        assert not reach[place:].any()
        assert reach[:place].all()
        reach = of_h.abs().sum(1).flatten()
        assert not reach[place + 1 :].any()
        assert reach[:place].all()


@pytest.mark.parametrize("far", [True, False])
def test_the_top_sees_all_codes_before_a_place_and_no_other(far):
    """Gradients are exactly zero. Without attention the first layers' reach would end."""
    model = top_prior(layers=2, every=1)
    if not far:
        for attention in model.attention:
            attention.out.weight.data.zero_()
    x = torch.randint(5, (1, 1, 4, 5), generator=seeded())
    image = model.image(x).detach().requires_grad_()
    out = model.features(image).flatten(2)
    seen = []
    for place in range(20):
        (grad,) = torch.autograd.grad(out[0, :, place].sum(), image, retain_graph=True)
        reach = grad.abs().sum(1).flatten()
        assert not reach[place:].any()
        seen.append(bool(reach[:place].all()))
    assert all(seen) == far


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_the_top_is_sampled_as_it_is_naively(classes, every):
    condition = {"context_dim": 3, "embed": ClassEmbedding(2, 3)} if classes else {}
    model = top_prior(every=every, **condition)
    y = torch.tensor([0, 1, 1]) if classes else None
    fast, naive = Recorder(model), Recorder(model)
    drawn = model.generate(fast, 3, y)
    assert torch.equal(drawn, model.generate_naive(naive, 3, y))
    assert fast.places == naive.places
    for got, want in zip(fast.params, naive.params, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    assert torch.equal(
        model.sample(3, y, generator=seeded()), model.sample(3, y, generator=seeded())
    )
    if classes:
        log_prob = model.log_prob(drawn, y)
        assert not torch.allclose(log_prob, model.log_prob(drawn, 1 - y), atol=1e-4)


def test_the_top_is_completed_and_takes_a_context_of_its_places():
    model = top_prior(context_dim=2)
    x = torch.randint(5, (2, 1, 4, 5), generator=seeded())
    y = normal(2, 2, 4, 5)
    known = torch.zeros(4, 5, dtype=torch.bool)
    known[:2] = True
    drawn = model.complete(x, known, y, generator=seeded())
    assert torch.equal(drawn[:, :, :2], x[:, :, :2])
    fast, naive = Recorder(model), Recorder(model)
    assert torch.equal(model.generate(fast, 2, y), model.generate_naive(naive, 2, y))
    torch.testing.assert_close(torch.stack(fast.params), torch.stack(naive.params))


def test_the_top_is_a_distribution():
    model = loud(
        TopPrior(
            (1, 2, 2), levels=3, p=6, layers=2, every=1, heads=2, stack=1, first_kernel=3,
            level_features=2,
        ),
        0.5,
    )  # fmt: skip
    every = torch.cartesian_prod(*[torch.arange(3)] * 4).view(-1, 1, 2, 2)
    with torch.no_grad():
        assert float(model.log_prob(every).exp().sum()) == pytest.approx(1)


def test_dropout_is_of_training_alone():
    y = torch.tensor([1, 0])
    condition = {"context_dim": 3, "embed": ClassEmbedding(2, 3)}
    top = top_prior(dropout=0.5, **condition)
    x = torch.randint(5, (2, 1, 4, 5), generator=seeded())
    bottom = bottom_prior(dropout=0.5)
    codes = torch.randint(4, (2, 2, 3), generator=seeded(1))
    z = torch.randint(5, (2, 1, 4, 6), generator=seeded(2))
    for model, data, given in ((top, x, y), (bottom, z, bottom.given([codes], y))):
        plain = model.log_prob(data, given)
        losses = {model.train().loss(data, given)["loss"].item() for _ in range(4)}
        assert len(losses) == 4
        assert torch.equal(model.log_prob(data, given), plain)
        drawn = model.sample(2, given, generator=seeded())
        assert torch.equal(drawn, model.eval().sample(2, given, generator=seeded()))


def test_dropout_is_of_the_logits_of_attention():
    """With all of them dropped every place looks at all that it sees alike."""
    block = loud(MaskedAttention(6, 2, 4, 3, dropout=1.0)).train()
    h, image = normal(1, 6, 2, 2), normal(1, 2, 2, 2, seed=1)
    found = block(h, image) - h
    flat = h.flatten(2)[0].T + block.where
    values = block.memory(torch.cat([flat, image.flatten(2)[0].T], 1))[:, 6:]
    for place in range(4):
        mean = values[:place].sum(0) / (place + 1)
        torch.testing.assert_close(found.flatten(2)[0, :, place], block.out(mean))


# -- and the bottom's


def bottom_prior(classes: int = 2, **options) -> BottomPrior:
    options = {
        "levels": 5, "p": 6, "layers": 2, "blocks": 1, "width": 7, "kernel": 3,
        "first_kernel": 3, "level_features": 3, **options,
    }  # fmt: skip
    return loud(BottomPrior((1, 4, 6), [(4, 2, 3)], classes=classes, **options))


def test_given_is_the_label_and_then_the_codes():
    top, middle = torch.tensor([[[3]], [[1]]]), torch.tensor([[[0, 1]], [[2, 3]]])
    model = BottomPrior(
        (1, 2, 2), [(4, 1, 1), (5, 1, 2)], levels=3, p=4, layers=1, blocks=1, classes=9
    )
    y = model.given([top, middle], torch.tensor([8, 7]))
    assert y.tolist() == [[8, 3, 0, 1], [7, 1, 2, 3]]
    assert model.given([top, middle], torch.tensor([8, 7], dtype=torch.int32)).dtype == torch.int64
    assert model.context(y, 2).shape == (2, 4, 2, 2)
    with pytest.raises(ValueError, match="y must hold levels 0 to 3, got"):
        model.context(y + torch.tensor([0, 3, 0, 0]), 2)
    with pytest.raises(ValueError, match="y must hold levels 0 to 4, got"):
        model.context(y + torch.tensor([0, 0, 0, 3]), 2)
    with pytest.raises(ValueError, match="y must hold labels 0 to 8, got"):
        model.context(y + torch.tensor([1, 0, 0, 0]), 2)
    with pytest.raises(ValueError, match=r"y must be a batch of shape \(B, 4\), as given makes it"):
        model.log_prob(torch.zeros(2, 1, 2, 2, dtype=torch.int64), torch.tensor([8, 7]))


def test_a_coarse_code_speaks_to_its_own_places_and_the_label_to_all():
    """Without blocks, whose convolutions would spread it: 2x2 places for each."""
    stack = loud(ConditioningStack([(4, 2, 3)], (4, 6), 7, blocks=0, classes=2))
    codes = torch.randint(4, (1, 6), generator=seeded())
    before = stack(torch.cat([torch.tensor([[0]]), codes], 1))
    assert before.shape == (1, 7, 4, 6)
    for place in range(6):
        other = codes.clone()
        other[0, place] = (other[0, place] + 1) % 4
        moved = (stack(torch.cat([torch.tensor([[0]]), other], 1)) - before).abs().sum(1)[0]
        i, j = divmod(place, 3)
        own = torch.zeros(4, 6, dtype=torch.bool)
        own[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = True
        assert torch.equal(moved > 0, own)
    assert (stack(torch.cat([torch.tensor([[1]]), codes], 1)) != before).any(1).all()
    deep = loud(ConditioningStack([(4, 2, 3)], (4, 6), 7, blocks=2))
    other = codes.clone()
    other[0, 0] = (other[0, 0] + 1) % 4
    assert (deep(codes) != deep(other)).any(1).all(), "blocks let it speak to neighbours"


def test_two_coarser_levels_both_reach_every_place():
    stack = loud(ConditioningStack([(4, 1, 1), (5, 2, 2)], (4, 4), 6, blocks=1))
    y = torch.zeros(1, 5, dtype=torch.int64)
    for i in (0, 1, 4):
        other = y.clone()
        other[0, i] = 1
        assert (stack(other) != stack(y)).any()
    other = y.clone()
    other[0, 0] = 1
    assert (stack(other) != stack(y)).any(1).all()


def test_the_bottom_is_causal_and_sampled_as_it_is_naively():
    model, y = bottom_prior(), torch.tensor([0, 1, 1])
    given = model.given([torch.randint(4, (3, 2, 3), generator=seeded())], y)
    x = torch.randint(5, (3, 1, 4, 6), generator=seeded(1))
    image = model.image(x).detach().requires_grad_()
    out = model.features(image, model.context(given, 3)).flatten(2)
    for place in range(24):
        (grad,) = torch.autograd.grad(out[:, :, place].sum(), image, retain_graph=True)
        reach = grad.abs().sum((0, 1)).flatten()
        assert not reach[place:].any()
    fast, naive = Recorder(model), Recorder(model)
    assert torch.equal(model.generate(fast, 3, given), model.generate_naive(naive, 3, given))
    for got, want in zip(fast.params, naive.params, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    other = model.given([torch.randint(4, (3, 2, 3), generator=seeded(2))], y)
    assert not torch.allclose(model.log_prob(x, other), model.log_prob(x, given), atol=1e-4)
    other = given.clone()
    other[:, 0] = 1 - other[:, 0]
    assert not torch.allclose(model.log_prob(x, other), model.log_prob(x, given), atol=1e-4)


# -- section 3.3: rejection


def test_those_that_a_classifier_is_surest_of_are_kept():
    samples = normal(40, 1, 2, 2)
    classifier = lambda x: torch.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], 1)  # noqa: E731

    def probability(x: Tensor) -> Tensor:
        return classifier(x).softmax(1)[:, 0]

    kept = reject(samples, probability, 0.25)
    assert kept.shape == (10, 1, 2, 2)
    order = sorted(range(40), key=lambda i: -float(samples[i].sum()))
    assert torch.equal(kept, samples[order[:10]])
    assert torch.equal(reject(samples, probability, 1), samples[order])
    assert len(reject(samples, probability, 1e-9)) == 1
    assert len(reject(samples[:0], probability, 0.5)) == 0
    same = reject(torch.arange(6), lambda x: torch.zeros(len(x)), 0.5)
    assert same.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("score", "keep", "told"),
    [
        (lambda x: x.sum(1), 0, "keep must be a number above 0 and up to 1, got 0"),
        (lambda x: x.sum(1), 1.5, "keep must be a number above 0 and up to 1, got 1.5"),
        (lambda x: x.sum(1), math.nan, "keep must be a number above 0 and up to 1, got nan"),
        (lambda x: x, 0.5, r"score must give a number for each of 4 items, got \(4, 2\)"),
        (lambda x: x[:, 0] * math.nan, 0.5, "score must give .* got nan"),
    ],
)
def test_bad_rejections_are_refused_by_name(score, keep, told):
    with pytest.raises(ValueError, match=told):
        reject(normal(4, 2), score, keep)


# -- hostile input


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("level", [0, 1])
def test_vectors_that_are_not_finite_are_told(bad, level):
    model, x = noisy(), bits(3)
    with torch.no_grad():
        model.hierarchy[level].project.bias[1] = bad
    before = {k: v.clone() for k, v in model.state_dict().items() if "quantiser" in k}
    assert model.log_prob(x).isnan().all()
    assert not model.train().loss(x)["loss"].isfinite()
    mine = [k for k in before if k.startswith(f"hierarchy.{level}")]
    assert all(torch.equal(model.state_dict()[k], before[k]) for k in mine)
    with pytest.raises(ValueError, match="x must be encoded as finite vectors, got nan or inf"):
        model.encode(x)


def two(top: Tensor | None = None, bottom: Tensor | None = None) -> tuple[Tensor, Tensor]:
    zeros = torch.zeros(2, 1, 1, dtype=torch.int64), torch.zeros(2, 2, 2, dtype=torch.int64)
    return zeros[0] if top is None else top, zeros[1] if bottom is None else bottom


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda m: m.decode(two()[1]), "codes must be a tuple of 2 tensors, .* got Tensor"),
        (lambda m: m.decode(two()[:1]), "codes must be a tuple of 2 tensors, .* got 1"),
        (lambda m: m.decode(two()[::-1]), r"codes\[0\] must be a batch of shape \(B, 1, 1\)"),
        (lambda m: m.decode(two(bottom=two()[1][:1])), r"codes\[1\] must have as many items as"),
        (lambda m: m.decode(two(bottom=two()[1] + 3)), r"codes\[1\] must hold levels 0 to 2, got"),
        (lambda m: m.decode(two(top=two()[0] - 1)), r"codes\[0\] must hold levels 0 to 2, got"),
        (lambda m: m.decode(two(top=two()[0] + 0.5)), r"codes\[0\] must hold int64 levels 0 to 2"),
        (lambda m: m.decode((two()[0], [[0]])), r"codes\[1\] must be a tensor, got"),
        (lambda m: m.code_log_prob(two()[:1]), "codes must be a tuple of 2 tensors, .* got 1"),
        (lambda m: m.decode(two(), (True,)), "keep must have one bool for each of 2 levels"),
        (lambda m: m.decode(two(), (1, 0)), r"keep must .* such as \(True, False\), got \(1, 0\)"),
        (lambda m: m.loss(bits(0)), "x must have at least one item"),
        (lambda m: m.encode(bits(2)[..., :4]), "x must be a batch of shape"),
        (lambda m: m.log_prob(bits(2) * math.nan), "x must"),
        (lambda m: m.sample(-1), "n must be at least 0, got -1"),
        (lambda m: VQVAE2.image((1, 12, 8)), "multiples of 8 for 3 strides of 2, got .1, 12, 8"),
        (lambda m: VQVAE2.image((1, 8, 6), stride=2), "multiples of 4 for 2 strides of 2"),
        (lambda m: small(stride=3), "stride must be 2 or 4, got 3"),
        (lambda m: small(depth=1), "depth must be at least 2, got 1"),
        (lambda m: small(beta=-1.0), "beta must be a finite number from 0, got -1.0"),
        (lambda m: small(level_dropout=1.5), "level_dropout must be a number from 0 to 1, got 1.5"),
        (
            lambda m: VQVAE2(list(m.hierarchy)[:1], m.decoder, m.likelihood, data_shape=(1, 8, 8)),
            "hierarchy must have two levels or more, got 1",
        ),
        (lambda m: with_level(m).encode(bits(2)), r"hierarchy\[1\].project must give \(B, 3, "),
        (lambda m: with_priors(m, nn.ModuleList(priors()[:1])).sample(1), "priors must be an nn.M"),
        (lambda m: with_priors(m, list(priors())).log_prob(bits(1)), "priors must be .* no such"),
        (lambda m: TopPrior((2, 4, 4)), r"data_shape must be \(1, H, W\), one code for each place"),
        (lambda m: top_prior(every=5), "every must be at most layers, 4, got 5"),
        (lambda m: top_prior(heads=5), "heads must divide the 12 features, got 5"),
        (lambda m: top_prior(dropout=-0.1), "dropout must be a number from 0 to 1, got -0.1"),
        (lambda m: BottomPrior((1, 4, 4), []), "coarser must have .* of one level or more"),
        (lambda m: BottomPrior((1, 4, 4), [(3, 4)]), r"coarser\[0\] must be \(C, H, W\)"),
        (lambda m: BottomPrior((1, 4, 4), [(3, 3, 2)]), "coarser must have grids of which each"),
    ],
)
def test_bad_input_is_refused_by_name(call, told):
    with pytest.raises((ValueError, TypeError), match=told):
        call(noisy())


def with_level(model: VQVAE2) -> VQVAE2:
    """Whose finest level says that its grid is another."""
    top, bottom = model.hierarchy
    wrong = Level(bottom.encoder, bottom.project, bottom.quantiser, grid=(2, 3), up=bottom.up)
    return VQVAE2([top, wrong], model.decoder, model.likelihood, data_shape=(1, 8, 8))


def with_priors(model: VQVAE2, given: object) -> VQVAE2:
    model.priors = given
    return model
