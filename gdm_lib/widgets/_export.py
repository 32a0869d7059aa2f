"""A torch function as an ONNX file, for a page that has no kernel."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from gdm_lib._lazy import needs

with needs("gdm_lib.widgets.export", "book"):
    import onnx
    import onnxscript  # noqa: F401  (torch's exporter imports it, and tells less if it is missing)
    from onnx import TensorProto, helper, numpy_helper

__all__ = ["export"]


class _Call(nn.Module):
    """A function of a model as a module of its own, which is what torch exports."""

    def __init__(self, function: Callable[..., Tensor], model: nn.Module, whole: bool) -> None:
        super().__init__()
        self.model = model
        self.function = function
        self.whole = whole

    def forward(self, *arrays: Tensor) -> Tensor:
        return self.function(*(a.round().long() if self.whole else a for a in arrays))


def export(function: Callable[..., Tensor], *shapes: Sequence[int], whole: bool = False) -> bytes:
    """The ONNX file of ``function``, with a free batch size.

    Weights that 16 bits hold exactly are stored in 16 bits and computed with in 32, so that
    reference weights take half the room and give the same pictures.

    Args:
        function: a module in eval mode, or a method of one, from batches to one batch.
        shapes: of one item of each argument: ``(D,)`` for latents ``(B, D)``, ``()`` for ``(B,)``.
        whole: ``function`` takes whole numbers, int64, such as codes. The file takes 32-bit floats
            all the same, as a page sends them, and rounds them; none may be out of range.

    Raises:
        TypeError: ``function`` is neither.
        ValueError: torch can't export it, for the reason given.
    """
    model = getattr(function, "__self__", function)
    if not isinstance(model, nn.Module):
        raise TypeError(
            "function: expected a torch module, or a method of one such as model.decode_mean, "
            f"got {function!r}"
        )
    weight = next(model.parameters(), torch.zeros(()))
    # Two items, since torch takes a batch of one for a constant.
    arrays = tuple(torch.zeros((2, *shape), device=weight.device) for shape in shapes)
    quiet = logging.getLogger("torch.onnx"), logging.getLogger("onnxscript")
    levels = [logger.level for logger in quiet]
    try:
        for logger in quiet:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch's exporter, about itself
            program = torch.onnx.export(
                _traced(_Call(function, model, whole), arrays),
                input_names=[f"input_{i}" for i in range(len(arrays))],
                output_names=["output"],
                dynamo=True,
                external_data=False,
                # The engine folds a batch norm into the weights before it when it loads them; here
                # that would give weights that 16 bits no longer hold.
                optimize=False,
                verbose=False,
            )
    except Exception as error:
        raise ValueError(f"function: torch could not export it: {error}") from error
    finally:
        for logger, level in zip(quiet, levels, strict=True):
            logger.setLevel(level)
    assert program is not None
    file = program.model_proto
    _halve(file)
    _strip(file)
    onnx.checker.check_model(file)
    content: bytes = file.SerializeToString()
    return content


def _traced(call: nn.Module, arrays: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The graph of a call, with a free batch size.

    ``torch.onnx.export`` traces by itself, but where the code asks for ``len(x)`` it falls back,
    without a word, to a graph for batches of these two items. The slower, strict way of tracing
    knows what ``len`` is.
    """
    batch = torch.export.Dim("batch")
    shapes = (tuple({0: batch} for _ in arrays),)
    try:
        return torch.export.export(call, arrays, dynamic_shapes=shapes, strict=False)
    except torch._dynamo.exc.UserError:
        return torch.export.export(call, arrays, dynamic_shapes=shapes, strict=True)


def _halve(file: onnx.ModelProto) -> None:
    """Store in 16 bits what 16 bits hold exactly."""
    graph = file.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < 16 or not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _strip(file: onnx.ModelProto) -> None:
    """Leave out what torch notes for debugging: stack traces with paths of this machine."""
    graph = file.graph
    for part in (file, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for value in graph.value_info[:]:
        graph.value_info.remove(value)
    for function in file.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
