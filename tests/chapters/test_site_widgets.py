"""What a page of the site carries of its widgets, and what becomes a file."""

import base64
import hashlib
import json

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from chapters._tools import site_widgets
from gdm_lib import pretrained

SCRIPT = "export default { render() {} }"


def entry(**state):
    return {"model_name": "AnyModel", "state": {"_esm": SCRIPT, "_css": "a{}", **state}}


def with_buffers(made, **buffers):
    made["buffers"] = [
        {"path": [name], "encoding": "base64", "data": base64.b64encode(content).decode()}
        for name, content in buffers.items()
    ]
    return made


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_script_is_one_file_for_all_widgets_that_have_it(tmp_path):
    state = site_widgets.publish({"a": entry(x=1), "b": entry(x=2)}, tmp_path)
    ((name, content),) = files(tmp_path).items()
    assert content.decode() == SCRIPT
    assert name == hashlib.sha256(content).hexdigest()[:32] + ".js"
    assert [made["state"] for made in state.values()] == [
        {"_esm": f"widgets/{name}", "x": 1},
        {"_esm": f"widgets/{name}", "x": 2},
    ]


def test_what_is_no_anywidget_is_left_out(tmp_path):
    layout = {"model_name": "LayoutModel", "state": {"width": None}}
    assert site_widgets.publish({"a": layout}, tmp_path) == {}
    assert files(tmp_path) == {}


def test_large_values_become_files_small_ones_stay_and_the_picture_goes(tmp_path):
    large, small = bytes(range(256)) * 100, b"1234"
    made = with_buffers(entry(), poster=b"png" * 5000, sheet=large, latents=small, page_model=b"")
    (published,) = site_widgets.publish({"a": made}, tmp_path).values()
    sheet, latents = published["buffers"]
    assert latents == {"path": ["latents"], "encoding": "base64", "data": "MTIzNA=="}
    assert (sheet["path"], sheet["encoding"]) == (["sheet"], "url")
    assert (tmp_path / sheet["data"]).read_bytes() == large
    assert len(json.dumps(published)) < 500


def test_a_model_of_the_notebook_becomes_a_file(tmp_path):
    made = with_buffers(entry(), page_model=b"model")
    (published,) = site_widgets.publish({"a": made}, tmp_path).values()
    address = published["state"]["page_model_address"]
    assert address.endswith(".onnx")
    assert (tmp_path / address).read_bytes() == b"model"
    assert published["buffers"] == []
    made = with_buffers(entry(), page_model=bytes(1_000_001))
    with pytest.raises(ValueError, match="page_model: the exported model has 1,000,001 bytes"):
        site_widgets.publish({"a": made}, tmp_path)


def test_a_model_with_reference_weights_is_exported(tmp_path):
    made = entry(page_weights="vae/mnist_2d:decode_mean", spec={"inputs": [[2]]})
    (published,) = site_widgets.publish({"a": made}, tmp_path).values()
    file = (tmp_path / published["state"]["page_model_address"]).read_bytes()
    z = np.array([[0.5, -1.0]], np.float32)
    evaluator = ReferenceEvaluator(onnx.load_from_string(file))
    found = evaluator.run(None, {evaluator.input_names[0]: z})[0]
    with torch.no_grad():
        expected = pretrained.load("vae/mnist_2d").decode_mean(torch.from_numpy(z))
    assert np.abs(found - expected.numpy()).max() < 1e-5


def test_reference_weights_that_are_gone_stop_the_build(tmp_path):
    made = entry(page_weights="vae/none:decode", spec={"inputs": [[2]]})
    with pytest.raises(ValueError, match="there are no reference weights 'vae/none'"):
        site_widgets.publish({"a": made}, tmp_path)
