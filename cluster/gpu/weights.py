"""Writes the ImageNet weights of EfficientNet-Lite0, with timm's parameter names, into a file.

`python -m cluster.gpu.weights FILE`, in the environment of the project.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from safetensors.torch import save_file

    from ufgvc.methods.lite_weights import read_lite_weights

    save_file(read_lite_weights("efficientnet_lite0"), sys.argv[1])
