"""Nothing is reported to the makers of the packages that run a model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A served model: MLflow's process imports the model's modules, and no command of ours has run in it.
RUN = """
import onnx
from onnx import helper
from ufgvc.models.onnx import OnnxNet
ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", ends[:1], ends[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
OnnxNet(model.SerializeToString()).session.run(None, {"x": [1.0]})
"""


def test_onnxruntime_keeps_no_reports_to_send(tmp_path: Path) -> None:
    """It queues reports, with an identifier of the machine, in files below the home folder, and sends them later."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment = {**kept, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", RUN], env=environment, check=True)
    assert [path for path in tmp_path.rglob("*") if "icrosoft" in path.name or "onnxruntime" in path.name] == []
