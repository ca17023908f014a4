"""From a folder of images to a detector that predicts, is exported and serves, without a workspace or a registry."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import requests
from typer.testing import CliRunner

import clflow
import pipelines.stages
from pipelines.cli import app
from tests import tiny
from tests.loopback import free_port
from tests.pipelines.command import BIN, environment, refusal, run
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def part(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a detector ``disc``, and what was said while it was trained."""
    folder = tmp_path_factory.mktemp("part")
    tree = tiny.params_tree(tiny_source)
    own = {name: values for name, values in tree.items() if name not in ("benchmark", "data")}
    tiny.write_params(folder / "own.yaml", {"extends": "base"} | own)
    done = run("clflow", "fit", str(tiny_source / "disc"), "--out", "disc", "--params", "own.yaml", cwd=folder)
    assert done.returncode == 0, done.stdout
    (folder / "log.txt").write_text(done.stdout)
    return folder


def test_what_was_found_and_measured_is_told(part: Path):
    lines = (part / "log.txt").read_text().splitlines()
    assert lines[0].endswith("4 of them with masks") and "12 normal images to train on" in lines[0]
    assert lines[1].startswith("  step 4: loss ")
    assert lines[-2].startswith("test images: image_auroc ")
    assert lines[-1] == "next: clflow predict --model disc --out judged <images>; clflow serve --model disc"


def test_its_folder_predicts_and_is_exported(part: Path, tiny_source: Path, monkeypatch: pytest.MonkeyPatch):
    images = tiny_source / "disc" / "test"
    monkeypatch.chdir(part)

    def call(*arguments: str) -> None:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output

    call("export", "--model", "disc", "--format", "torch", "--out", "graph")
    scores = {}
    for model in ("disc", "graph"):
        call("predict", "--model", model, "--out", f"by-{model}", str(images))
        scores[model] = pd.read_csv(part / f"by-{model}" / "scores.csv")["image_score"]
    assert scores["graph"].to_numpy() == pytest.approx(scores["disc"].to_numpy(), abs=1e-3)
    expected = [prediction.score for prediction in clflow.load(part / "disc").predict(images)]
    assert scores["disc"].to_numpy() == pytest.approx(expected, rel=1e-4)
    (watched,) = (part / "by-disc" / "watch").glob("*.json")
    reference = json.loads(watched.read_text())["reference"]
    assert len(reference) == tiny.TRAIN


def test_its_folder_is_served_without_a_registry(part: Path, tiny_source: Path):
    port, log = free_port(), part / "serve.txt"
    image = (tiny_source / "disc" / "test" / "hole" / "000.png").read_bytes()
    with log.open("w") as output:
        command = [str(BIN / "clflow"), "serve", "--model", "disc", "--port", str(port)]
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, text=True, cwd=part, env=environment()
        )
    try:
        wait_until(lambda: "serving 1 categories" in log.read_text(), process, log)
        answer = requests.post(f"http://127.0.0.1:{port}/predict/disc", data=image, timeout=60).json()
        served = requests.get(f"http://127.0.0.1:{port}/models", timeout=60).json()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
    (prediction,) = clflow.load(part / "disc").predict(tiny_source / "disc" / "test" / "hole" / "000.png")
    assert answer["score"] == pytest.approx(prediction.score, rel=1e-5)
    assert answer["anomalous"] == prediction.is_anomalous
    assert served["disc"]["model"] == str(part / "disc")


def test_what_serves_is_one_thing(
    part: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for options, words in (
        ((), "name a --dataset"),
        (("--dataset", "x", "--model", str(part / "disc")), "name a --dataset"),
        (("--model", str(part / "disc"), "--category", "x"), "name a --dataset"),
        (("--model", str(tmp_path)), "lacks cell.json"),
    ):
        assert words in refusal("serve", *options, monkeypatch=monkeypatch, capsys=capsys)


def test_scoring_with_a_folder_needs_no_package_of_the_workflow():
    verbs = ", ".join(f"pipelines.inference.{verb}" for verb in ("predict", "fit", "export"))
    code = f"import sys, {verbs}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"ray", "mlflow", "dvc", "optuna", "fastapi"}


def test_a_package_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, tiny_source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "pipelines.stages.train", raising=False)  # another test may have imported it
    monkeypatch.delattr(pipelines.stages, "train", raising=False)
    params = tiny.write_params(tmp_path / "params.yaml", tiny.params_tree(tiny_source))
    options = "train", "--dataset", "folder", "--params", str(params)
    said = refusal(*options, monkeypatch=monkeypatch, capsys=capsys)
    assert said == "this needs ray, which is not installed; pip install 'clflow[workflow]'."
