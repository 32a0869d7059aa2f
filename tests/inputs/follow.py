"""Following the advice of a message, as a reader would: literally."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gdm_lib.autoregressive.wavenet import mu_law_encode

NAMES = {"torch": torch, "mu_law_encode": mu_law_encode}


def refusal(call: Callable[[], Any]) -> str:
    """What a call is refused with, by name."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    return str(caught.value)


def advised(message: str) -> str:
    """The code after "take", or "" where none is advised."""
    found = re.search(r"; take (.*)$", message)
    return found[1] if found else ""


def followed(message: str, **values: Any) -> Any:
    """What the advised code gives."""
    code = advised(message)
    assert code, f"no advice in: {message}"
    return eval(code, {**NAMES, **values})
