"""What comes to a model of levels in another guise is refused with the code that undoes it.

Each guise is made of levels that are known, so that the advised code has one right value.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gdm_lib.autoregressive import PixelCNN, WaveNet
from gdm_lib.autoregressive.wavenet import mu_law_decode, mu_law_encode
from gdm_lib.likelihoods import check_levels
from tests.helpers import seeded
from tests.inputs.follow import advised, followed, refusal

SHAPE, LEVELS = (1, 3, 2), 18  # 17 steps: 255 / 17 is whole, so that bytes are exact
Guise = Callable[[Tensor], object]

STORED: dict[str, Guise] = {
    "int32": lambda k: k.int(),
    "int16": lambda k: k.short(),
    "uint8": lambda k: k.byte(),
    "uint16": lambda k: k.to(torch.uint16),
    "whole floats": lambda k: k.float(),
    "array": lambda k: k.numpy(),
    "array of uint8": lambda k: k.byte().numpy(),
    "list": lambda k: k.tolist(),
    "list of tensors": lambda k: list(k),
    "tuple of arrays": lambda k: tuple(k.numpy()),
    "array of whole doubles": lambda k: k.double().numpy(),
}
GREY: dict[str, Guise] = {
    "grey values": lambda k: k / (LEVELS - 1),
    "grey doubles": lambda k: k.double() / (LEVELS - 1),
    "grey halves": lambda k: (k / (LEVELS - 1)).half(),
    "grey values from -1 to 1": lambda k: 2 * k / (LEVELS - 1) - 1,
    "bytes": lambda k: (255 * k / (LEVELS - 1)).byte(),
    "bytes as int64 arrays": lambda k: (255 * k / (LEVELS - 1)).int().numpy(),
    "an array of grey values": lambda k: (k / (LEVELS - 1)).double().numpy(),
}
SHAPED: dict[str, Guise] = {
    "channels last": lambda k: k.movedim(1, -1),
    "without channels": lambda k: k[:, 0],
    "flat": lambda k: k.flatten(1),
    "one dimension too many": lambda k: k[:, None],
    "an array, channels last, of bytes": lambda k: (
        (255 * k / (LEVELS - 1)).byte().movedim(1, -1).numpy()
    ),
    "grey, without channels": lambda k: k[:, 0] / (LEVELS - 1),
}
SOUND: dict[str, Guise] = {
    "amplitudes": lambda k: mu_law_decode(k, LEVELS),
    "amplitudes of float64": lambda k: mu_law_decode(k, LEVELS).double(),
    "an array of amplitudes": lambda k: mu_law_decode(k, LEVELS).numpy(),
    "too loud": lambda k: 3 * mu_law_decode(k, LEVELS),
    "samples of a file": lambda k: (32768 * mu_law_decode(k, LEVELS)).clamp(max=32767).short(),
}


@pytest.fixture(scope="module")
def image() -> tuple[PixelCNN, Tensor]:
    levels = torch.randint(LEVELS, (5, *SHAPE), generator=seeded())
    levels[0, 0, 0], levels[-1, 0, 0] = 0, LEVELS - 1
    return PixelCNN(SHAPE, levels=LEVELS, h=4, layers=1, head=4, kernel=3).eval(), levels


@pytest.fixture(scope="module")
def sound() -> tuple[WaveNet, Tensor]:
    levels = torch.randint(LEVELS, (5, 6), generator=seeded())
    levels[:, 0], levels[:, -1] = 0, LEVELS - 1
    return WaveNet((6,), levels=LEVELS, residual=4, skip=4, dilations=(1,)).eval(), levels


def check_cure(model, levels, came) -> None:
    for call in (model.log_prob, model.loss, lambda x: model.complete(x, torch.tensor(True))):
        mended = followed(refusal(lambda call=call: call(came)), x=came)
        assert mended.dtype == torch.int64
        assert torch.equal(mended, levels)
        call(mended)


@pytest.mark.parametrize("guise", {**STORED, **GREY, **SHAPED})
def test_a_picture(image, guise):
    model, levels = image
    check_cure(model, levels, {**STORED, **GREY, **SHAPED}[guise](levels))


@pytest.mark.parametrize("guise", {**STORED, **SOUND})
def test_a_sound(sound, guise):
    model, levels = sound
    check_cure(model, levels, {**STORED, **SOUND}[guise](levels))


def test_one_item_is_told_to_be_a_batch(image, sound):
    for model, levels in (image, sound):
        assert torch.equal(
            followed(refusal(lambda m=model, x=levels[0]: m.log_prob(x)), x=levels[0]), levels[:1]
        )
    model, levels = image
    hwc = levels[2].movedim(0, -1)
    assert torch.equal(followed(refusal(lambda: model.log_prob(hwc)), x=hwc), levels[2:3])
    assert torch.equal(
        followed(refusal(lambda: model.log_prob(levels[2, 0])), x=levels[2, 0]), levels[2:3]
    )


def test_bits_are_levels():
    bits = torch.tensor([[True, False]])
    for came in (bits, bits.byte(), bits.float(), bits.double()):
        message = refusal(lambda came=came: check_levels("x", came, 2))
        assert torch.equal(followed(message, x=came), bits.long())


def test_bytes_don_t_wrap():
    """80 times 17 wraps to 80 in a byte, and 80 times 15 to 176."""
    came = torch.tensor([80], dtype=torch.uint8)
    for levels, right in ((256, 80), (18, 5), (16, 5), (2, 0)):
        message = refusal(lambda levels=levels: check_levels("x", came, levels))
        assert followed(message, x=came).tolist() == [right]


def test_where_nothing_is_right_nothing_is_advised():
    for came, told in [
        (torch.tensor([[0.2, math.nan]]), "got torch.float32 with nan at [0, 1]"),
        (torch.tensor([-math.inf]), "got torch.float32 with -inf at [0]"),
        (torch.tensor([[0.5], [3.5]]), "got torch.float32"),
        (torch.tensor([0, 18]), "x must hold levels 0 to 17, got 0 to 18"),
        (torch.tensor([-1, 3]), "x must hold levels 0 to 17, got -1 to 3"),
        (torch.tensor([-1, 3], dtype=torch.int8), "got torch.int8"),
        (torch.tensor([300], dtype=torch.int16), "got torch.int16"),
        (torch.tensor([1j]), "got torch.complex64"),
        (None, "x must be a tensor, got None"),
        ("grey", "x must be a tensor, got 'grey'"),
        ([[1], [1, 2]], "x must be a tensor, got [[1], [1, 2]]"),
        ({"x": 1}, "x must be a tensor, got {'x': 1}"),
    ]:
        message = refusal(lambda came=came: check_levels("x", came, LEVELS))
        assert told in message
        assert advised(message) == ""


def test_a_shape_that_no_one_can_know_is_left_alone(image):
    """Turned, or of another size: no reshape would be right."""
    model, levels = image
    for came in (levels.mT, levels[..., :1], torch.zeros(5, 3, 3, 2).long(), levels.flatten()):
        message = refusal(lambda came=came: model.log_prob(came))
        assert message.startswith("x must be a batch of shape (B, 1, 3, 2), got (")
        assert advised(message) == ""


# -- mu-law: samples as sound files hold them


@pytest.mark.parametrize(
    ("came", "amplitude"),
    [
        (torch.tensor([-32768, 0, 16384], dtype=torch.int16), [-1, 0, 0.5]),
        (torch.tensor([-(2**31), 0, 2**30], dtype=torch.int32), [-1, 0, 0.5]),
        (torch.tensor([-128, 0, 64], dtype=torch.int8), [-1, 0, 0.5]),
        (torch.tensor([0, 128, 192], dtype=torch.uint8), [-1, 0, 0.5]),
    ],
)
def test_samples_of_a_file_are_told_their_full_scale(came, amplitude):
    amplitudes = followed(refusal(lambda: mu_law_encode(came)), x=came)
    assert amplitudes.tolist() == amplitude
    mu_law_encode(amplitudes)


def test_too_loud_a_sound_is_told_to_be_divided():
    x = torch.tensor([0.5, -4.0])
    message = refusal(lambda: mu_law_encode(x))
    assert message.endswith("divide it by the largest magnitude, x / x.abs().max()")
    assert mu_law_encode(x / x.abs().max(), 9).tolist() == mu_law_encode(x / 4, 9).tolist()
    for bad, where in ((math.nan, "got nan at [1]"), (math.inf, "got inf at [1]")):
        message = refusal(lambda bad=bad: mu_law_encode(torch.tensor([0.5, bad])))
        assert message.endswith(where)
