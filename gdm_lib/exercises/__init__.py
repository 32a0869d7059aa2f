"""Checkers for the code exercises of the chapters.

A chapter ends each code exercise with ``check(exercises.NAME, NAME)``, where ``exercises`` is
the chapter's own module below this package (``gdm_lib.exercises.vae.vae`` for
``chapters/vae/vae``). The answer is judged, never trusted: whatever it does comes back as a
``Verdict`` that says what is wrong.

A checker is a plain function that takes the answer, calls it, and raises ``Wrong`` with a
sentence that names the first fault it meets; ``gdm_lib.exercises.expect`` has the assertions to
build it from and ``gdm_lib.exercises.testing`` proves it.
"""

from gdm_lib.exercises._check import Verdict, Wrong, check

__all__ = ["Verdict", "Wrong", "check"]
