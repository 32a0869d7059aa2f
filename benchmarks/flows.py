"""Flows beside nflows, zuko and normflows, all of one architecture, in one run.

Where weights can be carried across they are, and the two must then agree to 1e-5. They can't be
where a peer computes another map: nflows and normflows bound their scales by a softplus or a
sigmoid, where MAF and Real NVP have an exponential; there what is compared is the networks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform
from torch.optim import Adam

from benchmarks import Result, in_turn
from gdm_lib.autoregressive.made import MaskedMLP
from gdm_lib.bijections import Chain, Squeeze
from gdm_lib.flows.glow import ActNorm, ConvNet, Coupling, InvertibleConvLU
from gdm_lib.flows.iaf import AutoregressiveStep, iaf_chain
from gdm_lib.flows.maf import MAF, exp_scale
from gdm_lib.flows.nice import AdditiveCoupling
from gdm_lib.flows.planar_radial import Planar, Radial
from gdm_lib.flows.realnvp import RealNVP
from gdm_lib.nn import mlp

try:
    import normflows
    import zuko
    from nflows import transforms as nflows
except ImportError:  # python -m benchmarks says how to get them
    normflows = zuko = nflows = None

__all__ = ["BENCHMARKS"]

BATCH = 256
Map = Callable[[Tensor], tuple[Tensor, Tensor]]


# Shared


def _need_peers() -> None:
    if zuko is None:
        raise SystemExit("nflows, zuko and normflows are not installed; use: make bench")


def round_robin(
    units: int, lowest: int, highest: int, generator: torch.Generator | None = None
) -> Tensor:
    """Degrees of hidden units as nflows and zuko deal them."""
    return lowest + torch.arange(units) % (highest + 1 - lowest)


def _agree(name: str, ours: Tensor, theirs: Tensor) -> None:
    gap = float((ours - theirs).abs().max())
    if not gap <= 1e-5 * max(1.0, float(ours.abs().max())):
        raise AssertionError(f"{name}: ours and theirs differ by {gap:.2g} with the same weights")


def _step(module: nn.Module, push: Map, x: Tensor) -> Callable[[], None]:
    """One step of maximum likelihood under a standard normal base."""
    optimizer = Adam(module.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        z, logdet = push(x)
        (0.5 * z.flatten(1).square().sum(1) - logdet).mean().backward()
        optimizer.step()

    return step


def _compare(
    name: str,
    ours: Callable[[], object],
    peers: dict[str, Callable[[], object]],
    target: float,
    repeats: int = 30,
    inner: int = 1,
) -> list[Result]:
    """A row for each peer; one that raises is left out, and said."""
    working = {}
    for peer, run in peers.items():
        try:
            run()
        except Exception as error:  # whatever goes wrong in a peer is only told
            text = (str(error).splitlines() or [""])[0]
            print(f"{name}: {peer} fails with {type(error).__name__}: {text}", file=sys.stderr)
        else:
            working[peer] = run

    def several(run: Callable[[], object]) -> Callable[[], None]:
        def times() -> None:
            for _ in range(inner):
                run()

        return times

    ours_s, *theirs = in_turn(*map(several, (ours, *working.values())), repeats=repeats)
    return [
        Result(name, ours_s / inner, peer, version(peer), peer_s / inner, target)
        for peer, peer_s in zip(working, theirs, strict=True)
    ]


def _through(steps: nn.ModuleList) -> Map:
    """A chain of normflows' layers."""

    def push(x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for step in steps:
            x, logdet = step(x)
            total = total + logdet
        return x, total

    return push


def _zuko_push(flow: nn.Module) -> Map:
    return lambda x: flow.transform().call_and_ladj(x)


def _relu_net(sizes: tuple[int, ...]) -> nn.Module:
    """An MLP that takes, and ignores, the context that nflows hands on."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(sizes, nn.ReLU)

        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            return self.net(x)

    return Net()


# One training step


def flow_step_planar() -> list[Result]:
    """Sixteen planar steps in two dimensions."""
    _need_peers()
    torch.manual_seed(0)
    x = torch.randn(BATCH, 2)
    ours = Chain(*(Planar(2) for _ in range(16)))
    theirs = nn.ModuleList()
    for step in ours.parts:
        w, u, b = step.raw.data.split((2, 2, 1), 1)
        peer = normflows.flows.Planar((2,), w=w.clone(), u=u.clone(), b=b[0].clone())
        theirs.append(peer)
    _agree("planar", torch.cat([*ours(x)[0].T, ours(x)[1]]), _flat(_through(theirs)(x)))
    peers = {"normflows": _step(theirs, _through(theirs), x)}
    return _compare("flow_step_planar", _step(ours, ours, x), peers, 1.0)


def _flat(pushed: tuple[Tensor, Tensor]) -> Tensor:
    return torch.cat([*pushed[0].T, pushed[1]])


def flow_step_radial() -> list[Result]:
    """Sixteen radial steps in two dimensions."""
    _need_peers()
    torch.manual_seed(0)
    x = torch.randn(BATCH, 2)
    ours = Chain(*(Radial(2) for _ in range(16)))
    theirs = nn.ModuleList()
    for step in ours.parts:
        z0, alpha, beta = step.raw.data.split((2, 1, 1), 1)
        peer = normflows.flows.Radial((2,), z_0=z0.clone())
        peer.alpha.data, peer.beta.data = nn.functional.softplus(alpha[0]), beta[0].clone()
        theirs.append(peer)
    _agree("radial", _flat(ours(x)), _flat(_through(theirs)(x)))
    peers = {"normflows": _step(theirs, _through(theirs), x)}
    return _compare("flow_step_radial", _step(ours, ours, x), peers, 1.0)


def flow_step_nice() -> list[Result]:
    """Four additive couplings on 64 dimensions, networks of two layers of 128."""
    _need_peers()
    torch.manual_seed(0)
    dim, sizes = 64, (32, 128, 128, 32)
    x = torch.randn(BATCH, dim)
    ours = Chain(*(AdditiveCoupling(dim, mlp(sizes, nn.ReLU), odd=i % 2 == 1) for i in range(4)))
    masks = [(torch.arange(dim) + 1 + i) % 2 for i in range(4)]  # 1 where nflows changes
    by_nflows = nflows.CompositeTransform(
        [nflows.AdditiveCouplingTransform(1 - m, lambda a, b: _relu_net(sizes)) for m in masks]
    )
    by_normflows = nn.ModuleList()
    for _ in range(4):
        block = normflows.flows.AffineCouplingBlock(mlp(sizes, nn.ReLU), scale=False)
        by_normflows += [block, normflows.flows.Permute(dim, mode="swap")]
    for ours_part, peer_part in zip(ours.parts, by_nflows._transforms, strict=True):
        peer_part.transform_net.net.load_state_dict(ours_part.net.state_dict())
    _agree("nice", _flat(ours(x)), _flat(by_nflows(x)))
    peers = {
        "nflows": _step(by_nflows, by_nflows, x),
        "normflows": _step(by_normflows, _through(by_normflows), x),
    }
    return _compare("flow_step_nice", _step(ours, ours, x), peers, 1.0)


def flow_step_realnvp() -> list[Result]:
    """Six affine couplings on 64 dimensions, networks of two layers of 128."""
    _need_peers()
    torch.manual_seed(0)
    dim, sizes = 64, (32, 128, 128, 64)
    x = torch.randn(BATCH, dim)
    ours = RealNVP.vector(dim, couplings=6, hidden=sizes[1:-1], batch_norm=False).bijection
    masks = [(torch.arange(dim) >= 32).int() ^ (i % 2) for i in range(6)]
    by_nflows = nflows.CompositeTransform(
        [nflows.AffineCouplingTransform(m, lambda a, b: _relu_net(sizes)) for m in masks]
    )
    by_normflows = nn.ModuleList()
    for _ in range(6):
        block = normflows.flows.AffineCouplingBlock(mlp(sizes, nn.ReLU), scale_map="exp")
        by_normflows += [block, normflows.flows.Permute(dim, mode="swap")]

    def tanh_scale(shift: Tensor, raw: Tensor) -> AffineTransform:
        return AffineTransform(shift, torch.tanh(raw).exp())

    by_zuko = zuko.flows.Flow(
        [
            zuko.flows.GeneralCouplingTransform(
                dim, mask=mask == 0, univariate=tanh_scale, hidden_features=sizes[1:-1]
            )
            for mask in masks
        ],
        zuko.flows.UnconditionalDistribution(
            zuko.distributions.DiagNormal, torch.zeros(dim), torch.ones(dim), buffer=True
        ),
    )
    couplings = [part for part in ours.parts if hasattr(part, "net")]
    for part, peer in zip(couplings, by_zuko.transform.transforms, strict=True):
        _carry(part.net, peer.hyper, 2)
    _agree("realnvp", _flat(ours(x)), _flat(_zuko_push(by_zuko)(x)))
    peers = {
        "nflows": _step(by_nflows, by_nflows, x),
        "zuko": _step(by_zuko, _zuko_push(by_zuko), x),
        "normflows": _step(by_normflows, _through(by_normflows), x),
    }
    return _compare("flow_step_realnvp", _step(ours, ours, x), peers, 1.0)


@torch.no_grad()
def _carry(ours: nn.Module, peer: nn.Module, params: int) -> None:
    """Linear layers from ours to a peer's, whose last has each variable's parameters in a row;
    ``realnvp`` puts the scales first, zuko the shifts."""
    mine, theirs = ([m for m in net.modules() if hasattr(m, "weight")] for net in (ours, peer))
    for source, target in zip(mine, theirs, strict=True):
        target.weight.copy_(source.weight)
        target.bias.copy_(source.bias)
    for name in ("weight", "bias"):
        value = getattr(mine[-1], name).unflatten(0, (params, -1))
        flipped = value.flip(0) if not isinstance(ours, MaskedMLP) else value
        getattr(theirs[-1], name).copy_(flipped.transpose(0, 1).flatten(0, 1))


def _nflows_made(dim: int, width: int) -> nn.Module:
    options = {"hidden_features": width, "num_blocks": 1, "use_residual_blocks": False}
    return nflows.MaskedAffineAutoregressiveTransform(dim, **options)


def _normflows_made(dim: int, width: int) -> nn.Module:
    """With the activation that its plain network lacks after the first layer."""
    options = {"hidden_features": width, "num_blocks": 1, "use_residual_blocks": False}
    made = normflows.flows.MaskedAffineAutoregressive(dim, **options)
    net = made.autoregressive_net
    net.initial_layer = nn.Sequential(net.initial_layer, nn.ReLU())
    return made


def _zuko_exp(mu: Tensor, alpha: Tensor) -> AffineTransform:
    """The paper's scale, which zuko's own bounds."""
    return AffineTransform(-mu * (-alpha).exp(), (-alpha).exp())


def flow_step_maf() -> list[Result]:
    """Five layers on 64 dimensions, networks of two layers of 128."""
    _need_peers()
    torch.manual_seed(0)
    dim, width, layers = 64, 128, 5
    x = torch.randn(BATCH, dim)
    model = MAF(dim, layers=layers, hidden=(width, width), batch_norm=False, degrees=round_robin)
    ours = model.bijection
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [_nflows_made(dim, width), nflows.ReversePermutation(dim)]
    by_nflows = nflows.CompositeTransform(parts)
    by_normflows = nn.ModuleList()
    for _ in range(layers):
        made = _normflows_made(dim, width)
        by_normflows += [made, normflows.flows.Permute(dim, mode="swap")]
    by_zuko = zuko.flows.MAF(
        dim, transforms=layers, hidden_features=(width, width), univariate=_zuko_exp
    )
    with torch.no_grad():
        for part, peer in zip(ours.parts, by_zuko.transform.transforms, strict=True):
            _carry(part.net, peer.hyper, 2)
        _agree("maf, zuko", model.log_prob(x), by_zuko().log_prob(x))
        for peer in (by_nflows._transforms[0], by_normflows[0]):
            net = peer.autoregressive_net
            _carry(ours.parts[0].net, net, 2)
            _agree("maf, networks", ours.parts[0].net(x), net(x).unflatten(1, (dim, 2)).mT)
    peers = {
        "nflows": _step(by_nflows, by_nflows, x),
        "zuko": _step(by_zuko, _zuko_push(by_zuko), x),
        "normflows": _step(by_normflows, _through(by_normflows), x),
    }
    return _compare("flow_step_maf", _step(ours, ours, x), peers, 1.0)


def flow_step_iaf() -> list[Result]:
    """Two steps on 32 latents, networks of two layers of 128; ours with the gate of the paper."""
    _need_peers()
    torch.manual_seed(0)
    dim, width = 32, 128
    x = torch.randn(BATCH, dim)
    ours = iaf_chain(dim, steps=2, hidden=(width, width), activation=nn.ReLU)
    by_nflows = nflows.CompositeTransform(
        [_nflows_made(dim, width), nflows.ReversePermutation(dim), _nflows_made(dim, width)]
    )
    by_normflows = nn.ModuleList()
    for _ in range(2):
        made = _normflows_made(dim, width)
        by_normflows += [made, normflows.flows.Permute(dim, mode="swap")]
    by_zuko = zuko.flows.MAF(dim, transforms=2, hidden_features=(width, width))
    peers = {
        "nflows": _step(by_nflows, by_nflows, x),
        "zuko": _step(by_zuko, _zuko_push(by_zuko), x),
        "normflows": _step(by_normflows, _through(by_normflows), x),
    }
    return _compare("flow_step_iaf", _step(ours, ours, x), peers, 1.0)


def flow_step_glow() -> list[Result]:
    """Four steps of flow on 12 channels of 16x16, networks of 32 channels, 32 images."""
    _need_peers()
    torch.manual_seed(0)
    channels, hidden, steps = 12, 32, 4
    x = Squeeze()(torch.rand(32, 3, 32, 32))[0]

    def network(a: int, b: int) -> nn.Module:
        class Net(ConvNet):
            def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
                return super().forward(x)

        return Net(a, hidden, b)

    ours = Chain(
        *(
            part
            for _ in range(steps)
            for part in (
                ActNorm(channels),
                InvertibleConvLU(channels),
                Coupling(channels, ConvNet(channels // 2, hidden, channels)),
            )
        )
    )
    mask = (torch.arange(channels) < channels // 2).int()
    by_nflows = nflows.CompositeTransform(
        [
            part
            for _ in range(steps)
            for part in (
                nflows.ActNorm(channels),
                nflows.OneByOneConvolution(channels),
                nflows.AffineCouplingTransform(mask, network),
            )
        ]
    )
    by_normflows = nn.ModuleList(
        normflows.flows.GlowBlock(channels, hidden, use_lu=True) for _ in range(steps)
    )

    def normflows_push(x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for block in reversed(by_normflows):
            x, logdet = block.inverse(x)  # its forward generates
            total = total + logdet
        return x, total

    peers = {
        "nflows": _step(by_nflows, by_nflows, x),
        "normflows": _step(by_normflows, normflows_push, x),
    }
    return _compare("flow_step_glow", _step(ours, ours, x), peers, 1.0, repeats=15)


# Directions that cost


def _maf_inverse(name: str, dim: int, width: int, batch: int, target: float) -> list[Result]:
    _need_peers()
    torch.manual_seed(0)
    net = MaskedMLP(dim, (width, width), 2, degrees=round_robin)
    ours = AutoregressiveStep(net, exp_scale).eval()
    by_nflows = _nflows_made(dim, width).eval()
    by_normflows = _normflows_made(dim, width).eval()
    by_zuko = zuko.flows.MaskedAutoregressiveTransform(
        dim, hidden_features=(width, width), univariate=_zuko_exp
    ).eval()
    z = torch.randn(batch, dim)
    with torch.no_grad():
        for peer in (by_zuko.hyper, by_nflows.autoregressive_net, by_normflows.autoregressive_net):
            _carry(net, peer, 2)
        _agree(f"{name}, zuko", ours.inverse(z)[0], by_zuko().inv(z))

        peers = {
            "nflows": lambda: by_nflows.inverse(z),
            "zuko": lambda: by_zuko().inv(z),
            "normflows": lambda: by_normflows.inverse(z),
        }
        repeats = 3 if dim > 500 else 9
        return _compare(name, lambda: ours.inverse(z), peers, target, repeats)


def maf_inverse_d64() -> list[Result]:
    """One layer on 64 dimensions, networks of two layers of 512, 256 samples.

    With fewer samples or narrower networks the 64 steps cost more than the arithmetic, and the
    ratio falls: some 8 with 100 samples, 3 with 100 units as well.
    """
    return _maf_inverse("maf_inverse_d64", 64, 512, 256, 10.0)


def maf_inverse_d784() -> list[Result]:
    """One layer on 784 dimensions, networks of two layers of 1024 as in the paper, 100 samples."""
    return _maf_inverse("maf_inverse_d784", 784, 1024, 100, 50.0)


def glow_1x1() -> list[Result]:
    """The invertible 1x1 convolution, forward and inverse, on 48 channels of 8x8, 32 images."""
    _need_peers()
    torch.manual_seed(0)
    channels = 48
    x = torch.randn(32, channels, 8, 8)
    ours = InvertibleConvLU(channels).eval()
    by_nflows = nflows.OneByOneConvolution(channels).eval()
    by_normflows = normflows.flows.Invertible1x1Conv(channels, use_lu=True).eval()
    with torch.no_grad():
        by_normflows.P.copy_(ours.permutation)
        by_normflows.sign_S.copy_(ours.sign)
        by_normflows.L.copy_(ours.lower)
        by_normflows.U.copy_(ours.upper)
        by_normflows.log_S.copy_(ours.log_s)
        _agree("glow_1x1", ours(x)[0], by_normflows.inverse(x)[0])
        _agree("glow_1x1, inverse", ours.inverse(x)[0], by_normflows(x)[0])
        forward = {"nflows": lambda: by_nflows(x), "normflows": lambda: by_normflows.inverse(x)}
        inverse = {"nflows": lambda: by_nflows.inverse(x), "normflows": lambda: by_normflows(x)}
        return [
            *_compare("glow_1x1 forward", lambda: ours(x), forward, 1.0, repeats=60, inner=20),
            *_compare(
                "glow_1x1 inverse", lambda: ours.inverse(x), inverse, 1.0, repeats=60, inner=20
            ),
        ]


BENCHMARKS = {
    "flow_step_planar": flow_step_planar,
    "flow_step_radial": flow_step_radial,
    "flow_step_nice": flow_step_nice,
    "flow_step_realnvp": flow_step_realnvp,
    "flow_step_maf": flow_step_maf,
    "flow_step_iaf": flow_step_iaf,
    "flow_step_glow": flow_step_glow,
    "maf_inverse_d64": maf_inverse_d64,
    "maf_inverse_d784": maf_inverse_d784,
    "glow_1x1": glow_1x1,
}
