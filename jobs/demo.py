"""`make demo`: synthetic leaves of a few cultivars, the whole pipeline on them, and predictions for some test leaves."""

import csv
import json
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

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
    model = newest_file(runs, "mask_guided/*/model/model.json").parent
    new.mkdir(parents=True, exist_ok=True)
    for photograph in sorted((leaves / "images").glob("*_test.*"))[::7][:8]:
        shutil.copy(photograph, new)
    print("\n== predict: eight of the leaves as if they were new", flush=True)
    predict = [
        "predict",
        "--source",
        str(new),
        "--model",
        str(model),
        "--out",
        str(folder / "predictions"),
        "--runs",
        str(runs),
    ]
    if code := main(predict):
        return code
    show(folder / "predictions" / "predictions.csv")
    detector = json.loads(newest_file(runs, "regions/*/metrics.json").read_text())
    scores = json.loads((model.parent / "report" / "metrics.json").read_text())["models"]["this model"]["accuracy"]
    print(f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes:")
    complete = f"{detector['num_complete']} of {detector['num_evaluated']}"
    print(f"  regions    mAP@0.5 {detector['map50']:.3f}; every region found on {complete} unseen leaves")
    print(
        f"  cultivars  {scores['k']} of {scores['n']} unseen leaves named rightly = {100 * scores['value']:.1f} % (chance {100 / 8:.1f} %)"
    )
    print("\nWhat to look at next:")
    print(f"  the report         {model.parent / 'report' / 'report.html'}")
    print(
        f"  MLflow             .venv/bin/mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///{(runs / 'mlflow.db').resolve()}"
    )
    print(f"  your own leaves    .venv/bin/ufgvc {' '.join(predict).replace(str(new), 'FOLDER')}")
    return 0


def newest_file(runs: Path, pattern: str) -> Path:
    """The file below the runs of the demo that was written last."""
    return max(runs.glob(f"demo/{pattern}"), key=lambda path: path.stat().st_mtime)


def show(predictions: Path) -> None:
    """The first columns of the predictions, for people; the file name of a demo leaf begins with the number of its true cultivar."""
    table = Table("photograph", "named", "probability")
    with predictions.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            table.add_row(row["path"], row["cultivar"], f"{float(row['probability']):.2f}")
    Console().print(table)


if __name__ == "__main__":
    raise SystemExit(demo(Path(sys.argv[2] if sys.argv[1:2] == ["--folder"] else "demo")))
