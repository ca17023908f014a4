"""Running statistics are those of all scores, however they came; drift is seen where it is, and seldom elsewhere."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from clflow.config.schema import Watching
from clflow.errors import ClflowError, DataError
from clflow.files import write_json
from pipelines.cli import app
from pipelines.inference import drift
from pipelines.inference.watch import KEPT, Model, Statistics, Watch, record
from tests import tiny

SCORES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)
MODEL = Model("parts", "nut", "0123456789abcdef", tuple(np.random.default_rng(9).normal(2, 1, 20)))
RNG = np.random.default_rng(0)


def category(name: str, key: str = "0" * 16) -> Model:
    return Model("parts", name, key, MODEL.reference)


@given(SCORES, st.data())
def test_statistics_are_the_same_in_any_split(scores: list[float], data: st.DataObject):
    cuts = sorted(data.draw(st.lists(st.integers(1, len(scores)), max_size=6)))
    parts = [scores[a:b] for a, b in zip([0, *cuts], [*cuts, len(scores)], strict=True) if b > a]
    watch = Watch.begin(MODEL, parts[0])
    for part in parts[1:]:
        watch = watch.add(part)
    whole = Statistics.of(scores)
    scale = max(map(abs, scores)) + 1e-300
    assert watch.statistics.count == len(scores)
    assert watch.statistics.mean == pytest.approx(np.mean(scores), rel=1e-9, abs=1e-9 * scale)
    assert watch.statistics.variance == pytest.approx(np.var(scores), rel=1e-9, abs=1e-9 * scale**2)
    assert (watch.statistics.lowest, watch.statistics.highest) == (whole.lowest, whole.highest)
    assert list(watch.recent) == scores


@given(st.lists(st.integers(1, KEPT + 50), min_size=1, max_size=4))
def test_the_last_scores_are_kept_and_no_more(sizes: list[int]):
    scores = np.arange(sum(sizes), dtype=float)
    watch = Watch.begin(MODEL, scores[: sizes[0]].tolist())
    for begin, size in zip(np.cumsum(sizes)[:-1], sizes[1:], strict=True):
        watch = watch.add(scores[begin : begin + size].tolist())
    assert list(watch.recent) == scores[-KEPT:].tolist()
    assert watch.statistics.count == len(scores)


def test_many_may_add_to_one_file(tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: record(tmp_path, MODEL, [float(i), 0.5]), range(40)))
    (path,) = tmp_path.glob("*.json")
    assert path.name == "parts-nut-0123456789ab.json"
    watch = Watch.read(path)
    assert watch.model == MODEL
    assert watch.statistics.count == 80
    assert sorted(watch.recent) == sorted([*map(float, range(40)), *[0.5] * 40])


def test_nothing_scored_leaves_no_file(tmp_path: Path):
    record(tmp_path, MODEL, [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[]", '{"dataset": "parts"}'])
def test_damaged_file_is_named(tmp_path: Path, content: str):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=r"a\.json is no file of watched scores"):
        drift.run(tmp_path, Watching(window=10, alpha=0.01))


@pytest.mark.parametrize(("n_recent", "n_reference"), [(500, 20), (60, 60), (12, 9)])
def test_a_line_that_has_not_moved_is_seldom_called_moved(n_recent: int, n_reference: int):
    rng = np.random.default_rng(1)
    calls = [
        drift.compare(tuple(rng.gumbel(size=n_recent)), tuple(rng.gumbel(size=n_reference)), level=0.05).moved
        for _ in range(400)
    ]
    assert sum(calls) <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5


def test_a_clear_shift_is_called_moved():
    rng = np.random.default_rng(2)
    reference = tuple(rng.normal(2, 1, 20))
    for recent in (rng.normal(5, 1, 60), rng.normal(-1, 1, 60), rng.normal(2, 8, 200)):
        verdict = drift.compare(tuple(recent), reference, level=0.01)
        assert verdict.moved and not verdict.too_few
        assert str(verdict).endswith(": moved")
    assert drift.compare((5.0,) * 30, (1.0, 2.0, 3.0, 4.0), 0.01).shift == pytest.approx((5 - 2.5) / 1.5)


@pytest.mark.parametrize(("n_recent", "few"), [(7, True), (8, False)])
def test_scores_too_few_for_any_verdict_are_told_from_no_move(n_recent: int, few: bool):
    reference = (1.0, 2.0, 3.0)
    verdict = drift.compare(tuple(range(100, 100 + n_recent)), reference, level=0.0125)
    assert verdict.smallest == pytest.approx(verdict.p_value)  # they could not be further apart
    assert (verdict.too_few, verdict.moved) == (few, not few)
    assert ("too few" in str(verdict)) == few


def test_every_category_is_held_to_its_share_of_alpha(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recent = RNG.normal(2.55, 1, 200)
    p_value = drift.compare(tuple(recent), MODEL.reference, level=0.5).p_value
    watching = Watching(window=200, alpha=p_value * 1.5)
    record(tmp_path, category("nut"), recent.tolist())
    assert drift.run(tmp_path, watching)
    record(tmp_path, category("bolt"), list(MODEL.reference))
    assert not drift.run(tmp_path, watching)
    head, bolt, nut = capsys.readouterr().out.splitlines()[-3:]
    assert "Kolmogorov-Smirnov" in head and "Bonferroni over 2" in head
    assert bolt.startswith("parts/bolt") and nut.startswith("parts/nut")
    assert f"p {p_value:.2g}: no sign of a move" in nut and "200 recent, 20 reference" in nut
    assert not drift.run(tmp_path, watching, as_json=True)
    bolt, nut = json.loads(capsys.readouterr().out)
    assert (bolt["category"], nut["category"], nut["cell_key"]) == ("bolt", "nut", category("nut").key)
    assert nut["p_value"] == pytest.approx(p_value) and (nut["moved"], nut["too_few"]) == (False, False)


def test_only_the_window_counts(tmp_path: Path):
    record(tmp_path, category("nut"), [1000.0] * 100 + [*MODEL.reference])
    assert not drift.run(tmp_path, Watching(window=20, alpha=0.01))
    assert drift.run(tmp_path, Watching(window=120, alpha=0.01))
    with pytest.raises(ClflowError, match=r"watching\.window"):
        drift.run(tmp_path, Watching(window=KEPT + 1, alpha=0.01))


def test_a_replaced_model_is_not_tested_any_more(tmp_path: Path):
    record(tmp_path, category("nut", "a" * 16), [1000.0] * 50)
    record(tmp_path, category("nut", "b" * 16), list(MODEL.reference))
    assert not drift.run(tmp_path, Watching(window=100, alpha=0.01))


def test_exit_code_says_whether_anything_moved(tmp_path: Path):
    params = tiny.write_params(tmp_path / "params.yaml", tiny.params_tree(tmp_path))
    watch = tmp_path / "watch"
    command = ["drift", str(watch), "--params", str(params)]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, DataError) and "holds no watched scores" in str(result.exception)
    record(watch, category("nut"), list(MODEL.reference))
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, "no sign of a move" in result.output) == (0, True)
    before = {path: path.read_bytes() for path in watch.iterdir()}
    record(watch, category("bolt"), [50.0] * 50)
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, "moved\n" in result.output) == (1, True)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_bare_detector_cannot_be_watched(tmp_path: Path):
    with pytest.raises(DataError, match=r"lacks cell\.json"):
        Model.of_folder(tmp_path)
    write_json(tmp_path / "cell.json", {})
    with pytest.raises(DataError, match=r"lacks held_out\.csv"):
        Model.of_folder(tmp_path)
