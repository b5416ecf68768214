"""Replaces the photographs of a folder by their luminance.

`python -m cluster.gpu.grey FOLDER`, in the environment of the project.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    from PIL import Image

    for path in sorted(Path(sys.argv[1]).rglob("*.jpg")):
        Image.open(path).convert("L").save(path, quality=95)
