"""What all widgets share: messages of the script, and what a notebook stores of a widget."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from gdm_lib import widgets
from gdm_lib.widgets._base import ROW, Widget, script, stylesheet

WIDGET = "application/vnd.jupyter.widget-view+json"


class Half(Widget):
    """Answers with the half of what it is asked."""

    _esm = script("latent_explorer")


def half(x):
    assert not torch.is_grad_enabled()
    return x / 2


@pytest.fixture
def widget():
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    said = {"width": 200, "aspect": 4 / 3, "rows": 2, "poster": picture, "alt": 'A "ramp" < 12.'}
    return Half({"latent": 1}, functions={"half": half}, values={"t": 0.5}, **said)


@pytest.fixture
def sent(widget, monkeypatch):
    messages = []
    monkeypatch.setattr(
        widget, "send", lambda content, buffers=None: messages.append((content, buffers))
    )
    return messages


def ask(widget, name, *arrays, ident=7):
    arrays = [np.asarray(array, np.float32) for array in arrays]
    content = {"kind": "ask", "id": ident, "name": name, "shapes": [list(a.shape) for a in arrays]}
    widget._handle_custom_msg(content, [memoryview(a.tobytes()) for a in arrays])


class TestMessages:
    def test_a_question_is_answered_with_its_number_shape_and_floats(self, widget, sent):
        ask(widget, "half", [[1.0, 3.0, -5.0]])
        ((content, (buffer,)),) = sent
        assert content == {"kind": "answer", "id": 7, "shape": [1, 3]}
        assert np.frombuffer(buffer, np.float32).tolist() == [0.5, 1.5, -2.5]

    def test_what_goes_wrong_is_said_with_its_number(self, widget, sent):
        ask(widget, "double", [1.0], ident=3)
        ((content, _),) = sent
        assert (content["kind"], content["id"]) == ("failed", 3)
        assert "expected a function of this widget (half), got 'double'" in content["reason"]

    def test_an_error_of_the_model_is_said(self, sent, widget):
        widget._functions["half"] = lambda x: x @ torch.zeros(9, 9)
        ask(widget, "half", [[1.0]])
        assert sent[0][0]["kind"] == "failed"
        assert "RuntimeError" in sent[0][0]["reason"]

    def test_a_message_cut_short_is_refused(self, widget, sent):
        content = {"kind": "ask", "id": 1, "name": "half", "shapes": [[3], [4]]}
        widget._handle_custom_msg(content, [np.zeros(3, np.float32).tobytes()])
        assert sent[0][0]["kind"] == "failed"

    def test_other_messages_are_not_for_the_model(self, widget, sent):
        widget._handle_custom_msg({"kind": "hello"}, [])
        assert sent == []

    def test_what_the_model_gives_on_other_dtypes_and_layouts_arrives_as_floats(self, widget, sent):
        widget._functions["half"] = lambda x: (x.double() / 2).T
        ask(widget, "half", [[1.0, 2.0], [3.0, 4.0]])
        content, (buffer,) = sent[0]
        assert np.frombuffer(buffer, np.float32).reshape(content["shape"]).tolist() == [
            [0.5, 1.5],
            [1.0, 2.0],
        ]


class TestWhatANotebookStores:
    def test_the_live_view_and_the_still_picture_that_the_page_finds_it_by(self, widget):
        data, _ = widget._repr_mimebundle_()
        assert data[WIDGET]["model_id"] == widget.model_id
        assert f'data-gdm-widget="{widget.model_id}"' in data["text/html"]
        assert data["text/plain"] == '[widget: A "ramp" < 12.]'
        assert 'alt="A &quot;ramp&quot; &lt; 12."' in data["text/html"]
        source = re.search(r"base64,([^\"]+)", data["text/html"])[1]
        assert base64.b64decode(source) == widget.poster
        assert Image.open(io.BytesIO(widget.poster)).size == (4, 3)

    def test_the_page_keeps_the_room_that_the_live_widget_takes(self, widget):
        page = widget._repr_mimebundle_()[0]["text/html"]
        assert "--gdm-width:200px;--gdm-aspect:1.3333" in page
        assert f'class="gdm-room" style="height:{2 * ROW}px"' in page

    def test_the_state_says_what_the_script_needs(self, widget):
        state = widget.get_state()
        assert state["values"] == {"t": 0.5}
        assert state["spec"]["latent"] == 1
        assert state["spec"]["colours"]["model"].startswith("#")
        assert not state["in_page"]
        assert "class Frame" in state["_esm"]
        assert state["_css"] == stylesheet()


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in (getattr(widgets, name) for name in widgets.__all__)
        if isinstance(kind, type) and issubclass(kind, Widget) and kind is not Widget
    ],
)
def test_a_kinds_script_is_the_shared_part_and_its_own(kind):
    source = str(kind._esm)
    assert source.startswith("// Shared by the scripts of all widgets")
    assert "export default" in source
    # A static page and a closed network: nothing is imported or fetched by a script.
    assert not re.search(
        r"^\s*import\b|\bimport\(|\bfetch\(|https?://(?!www\.w3\.org)", source, re.M
    )
