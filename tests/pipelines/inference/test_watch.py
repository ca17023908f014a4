"""Running statistics are those of all images, however they came; drift is seen where it is, and seldom elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
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
from pipelines.inference.watch import KEPT, Model, Statistics, Watch, content, record
from pipelines.workspace.person import person
from tests import tiny

SCORES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)
MODEL = Model("parts", "nut", "0123456789abcdef", tuple(np.random.default_rng(9).normal(2, 1, 20)))
RNG = np.random.default_rng(0)
WATCHING = Watching(window=500, alpha=0.01, looks=365)


def images(scores: Iterable[float], prefix: str = "") -> dict[str, float]:
    """Scores of as many different images."""
    return {f"{prefix}{number}": float(score) for number, score in enumerate(scores)}


def category(name: str, key: str = "0" * 16) -> Model:
    return Model("parts", name, key, MODEL.reference)


@given(SCORES, st.data())
def test_statistics_are_the_same_in_any_split(scores: list[float], data: st.DataObject):
    cuts = sorted(data.draw(st.lists(st.integers(1, len(scores)), max_size=6)))
    known = [*images(scores).items()]
    parts = [dict(known[a:b]) for a, b in zip([0, *cuts], [*cuts, len(scores)], strict=True) if b > a]
    watch = Watch.begin(MODEL, parts[0])
    for part in parts[1:]:
        watch = watch.add(part)
    whole = Statistics.of(scores)
    scale = max(map(abs, scores)) + 1e-300
    assert watch.statistics.count == len(scores)
    assert watch.statistics.mean == pytest.approx(np.mean(scores), rel=1e-9, abs=1e-9 * scale)
    assert watch.statistics.variance == pytest.approx(np.var(scores), rel=1e-9, abs=1e-9 * scale**2)
    assert (watch.statistics.lowest, watch.statistics.highest) == (whole.lowest, whole.highest)
    assert list(watch.recent.values()) == scores


@given(st.lists(st.integers(1, KEPT + 50), min_size=1, max_size=4))
def test_the_last_scores_are_kept_and_no_more(sizes: list[int]):
    scores = np.arange(sum(sizes), dtype=float)
    known = [*images(scores).items()]
    watch = Watch.begin(MODEL, dict(known[: sizes[0]]))
    for begin, size in zip(np.cumsum(sizes)[:-1], sizes[1:], strict=True):
        watch = watch.add(dict(known[begin : begin + size]))
    assert list(watch.recent.values()) == scores[-KEPT:].tolist()
    assert watch.statistics.count == len(scores)


def test_many_may_add_to_one_file(tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: record(tmp_path, MODEL, images([i, 0.5], f"{i} ")), range(40)))
    (path,) = tmp_path.glob("*.json")
    assert path.name == "parts-nut-0123456789ab.json"
    watch = Watch.read(path)
    assert watch.model == MODEL
    assert watch.statistics.count == 80
    assert sorted(watch.recent.values()) == sorted([*map(float, range(40)), *[0.5] * 40])


def test_an_image_counts_once(tmp_path: Path):
    pixels = RNG.integers(0, 256, (3, 8, 8, 3), np.uint8)
    same, *others = (content(image) for image in (pixels[0].copy(), *pixels[1:]))
    assert same == content(pixels[0]) and len({same, *others}) == 3
    for scores in ({same: 1.0, others[0]: 2.0}, {same: 1.1}, {same: 1.0, others[1]: 3.0}):
        record(tmp_path, MODEL, scores)
    watch = Watch.read(*tmp_path.glob("*.json"))
    assert watch.recent == {same: 1.0, others[0]: 2.0, others[1]: 3.0}
    assert watch.statistics.count == 3


def test_nothing_scored_leaves_no_file(tmp_path: Path):
    record(tmp_path, MODEL, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[]", '{"dataset": "parts"}'])
def test_damaged_file_is_named(tmp_path: Path, content: str):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=r"a\.json is no file of watched scores"):
        drift.run(tmp_path, WATCHING)


@pytest.mark.parametrize(("n_recent", "n_reference"), [(500, 20), (60, 60), (20, 209)])
def test_a_line_that_has_not_moved_is_seldom_called_moved(n_recent: int, n_reference: int):
    rng = np.random.default_rng(1)
    calls = [
        drift.compare(tuple(rng.gumbel(size=n_recent)), tuple(rng.gumbel(size=n_reference)), level=0.05).moved
        for _ in range(400)
    ]
    assert sum(calls) <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5


def test_a_line_that_is_looked_at_every_day_is_seldom_called_moved(tmp_path: Path):
    rng = np.random.default_rng(3)
    level = WATCHING.alpha / WATCHING.looks
    for _ in range(20):  # lines; the windows of the looks overlap
        reference, scores = tuple(rng.gumbel(size=60)), rng.gumbel(size=2000)
        looks = [scores[max(0, end - 500) : end] for end in range(20, 2000, 40)]
        assert not any(drift.compare(tuple(recent), reference, level).moved for recent in looks)


@pytest.mark.parametrize(
    ("mean", "spread", "direction"), [(5, 1, "moved up"), (-1, 1, "moved down"), (2, 8, "moved in spread")]
)
def test_a_clear_shift_is_called_moved(mean: float, spread: float, direction: str):
    rng = np.random.default_rng(2)
    reference, recent = rng.normal(2, 1, 60), rng.normal(mean, spread, 200)
    verdict = drift.compare(tuple(recent), tuple(reference), WATCHING.alpha / WATCHING.looks)
    assert verdict.moved and str(verdict).endswith(f": {direction}")
    superiority = np.mean([recent > each for each in reference])
    assert verdict.superiority == pytest.approx(superiority)
    assert f"with probability {superiority:.2f}; KS {verdict.statistic:.2f}" in str(verdict)


def test_effect_sizes():
    verdict = drift.compare((5.0,) * 30, (1.0, 2.0, 3.0, 5.0), 0.01)
    assert verdict.shift == pytest.approx((5 - 2.5) / 1.75)
    assert (verdict.superiority, verdict.statistic) == (0.875, 0.75)  # a tie counts half


def test_a_difference_that_is_certain_but_small_is_no_move():
    rng = np.random.default_rng(4)
    verdict = drift.compare(tuple(rng.normal(0.3, 1, 4000)), tuple(rng.normal(0, 1, 4000)), level=1e-6)
    assert verdict.p_value < 1e-6 and not verdict.moved
    assert str(verdict).endswith(": no sign of a move")


@pytest.mark.parametrize(("n_recent", "n_reference"), [(3, 209), (500, 9), (19, 20)])
def test_too_few_images_are_told_in_one_sentence(n_recent: int, n_reference: int):
    verdict = drift.compare(tuple(range(100, 100 + n_recent)), tuple(range(n_reference)), level=0.5)
    assert verdict.too_few and not verdict.moved
    assert str(verdict) == (
        f"too little to tell: {n_recent} new images and {n_reference} references, of each 20 are needed; --accept adds "
        "references."
    )


def test_every_category_and_every_look_has_its_share_of_alpha(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recent = RNG.normal(3.2, 1, 200)
    p_value = drift.compare(tuple(recent), MODEL.reference, level=0.5).p_value
    once, twice = (Watching(window=200, alpha=p_value * 1.5, looks=looks) for looks in (1, 2))
    record(tmp_path, category("nut"), images(recent))
    assert drift.run(tmp_path, once)
    assert not drift.run(tmp_path, twice)
    record(tmp_path, category("bolt"), images(MODEL.reference))
    assert not drift.run(tmp_path, once)
    head, bolt, nut = capsys.readouterr().out.splitlines()[-3:]
    assert "Kolmogorov-Smirnov" in head and "over 1 looks at 2 categories" in head
    assert bolt.startswith("parts/bolt") and nut.startswith("parts/nut")
    assert f"p {p_value:.2g}: no sign of a move" in nut and "200 new images, 20 references" in nut
    assert not drift.run(tmp_path, once, as_json=True)
    bolt, nut = json.loads(capsys.readouterr().out)
    assert (bolt["category"], nut["category"], nut["cell_key"]) == ("bolt", "nut", category("nut").key)
    assert nut["p_value"] == pytest.approx(p_value) and (nut["moved"], nut["too_few"]) == (False, False)


def test_only_the_window_counts(tmp_path: Path):
    record(tmp_path, category("nut"), images([*[1000.0] * 100, *MODEL.reference]))
    assert not drift.run(tmp_path, Watching(window=20, alpha=0.01, looks=1))
    assert drift.run(tmp_path, Watching(window=120, alpha=0.01, looks=1))
    for window in (19, KEPT + 1):
        with pytest.raises(ClflowError, match=r"watching\.window"):
            drift.run(tmp_path, Watching(window=window, alpha=0.01, looks=1))


def test_a_replaced_model_is_not_tested_any_more(tmp_path: Path):
    record(tmp_path, category("nut", "a" * 16), images([1000.0] * 50))
    record(tmp_path, category("nut", "b" * 16), images(MODEL.reference))
    assert not drift.run(tmp_path, WATCHING)


def test_images_confirmed_good_become_references_and_it_is_recorded_who_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    line, good = tmp_path / "line", tmp_path / "good"
    with pytest.raises(DataError, match="good holds no watched scores"):
        drift.accept(line, good)
    record(good, MODEL, images(RNG.normal(9, 1, 40), "good "))
    with pytest.raises(DataError, match=r"line watches no scores of the model of .*good/parts-nut-0123456789ab\.json"):
        drift.accept(line, good)
    new = images(RNG.normal(9, 1, 60), "new ")
    record(line, MODEL, new | images([9.0], "good "))
    assert drift.run(line, WATCHING)
    for _ in range(2):  # the second adds nothing
        drift.accept(line, good)
    said = capsys.readouterr().out.splitlines()[-2:]
    assert f": 40 images confirmed good by {person()}; 60 references now." in said[0]
    assert ": 0 images confirmed good by" in said[1] and "60 references now" in said[1]
    watch = Watch.read(line / MODEL.file_name)
    assert watch.recent == new
    assert [(each.by, each.images) for each in watch.acceptances] == [(person(), 40), (person(), 0)]
    assert watch.model.reference == MODEL.reference and len(watch.references) == 60
    record(line, MODEL, images([9.0], "good "))  # it is known
    assert Watch.read(line / MODEL.file_name).recent == new
    assert not drift.run(line, WATCHING)

    drift.accept(line, line)
    assert not drift.run(line, WATCHING)
    assert "no new images since the last were accepted" in capsys.readouterr().out


def test_without_a_parameter_file_the_defaults_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "watch", category("nut"), images([50.0] * 50))
    result = CliRunner().invoke(app, ["drift", "watch"])
    assert (result.exit_code, "alpha 0.01 over 365 looks" in result.output) == (1, True)


def test_exit_code_says_whether_anything_moved(tmp_path: Path):
    params = tiny.write_params(tmp_path / "params.yaml", tiny.params_tree(tmp_path))
    watch = tmp_path / "watch"
    command = ["drift", str(watch), "--params", str(params)]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, DataError) and "holds no watched scores" in str(result.exception)
    record(watch, category("nut"), images(MODEL.reference))
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, "no sign of a move" in result.output) == (0, True)
    before = {path: path.read_bytes() for path in watch.iterdir()}
    record(watch, category("bolt"), images([50.0] * 50))
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, "moved up\n" in result.output) == (1, True)
    assert all(path.read_bytes() == written for path, written in before.items())
    result = CliRunner().invoke(app, [*command, "--accept", str(watch)])
    assert (result.exit_code, result.output.count("images confirmed good by")) == (0, 2)


def test_bare_detector_cannot_be_watched(tmp_path: Path):
    with pytest.raises(DataError, match=r"lacks cell\.json"):
        Model.of_folder(tmp_path)
    write_json(tmp_path / "cell.json", {})
    with pytest.raises(DataError, match=r"lacks held_out\.csv"):
        Model.of_folder(tmp_path)
