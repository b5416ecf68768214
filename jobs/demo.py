"""`make demo`: synthetic leaves of a few cultivars, the whole pipeline on them, and predictions for some test
leaves."""

import csv
import json
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ufgvc.cli import main
from ufgvc.core.config import load_yaml

CONFIG = Path(__file__).parent / "configs" / "demo.yaml"
NEW_LEAVES = 8  # test leaves that are predicted as if they were new


class Failed(Exception):
    """A command ended with this exit code."""


def run(*command: str) -> None:
    """Runs a command of `ufgvc`. Failed with its exit code if that is not 0."""
    if code := main([*command]):
        raise Failed(code)


def demo(folder: Path) -> int:
    """Runs the demo below a folder and returns the exit code. What an earlier call finished is used."""
    started = time.monotonic()
    runs = folder / "runs"
    try:
        make_model(folder)
        model = newest_file(runs, "mask_guided/*/model/model.json").parent
        predict = predict_new(folder, model)
    except Failed as failed:
        return int(failed.args[0])
    show_predictions(folder / "predictions" / "predictions.csv")
    print(f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes:")
    show_results(runs, model)
    database = (runs / "mlflow.db").resolve()
    print("\nWhat to open next:")
    print(f"  the predictions    {folder / 'predictions' / 'predictions.html'}")
    print(f"  the report         {model.parent / 'report' / 'report.html'}")
    print(f"  MLflow             .venv/bin/mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///{database}")
    print(f"  your own leaves    .venv/bin/ufgvc {' '.join(predict).replace(str(folder / 'new-leaves'), 'FOLDER')}")
    return 0


def make_model(folder: Path) -> None:
    """Synthetic leaves, and the pipeline on them."""
    leaves = folder / "leaves"
    if not (leaves / "anno").is_dir():
        print("== synth: leaves of synthetic cotton cultivars, with boxes on a few of each", flush=True)
        run("synth", "--config", str(CONFIG), "--out", str(leaves))
    places = ["--data", str(folder / "data"), "--runs", str(folder / "runs")]
    run("pipeline", "--config", str(CONFIG), "--source", str(leaves), *places)


def predict_new(folder: Path, model: Path) -> list[str]:
    """Predicts some of the test leaves as if they were new; returns the command."""
    new = folder / "new-leaves"
    new.mkdir(parents=True, exist_ok=True)
    for photograph in sorted((folder / "leaves" / "images").glob("*_test.*"))[::7][:NEW_LEAVES]:
        shutil.copy(photograph, new)
    print(f"\n== predict: {NEW_LEAVES} of the test leaves as if they were new", flush=True)
    predict = ["predict", "--source", str(new), "--model", str(model)]
    predict += ["--out", str(folder / "predictions"), "--runs", str(folder / "runs")]
    run(*predict)
    return predict


def newest_file(runs: Path, pattern: str) -> Path:
    """The file below the runs of the demo that was written last."""
    return max(runs.glob(f"demo/{pattern}"), key=lambda path: path.stat().st_mtime)


def show_predictions(predictions: Path) -> None:
    """Prints the first columns of predictions.csv. A demo leaf's file name begins with the number of its true
    cultivar."""
    table = Table("photograph", "cultivar", "probability")
    with predictions.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            table.add_row(row["path"], row["cultivar"], f"{float(row['probability']):.2f}")
    Console().print(table)


def show_results(runs: Path, model: Path) -> None:
    """Prints how well the detector and the classifier did on test leaves."""
    detector = json.loads(newest_file(runs, "regions/*/metrics.json").read_text())
    scores = json.loads((model.parent / "report" / "metrics.json").read_text())["models"]["this model"]["accuracy"]
    chance = 100 / load_yaml(CONFIG)["synth"]["cultivars"]
    complete = f"{detector['num_complete']} of {detector['num_evaluated']}"
    print(f"  regions    mAP@0.5 {detector['map50']:.3f}; every region found on {complete} unseen leaves")
    correct = f"{scores['k']} of {scores['n']}"
    print(f"  cultivars  {correct} unseen leaves correct = {100 * scores['value']:.1f} % (chance {chance:.1f} %)")


if __name__ == "__main__":
    raise SystemExit(demo(Path(sys.argv[2] if sys.argv[1:2] == ["--folder"] else "demo")))
