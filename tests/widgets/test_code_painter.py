"""What the kernel gives the painter's script, what it stores, and the still picture."""

import io

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from PIL import Image
from torch import nn

from chapters._tools import site_widgets
from gdm_lib import pretrained, widgets
from gdm_lib.likelihoods import Bernoulli
from gdm_lib.vae.vqvae import VQVAE
from gdm_lib.widgets import CodePainter, export

GRIDS = torch.tensor([[[0, 1, 2], [3, 4, 5]], [[5, 5, 5], [0, 0, 0]]])


def decode(codes):
    """Two pixels for each cell, side by side: a fifth of the code, and half of that."""
    assert not torch.is_grad_enabled()
    assert codes.dtype == torch.int64
    grey = (codes / 5)[:, None]
    return torch.stack([grey, grey / 2], -1).flatten(-2)


def in_context(codes):
    """Each cell's picture has the sum of its code and of the one to its left."""
    left = nn.functional.pad(codes, (1, 0))[..., :-1]
    return ((codes + left) / 10)[:, None]


def stored(widget):
    height, width = widget.spec["patch"]
    return np.frombuffer(widget.patches, np.uint8).reshape(-1, height, width, 3).astype(int)


def poster(widget):
    return np.asarray(Image.open(io.BytesIO(widget.poster)).convert("RGB"), int)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = VQVAE.image((3, 16, 16), count=20, dim=8, width=8, likelihood=Bernoulli(), decay=0.9)
    made.quantiser.codebook.mul_(40)
    return made.half().float().eval()


@pytest.fixture(scope="module")
def grids():
    return torch.randint(20, (3, 4, 4), generator=torch.Generator().manual_seed(0))


class TestWhatTheKernelAnswers:
    def test_codes_that_come_as_floats_are_whole_numbers_to_the_decoder(self):
        widget = CodePainter(decode, GRIDS, count=6)
        answer = widget.answer("decode", [GRIDS.float().numpy()])
        assert answer.dtype == np.float32
        with torch.no_grad():
            assert np.array_equal(answer, decode(GRIDS).numpy())

    def test_a_model_answers_with_its_own_picture(self, model, grids):
        answer = CodePainter(model.decode_mean, grids, count=20).answer("decode", [grids.numpy()])
        with torch.no_grad():
            assert np.array_equal(answer, model.decode_mean(grids).numpy())


class TestThePalette:
    def test_a_code_looks_like_the_middle_of_its_own_picture(self):
        found = stored(CodePainter(decode, GRIDS, count=6))
        assert found.shape == (6, 1, 2, 3)
        for code, (patch,) in enumerate(found):
            assert patch.tolist() == [[51 * code] * 3, [round(25.5 * code)] * 3]
        # At the edge of the picture a cell would have no neighbour.
        assert stored(CodePainter(in_context, GRIDS, count=6))[5].tolist() == [[[255] * 3]]

    def test_all_codes_of_a_large_book_are_there(self, model):
        found = stored(CodePainter(lambda codes: codes[:, None] / 200, GRIDS, count=150))
        assert found[:, 0, 0, 0].tolist() == pytest.approx(
            [255 * code / 200 for code in range(150)], abs=0.51
        )

    def test_it_runs_from_dark_to_light_as_the_eye_has_it(self):
        blue, green, red, grey = [0, 0, 1.0], [0, 1.0, 0], [1.0, 0, 0], [0.2] * 3
        colours = torch.tensor([green, red, blue, grey])
        widget = CodePainter(decode, GRIDS % 4, count=4, colours=colours)
        assert widget.spec["order"] == [2, 3, 1, 0]
        assert stored(widget)[:, 0, 0].tolist() == (255 * colours).tolist()
        pictures = torch.rand(4, 1, 3, 2)
        widget = CodePainter(decode, GRIDS % 4, count=4, colours=pictures)
        expected = (255 * pictures[:, 0]).round()
        assert np.array_equal(stored(widget)[..., 1], expected.numpy())


class TestTheStillPicture:
    def test_codes_at_the_left_their_picture_at_the_right_the_palette_below(self):
        widget = CodePainter(decode, GRIDS, count=6)
        picture = poster(widget)
        # Of cells 100 pixels wide and high, and a row of sixteen places in the palette.
        assert widget.spec["heights"] == [200, 38]
        assert picture.shape == (2 * (200 + 8 + 38), 2 * 608, 3)
        for row in range(2):
            for column in range(3):
                code = 3 * row + column
                x, y = 200 * column + 50, 200 * row + 100
                assert abs(picture[y, x, 0] - 51 * code) <= 3
                assert abs(picture[y, x + 100, 0] - 25.5 * code) <= 3
                # The picture's two by six pixels are enlarged to 100 each, with room above.
                assert abs(picture[150 + 100 * row, 616 + x, 0] - 51 * code) <= 3
        for place in range(6):
            assert abs(picture[416 + 38, 76 * place + 19, 0] - 51 * place) <= 3
        assert picture[416 + 38, 76 * 6 + 19].tolist() == pytest.approx([251, 250, 247], abs=3)
        colours = torch.linspace(1, 0, 6)[:, None].expand(-1, 3)
        picture = poster(CodePainter(decode, GRIDS, count=6, colours=colours))
        for place in range(6):
            assert abs(picture[416 + 38, 76 * place + 19, 0] - 51 * place) <= 3
        assert abs(picture[100, 100, 0] - 255) <= 3

    def test_what_it_shows_is_said(self):
        widget = CodePainter(decode, GRIDS, count=6, names=["A", "B"])
        assert widget._alt == (
            "The codes of A, beside them the decoder's picture, and below a palette of 6 codes."
        )


class TestTheCodes:
    def test_they_are_those_of_the_chosen_image_until_painted(self):
        widget = CodePainter(decode, GRIDS, count=6)
        assert torch.equal(widget.codes, GRIDS[0])
        widget.values = {**widget.values, "image": 1}
        assert torch.equal(widget.codes, GRIDS[1])
        widget.values = {**widget.values, "codes": [5, 4, 3, 2, 1, 0]}
        assert widget.codes.tolist() == [[5, 4, 3], [2, 1, 0]]
        assert widget.codes.dtype == torch.int64

    def test_they_can_be_set(self):
        widget = CodePainter(decode, GRIDS, count=6)
        widget.codes = GRIDS[1]
        assert widget.values["codes"] == GRIDS[1].flatten().tolist()
        assert torch.equal(widget.codes, GRIDS[1])
        with pytest.raises(ValueError, match=r"codes: expected one grid \(2, 3\), got \(3, 2\)"):
            widget.codes = GRIDS[1].T
        with pytest.raises(ValueError, match="codes must hold levels 0 to 5, got 0 to 6"):
            widget.codes = torch.tensor([[0, 1, 2], [3, 4, 6]])
        assert torch.equal(widget.codes, GRIDS[1])

    def test_it_keeps_what_it_was_given(self):
        grids = GRIDS.clone()
        widget = CodePainter(decode, grids, count=6)
        widget.codes.zero_()
        grids.zero_()
        assert widget.spec["starts"] == GRIDS.flatten(1).tolist()
        assert torch.equal(widget.codes, GRIDS[0])

    def test_the_brush_begins_with_the_code_in_the_middle(self):
        assert CodePainter(decode, GRIDS, count=6).values == {
            **{"image": 0, "code": 4, "brush": 0, "codes": None}
        }

    def test_rows_are_counted(self):
        assert CodePainter(decode, GRIDS[:1], count=6).spec["rows"] == 3
        assert CodePainter(decode, GRIDS, count=6).spec["rows"] == 4
        widget = CodePainter(decode, GRIDS, count=6, originals=torch.rand(2, 1, 2, 6))
        assert widget.spec["rows"] == 5
        assert widget.values["shows"] == 0
        assert len(widget.originals) == 2 * 2 * 6 * 3


class TestWhoAnswersOnAPage:
    @pytest.mark.parametrize("batch", [1, 2, 5])
    def test_an_exported_decoder_gives_torchs_pictures(self, model, batch):
        file = export(model.decode_mean, model.grid, whole=True)
        codes = torch.randint(20, (batch, 4, 4))
        evaluator = ReferenceEvaluator(onnx.load_from_string(file))
        sent = {evaluator.input_names[0]: codes.float().numpy()}
        (found,) = evaluator.run(None, sent)
        with torch.no_grad():
            assert np.abs(found - model.decode_mean(codes).numpy()).max() < 1e-5
        # Encoder and averages stay at home, and the rest takes 16 bits.
        kept = sum(p.numel() for p in model.decoder.parameters()) + model.quantiser.codebook.numel()
        assert 2 * kept < len(file) < 2 * kept + 10_000

    def test_the_decoder_still_refuses_what_is_no_code(self, model):
        export(model.decode_mean, model.grid, whole=True)
        with pytest.raises(ValueError, match="codes must hold levels 0 to 19, got 20 to 20"):
            model.decode_mean(torch.full((1, 4, 4), 20))

    def test_reference_weights_are_found_and_exported_by_the_site(
        self, model, grids, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(pretrained, "identify", lambda found: "vae/of_a_test")
        monkeypatch.setattr(pretrained, "load", lambda name: {"vae/of_a_test": model}[name])
        widget = CodePainter(model.decode_mean, grids, count=20)
        assert widget.page_weights == "vae/of_a_test:decode_mean"
        assert widget.spec["alone"]
        entry = {"state": widget.get_state(["spec", "page_weights", "_esm"]), "buffers": []}
        (made,) = site_widgets.publish({"a": entry}, tmp_path).values()
        file = (tmp_path / made["state"]["page_model_address"]).read_bytes()
        assert file == export(model.decode_mean, model.grid, whole=True)

    def test_without_either_the_page_says_so(self):
        widget = CodePainter(decode, GRIDS, count=6)
        assert not widget.spec["alone"]
        assert "in JupyterLab once its cell has run." in widget._repr_mimebundle_()[0]["text/html"]

    def test_a_model_of_the_size_of_a_chapters_travels_in_the_notebook(self):
        small = VQVAE.image((3, 32, 32), count=64, dim=64, width=48, decay=0.99).half().float()
        assert len(widgets.export(small.decode_mean, small.grid, whole=True)) < 300_000


class TestBadInputIsNamed:
    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"codes": GRIDS[0]}, r"codes must be a batch of shape \(P, h, w\), got \(2, 3\)"),
            ({"codes": GRIDS + 1}, "codes must hold levels 0 to 5, got 1 to 6"),
            ({"codes": GRIDS.float()}, "codes must hold int64 levels 0 to 5, got torch.float32"),
            ({"codes": GRIDS[:0]}, "codes: expected one grid or more, got"),
            ({"count": 5000}, "count: expected at most 1,024 codes, .* got 5,000"),
            ({"count": 0}, "count must be at least 1, got 0"),
            ({"names": ["one"]}, "names: expected 2 of them, got 1"),
            ({"colours": torch.rand(5, 3)}, r"colours: expected \(6, 3\), or .*, got \(5, 3\)"),
            (
                {"colours": torch.full((6, 3), 1.5)},
                r"colours: expected values in \[0, 1\], got 1.5",
            ),
            ({"originals": torch.rand(2, 3, 2, 6)}, r"\(2, 1, 2, 6\), got \(2, 3, 2, 6\)"),
            ({"originals": torch.full((2, 1, 2, 6), -1.0)}, r"originals: expected values in \[0"),
            ({"decode": lambda codes: codes.float()}, r"decode: expected images \(1, C, H, W\)"),
            ({"decode": lambda codes: codes[:, None] / 0}, "decode: expected finite images"),
            ({"page_model": bytes(300_001)}, "page_model: expected at most 300,000 bytes"),
        ],
    )
    def test_by_the_class(self, changed, said):
        with pytest.raises(ValueError, match=said):
            CodePainter(**{"decode": decode, "codes": GRIDS, "count": 6, **changed})

    def test_what_is_no_tensor(self):
        with pytest.raises(TypeError, match="codes must be a tensor, got"):
            CodePainter(decode, GRIDS.tolist(), count=6)
