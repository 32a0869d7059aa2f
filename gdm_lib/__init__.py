"""Deep generative models, one module per paper: the library of the textbook in ``chapters/``."""

__version__ = "0.1.0"
