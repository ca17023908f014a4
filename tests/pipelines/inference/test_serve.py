"""A real ``clflow serve``, asked over HTTP while champions change, scorers die and the registry goes away."""

from __future__ import annotations

import base64
import io
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
import torch
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from clflow.data.images import open_rgb, resize_to_square
from clflow.errors import ClflowError
from clflow.methods.loading import load_detector
from clflow.regions import find_regions
from clflow.score import upsample
from pipelines.inference import serve
from pipelines.inference.watch import Model, Watch
from pipelines.registry.locate import CHAMPION, registered_name
from tests import tiny
from tests.load import load
from tests.loopback import free_port
from tests.pipelines.command import BIN
from tests.pipelines.trained import Trained
from tests.waiting import wait_until


@dataclass
class Endpoint:
    """A running ``clflow serve``."""

    trained: Trained
    url: str
    process: subprocess.Popen[str]
    log: Path

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=30)

    def post(self, category: str, body: Any, query: str = "") -> requests.Response:
        return requests.post(f"{self.url}/predict/{category}{query}", data=body, timeout=60)

    def model(self, category: str) -> dict[str, Any]:
        return self.get("/models").json()[category]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all that carries these labels."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def wait_until(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, self.process, self.log)

    def family(self) -> list[psutil.Process]:
        return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]


def command(trained: Trained, *options: str) -> list[str]:
    params = str(trained.workspace.params)
    return [str(BIN / "clflow"), "serve", "--dataset", "folder", "--params", params, *options]


@contextmanager
def started(trained: Trained, log: Path) -> Iterator[Endpoint]:
    port = free_port()
    with log.open("w") as output:
        process = subprocess.Popen(
            command(trained, "--port", str(port)), stdout=output, stderr=subprocess.STDOUT, text=True, cwd=log.parent
        )
    endpoint = Endpoint(trained, f"http://127.0.0.1:{port}", process, log)

    try:
        endpoint.wait_until(lambda: "serving 2 categories" in log.read_text())
        yield endpoint
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@pytest.fixture(scope="module")
def endpoint(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with started(trained, tmp_path_factory.mktemp("serve") / "log.txt") as endpoint:
        yield endpoint


def defect(trained: Trained, category: str = "disc") -> bytes:
    return (trained.images / category / "test" / "hole" / "000.png").read_bytes()


def score_of(folder: Path, image: bytes) -> float:
    """What the detector in a folder says of an image."""
    detector = load_detector(folder)
    pixels = resize_to_square(open_rgb(io.BytesIO(image)), detector.image_size)
    return float(detector(torch.from_numpy(pixels[None]))[1])


@pytest.mark.parametrize("category", tiny.CATEGORIES)
def test_answers_are_those_of_the_benchmark(endpoint: Endpoint, category: str):
    for row in endpoint.trained.scores(category).to_dict("records"):
        answer = endpoint.post(category, (endpoint.trained.images / row["path"]).read_bytes()).json()
        assert answer["score"] == pytest.approx(row["image_score"], rel=1e-5)
        assert answer["anomalous"] == (answer["score"] > answer["threshold"])
        assert (answer["dataset"], answer["category"], answer["version"]) == ("folder", category, 1)
        assert answer["model"] == registered_name("folder", category)
        assert answer["heat_map"] is None


def test_heat_map_comes_when_it_is_asked_for(endpoint: Endpoint):
    file = io.BytesIO()
    with Image.open(io.BytesIO(defect(endpoint.trained))) as square:
        square.resize((300, 600)).save(file, "JPEG", quality=95)
    answer = endpoint.post("disc", file.getvalue(), "?map=true").json()
    with Image.open(io.BytesIO(base64.b64decode(answer["heat_map"]))) as picture:
        assert (picture.format, picture.size) == ("PNG", (tiny.SIZE // 2, tiny.SIZE))
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (pixels.max(axis=2) - pixels.min(axis=2)).max() > 100


def test_form_is_taken_like_a_raw_body(endpoint: Endpoint):
    image, url = defect(endpoint.trained), f"{endpoint.url}/predict/disc"
    sent = requests.post(url, files={"image": ("part.png", image, "image/png")}, timeout=60)
    assert sent.status_code == 200, sent.text
    assert sent.json()["score"] == pytest.approx(endpoint.post("disc", image).json()["score"], rel=1e-5)
    for refused, words in (
        (requests.post(url, files={"a": image, "b": image}, timeout=60), "holds 2 files; send one image"),
        (requests.post(url, files={"image": ("part.png", b"no image")}, timeout=60), "not BMP, JPEG, PNG"),
        (requests.post(url, image, headers={"content-type": "multipart/form-data"}, timeout=60), "cannot be read"),
        (requests.post(url, files={"image": bytes(1_000_001)}, timeout=60), "larger than 1 MB"),
    ):
        assert words in refused.json()["detail"] and refused.status_code in (413, 415)


def test_regions_and_raw_map_come_when_they_are_asked_for(endpoint: Endpoint):
    file = io.BytesIO()
    with Image.open(io.BytesIO(defect(endpoint.trained))) as square:
        square.resize((300, 600)).save(file, "PNG")
    answer = endpoint.post("disc", file.getvalue(), "?regions=true&raw_map=true").json()
    assert answer["heat_map"] is None
    score_map = np.load(io.BytesIO(base64.b64decode(answer["raw_map"])), allow_pickle=False)
    assert score_map.dtype == np.float32 and score_map.ndim == 2
    limits = load_detector(endpoint.trained.folder("disc")).thresholds
    assert answer["pixel_threshold"] == pytest.approx(limits.pixel)
    expected = find_regions(upsample(score_map[None], tiny.SIZE)[0], limits.pixel, (300, 600))
    assert answer["regions"] == [pytest.approx(asdict(region)) for region in expected]


def test_threshold_of_a_request_is_applied_and_told(endpoint: Endpoint):
    image = defect(endpoint.trained)
    stored = endpoint.post("disc", image).json()
    for threshold, anomalous in ((stored["score"] - 1e-3, True), (stored["score"] + 1e-3, False)):
        answer = endpoint.post("disc", image, f"?threshold={threshold}").json()
        assert answer["score"] == pytest.approx(stored["score"], rel=1e-5)
        assert (answer["threshold"], answer["anomalous"]) == (threshold, anomalous)
    assert endpoint.post("disc", image).json()["threshold"] == stored["threshold"]
    assert endpoint.post("disc", image, "?false_alarm_rate=0.5").json()["threshold"] < stored["threshold"]
    refused = endpoint.post("disc", image, "?false_alarm_rate=0.5&threshold=1")
    assert refused.status_code == 422 and "give one" in refused.text


def test_what_is_served_and_how_it_is(endpoint: Endpoint):
    assert endpoint.get("/").json() == {
        **{"service": "clflow", "dataset": "folder", "categories": list(tiny.CATEGORIES)},
        **{"predict": "POST /predict/{category}", "docs": "/docs"},
    }
    assert endpoint.get("/health").json() == {"status": "alive"}
    assert endpoint.get("/ready").json() == {"status": "ready"}
    models = endpoint.get("/models").json()
    assert {category: (model["model"], model["version"], model["problem"]) for category, model in models.items()} == {
        category: (registered_name("folder", category), 1, None) for category in tiny.CATEGORIES
    }
    assert all(model["loaded_since"] for model in models.values())


def too_large() -> bytes:
    file = io.BytesIO()
    Image.new("1", (2000, 1000)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("category", "query", "body", "status", "words"),
    [
        ("bolt", "", b"", 404, "'bolt' is not served; there are disc, stripes"),
        ("disc", "", bytes(1_000_001), 413, "larger than 1 MB (serving.body_mb)"),
        ("disc", "", "chunked", 413, "larger than 1 MB (serving.body_mb)"),
        ("disc", "", too_large(), 413, "2.0 megapixels, more than 1 (serving.megapixels)"),
        ("disc", "", b"", 415, "not BMP, JPEG, PNG, TIFF, WEBP"),
        ("disc", "", b"GIF89a and so on", 415, "not BMP, JPEG, PNG, TIFF, WEBP"),
        ("disc", "", "truncated", 422, "truncated"),
        ("disc", "?map=perhaps", b"", 422, "map is not valid"),
        ("disc", "?threshold=nan", b"", 422, "threshold is not valid"),
    ],
)
def test_bad_input_is_one_sentence(
    endpoint: Endpoint, category: str, query: str, body: bytes | str, status: int, words: str
):
    sent: Any = body
    if body == "chunked":
        sent = (bytes(100_000) for _ in range(11))
    elif body == "truncated":
        sent = defect(endpoint.trained)[:900]
    response = endpoint.post(category, sent, query)
    assert response.status_code == status, response.text
    assert response.json().keys() == {"detail"}
    assert words in response.json()["detail"]


def test_schema_is_complete(endpoint: Endpoint):
    schema = endpoint.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/", "/predict/{category}", "/models", "/health", "/ready", "/metrics"}
    post = schema["paths"]["/predict/{category}"]["post"]
    assert post["requestBody"]["required"]
    assert set(post["responses"]) == {"200", "404", "413", "415", "422", "503"}
    models = {
        status: answer["content"]["application/json"]["schema"]["$ref"] for status, answer in post["responses"].items()
    }
    assert models.pop("200").endswith("/Prediction")
    assert {name.rpartition("/")[2] for name in models.values()} == {"Problem"}
    assert set(schema["components"]["schemas"]["Prediction"]["required"]) >= {"score", "threshold", "anomalous"}
    assert set(post["requestBody"]["content"]) == {"image/*", "multipart/form-data"}
    assert {parameter["name"] for parameter in post["parameters"]} == {
        *("category", "map", "regions", "raw_map", "threshold", "false_alarm_rate")
    }


def test_page_of_the_api_needs_no_network(endpoint: Endpoint):
    page = endpoint.get("/docs").text
    assert "/openapi.json" in page
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) == 3 and not [address for address in loaded if "://" in address]
    for address in loaded:
        assert len(endpoint.get(address).content) > 1000


def test_metrics_count_what_happened(endpoint: Endpoint):
    before = {
        name: endpoint.metric(name, category="stripes")
        for name in ("clflow_requests_total", "clflow_score_sum", "clflow_anomalous_total")
    }
    batches = endpoint.metric("clflow_batch_size_count")
    scores = [endpoint.post("stripes", defect(endpoint.trained, "stripes")).json() for _ in range(3)]
    endpoint.post("stripes", b"no image")
    assert endpoint.metric("clflow_requests_total", category="stripes") == before["clflow_requests_total"] + 4
    assert endpoint.metric("clflow_requests_total", category="stripes", status="415") >= 1
    assert endpoint.metric("clflow_request_seconds_count", category="stripes") == endpoint.metric(
        "clflow_requests_total", category="stripes"
    )
    total = sum(answer["score"] for answer in scores)
    assert endpoint.metric("clflow_score_sum", category="stripes") == pytest.approx(before["clflow_score_sum"] + total)
    found = sum(answer["anomalous"] for answer in scores)
    assert endpoint.metric("clflow_anomalous_total", category="stripes") == before["clflow_anomalous_total"] + found
    assert endpoint.metric("clflow_batch_size_count") == batches + 3
    assert endpoint.metric("clflow_model_info", category="stripes", version="1") == 1


def test_images_that_come_at_once_are_scored_together(endpoint: Endpoint):
    singles = endpoint.metric("clflow_batch_size_bucket", le="1.0")
    stop = threading.Event()
    threading.Timer(2, stop.set).start()
    outcome = load(f"{endpoint.url}/predict/disc", defect(endpoint.trained), 8, stop)
    assert not outcome.failures
    assert endpoint.metric("clflow_batch_size_bucket", le="1.0") - singles < len(outcome.answers)


def test_champion_changes_under_load_and_no_request_fails(endpoint: Endpoint):
    trained, image = endpoint.trained, defect(endpoint.trained)
    other = trained.register("disc", trained.logged_model("stripes"))  # any model that gives other scores
    expected = {1: score_of(trained.folder("disc"), image), other: score_of(trained.folder("stripes"), image)}
    stop = threading.Event()

    def move() -> None:
        try:
            for version in (other, 1):
                time.sleep(1)
                trained.promote("disc", version)
                endpoint.wait_until(lambda version=version: endpoint.model("disc")["version"] == version)
            time.sleep(0.5)
        finally:
            stop.set()

    mover = threading.Thread(target=move, daemon=True)
    mover.start()
    outcome = load(f"{endpoint.url}/predict/disc", image, 4, stop)
    mover.join()
    print(outcome)
    assert outcome.failures == []
    versions = [answer["version"] for answer in outcome.answers]
    assert set(versions) == {1, other} and versions[0] == versions[-1] == 1
    assert expected[1] != pytest.approx(expected[other], rel=0.1)
    for answer in outcome.answers:
        assert answer["score"] == pytest.approx(expected[answer["version"]], rel=1e-5)
    assert f"disc: version {other} is in use" in endpoint.log.read_text()


def test_champion_that_cannot_be_loaded_leaves_the_old_one(endpoint: Endpoint, tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    endpoint.trained.promote("disc", endpoint.trained.register("disc", tmp_path.as_uri()))
    try:
        endpoint.wait_until(lambda: endpoint.model("disc")["problem"] is not None)
        assert endpoint.model("disc")["version"] == 1
        assert endpoint.metric("clflow_champion_problem", category="disc") == 1
        assert endpoint.post("disc", defect(endpoint.trained)).json()["version"] == 1
        assert endpoint.get("/ready").status_code == 200
    finally:
        endpoint.trained.promote("disc", 1)
    endpoint.wait_until(lambda: endpoint.model("disc")["problem"] is None)
    assert endpoint.metric("clflow_champion_problem", category="disc") == 0


def test_registry_that_is_away_stops_nothing(endpoint: Endpoint):
    database = endpoint.trained.workspace.mlflow_database
    away = database.rename(database.with_suffix(".away"))
    try:
        endpoint.wait_until(lambda: endpoint.model("stripes")["problem"] is not None)
        answer = endpoint.post("stripes", defect(endpoint.trained, "stripes"))
        assert (answer.status_code, answer.json()["version"]) == (200, 1)
    finally:
        away.rename(database)
    endpoint.wait_until(lambda: endpoint.model("stripes")["problem"] is None)


def test_lost_scorer_is_replaced(endpoint: Endpoint):
    (scorer,) = (process for process in endpoint.family() if "Scorer" in " ".join(process.cmdline()))
    scorer.kill()
    response = endpoint.get("/ready")
    assert response.status_code == 503 and "no scorer answers" in response.json()["detail"]
    assert endpoint.get("/health").status_code == 200
    endpoint.wait_until(lambda: endpoint.get("/ready").status_code == 200)
    assert endpoint.post("disc", defect(endpoint.trained)).json()["version"] == 1


def test_taken_port_is_one_sentence(endpoint: Endpoint):
    port = endpoint.url.rpartition(":")[2]
    result = subprocess.run(command(endpoint.trained, "--port", port), capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"error: 127.0.0.1:{port} cannot be used")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://127.0.0.1:9", "@champion is unavailable from MLflow at http://127.0.0.1:9"),
        ("sqlite:////nowhere/mlflow.db", "no MLflow database"),
    ],
)
def test_what_stops_the_start_is_said_before_ray_starts(
    trained: Trained, uri: str, words: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ClflowError) as error:
        serve.run(trained.params, "folder", trained.workspace, ("disc",), "127.0.0.1", free_port())
    assert words in str(error.value)


def test_category_without_champion_is_named(trained: Trained):
    trained.client.delete_registered_model_alias(registered_name("folder", "stripes"), CHAMPION)
    try:
        with pytest.raises(ClflowError, match=r"models:/clflow-folder-stripes@champion"):
            serve.run(trained.params, "folder", trained.workspace, tiny.CATEGORIES, "127.0.0.1", free_port())
    finally:
        trained.promote("stripes", 1)


def test_the_gateway_needs_no_torch():
    script = "import sys, pipelines.inference.serving.gateway; sys.exit(bool({'torch', 'mlflow'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_end_leaves_scores_but_no_processes(endpoint: Endpoint):
    """Last: it ends the endpoint of this module."""
    family = endpoint.family()
    assert len(family) > 3
    endpoint.post("disc", defect(endpoint.trained))  # written at the end at the latest
    count = endpoint.metric("clflow_score_count", category="disc")
    endpoint.process.send_signal(signal.SIGTERM)
    assert endpoint.process.wait(40) == 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    output = endpoint.log.read_text()
    assert output.splitlines()[-1] == "stopping" and "Traceback" not in output
    watched = Watch.read(endpoint.trained.workspace.watch / Model.of_folder(endpoint.trained.folder("disc")).file_name)
    assert 0 < watched.statistics.count <= count
    score = score_of(endpoint.trained.folder("disc"), defect(endpoint.trained))
    assert [each for each in watched.recent.values() if each == pytest.approx(score)]
