"""Normalizing flows.

A paper's models can be had from here, ``from gdm_lib.flows import RealNVP``, and all
that it has from its own module.
"""

from typing import TYPE_CHECKING

from gdm_lib._lazy import lazily

if TYPE_CHECKING:
    from gdm_lib.flows.glow import Glow as Glow
    from gdm_lib.flows.iaf import IAF as IAF
    from gdm_lib.flows.maf import MAF as MAF
    from gdm_lib.flows.maf import maf_mog as maf_mog
    from gdm_lib.flows.nice import NICE as NICE
    from gdm_lib.flows.planar_radial import FlowVAE as FlowVAE
    from gdm_lib.flows.realnvp import RealNVP as RealNVP

__getattr__, __dir__ = lazily(
    __name__,
    {
        "glow": ["Glow"],
        "iaf": ["IAF"],
        "maf": ["MAF", "maf_mog"],
        "nice": ["NICE"],
        "planar_radial": ["FlowVAE"],
        "realnvp": ["RealNVP"],
    },
)
