"""MLflow's own server serves the same model, with the same scores."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import requests
from PIL import Image

from clflow.files import read_json
from pipelines.registry.locate import registered_name
from tests import tiny
from tests.loopback import free_port
from tests.pipelines.command import BIN, environment
from tests.pipelines.trained import Trained
from tests.waiting import answers, wait_until


def test_mlflow_models_serve_answers_with_the_scores_of_the_benchmark(trained: Trained, tmp_path: Path):
    scores = trained.scores("disc")
    images = np.stack([np.asarray(Image.open(trained.images / path)) for path in scores["path"]])
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    reference = f"models:/{registered_name('folder', 'disc')}@champion"
    begin = time.monotonic()
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [str(BIN / "mlflow"), "models", "serve", "-m", reference, "--env-manager", "local", "-p", str(port)],
            env=environment(MLFLOW_TRACKING_URI=trained.uri, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        wait_until(lambda: answers(f"{url}/health"), process, tmp_path / "log.txt")
        response = requests.post(f"{url}/invocations", json={"inputs": images.tolist()}, timeout=60)
        print(f"first answer after {time.monotonic() - begin:.1f} s")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    assert response.status_code == 200, response.text
    predicted = response.json()["predictions"]
    np.testing.assert_allclose(predicted["image_scores"], scores["image_score"], rtol=1e-5)
    assert np.shape(predicted["score_maps"]) == (len(images), tiny.SIZE, tiny.SIZE)
    threshold = read_json(trained.folder("disc") / "cell.json")["image_threshold"]
    assert predicted["anomalous"] == (scores["image_score"] > threshold).tolist()
