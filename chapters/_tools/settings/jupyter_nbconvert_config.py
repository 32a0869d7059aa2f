"""``jupyter nbconvert`` makes readable pages of the book's chapters. Copied into ``.venv``."""

import sys
from pathlib import Path

root = Path(sys.prefix).parent
if (root / "chapters" / "_tools" / "export.py").exists():
    sys.path.append(str(root))
    c = get_config()  # type: ignore[name-defined]  # noqa: F821
    c.HTMLExporter.preprocessors = ["chapters._tools.export.Readable"]
