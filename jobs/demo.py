"""`make demo`: synthetic leaves of a few cultivars, the whole pipeline on them, and predictions for some test leaves."""

import shutil
import sys
import time
from pathlib import Path

from ufgvc.cli import main

CONFIG = Path(__file__).parent / "configs" / "demo.yaml"


def demo(folder: Path) -> int:
    started = time.monotonic()
    leaves, data, runs, new = folder / "leaves", folder / "data", folder / "runs", folder / "new-leaves"
    if not (leaves / "anno").is_dir():
        print("== synth: leaves of invented cotton cultivars, with a few boxes drawn on each", flush=True)
        if code := main(["synth", "--config", str(CONFIG), "--out", str(leaves)]):
            return code
    places = ["--data", str(data), "--runs", str(runs)]
    if code := main(["pipeline", "--config", str(CONFIG), "--source", str(leaves), *places]):
        return code
    model = newest(runs, "mask_guided")
    new.mkdir(parents=True, exist_ok=True)
    for photograph in sorted((leaves / "images").glob("*_test.*"))[::7][:8]:
        shutil.copy(photograph, new)
    print("\n== predict: eight of the leaves as if they were new", flush=True)
    predict = ["predict", "--source", str(new), "--model", str(model), "--out", str(folder / "predictions"), "--runs", str(runs)]
    if code := main(predict):
        return code
    print((folder / "predictions" / "predictions.csv").read_text())
    minutes = (time.monotonic() - started) / 60
    print(f"Done in {minutes:.1f} minutes. What to look at next:\n")
    print(f"  the report         {model.parent / 'report' / 'report.html'}")
    print(f"  MLflow             .venv/bin/mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///{(runs / 'mlflow.db').resolve()}")
    print(f"  your own leaves    .venv/bin/ufgvc {' '.join(predict).replace(str(new), 'FOLDER')}")
    return 0


def newest(runs: Path, method: str) -> Path:
    """The model that was finished last."""
    return max(runs.glob(f"*/{method}/*/model/model.json"), key=lambda path: path.stat().st_mtime).parent


if __name__ == "__main__":
    raise SystemExit(demo(Path(sys.argv[2] if sys.argv[1:2] == ["--folder"] else "demo")))
