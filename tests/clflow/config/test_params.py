"""Every way to get params.yaml wrong ends in one sentence that names the key."""

from pathlib import Path

import pytest

from clflow.config.params import Params, effective, load
from clflow.errors import ParameterError
from tests.tiny import write_params

ROOT = Path(__file__).parents[3]


def broken(tmp_path: Path, *keys: str, value: object = None, remove: bool = False) -> Path:
    """The project's own parameters, all in one file, with one key changed or removed."""
    tree = effective(ROOT / "params.yaml").tree
    place = tree
    for key in keys[:-1]:
        place = place[key]
    if remove:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return write_params(tmp_path / "params.yaml", tree)


def test_full_benchmark_lists_all_categories():
    params = load(ROOT / "params.yaml")
    assert len(params.data["mvtec_ad"].categories) == 15
    assert params.data["btad"].categories == ("01", "02", "03")
    assert params.model.backbone.startswith("wide_resnet50_2")


@pytest.mark.parametrize(
    ("keys", "value", "names"),
    [
        (("train", "stepps"), 3, "train.stepps"),
        (("colour",), 3, "colour"),
        (("train", "steps"), "many", "train.steps"),
        (("train", "steps"), 3.5, "train.steps"),
        (("train", "steps"), 0, "train.steps"),
        (("train", "warmup"), 100000, "train"),
        (("train", "learning_rate"), "0.01", "train.learning_rate"),
        (("benchmark", "seeds"), [], "benchmark.seeds"),
        (("benchmark", "seeds"), [1, 1], "seeds"),
        (("benchmark", "datasets"), ["mvtec"], "mvtec"),
        (("data", "btad", "categories"), [1, 2], "data.btad.categories.0"),
        (("data", "btad", "categories"), ["../x"], "data.btad.categories.0"),
        (("protocol", "image_size"), 100, "protocol.image_size"),
        (("protocol", "holdout"), 0.9, "protocol.holdout"),
        (("model", "pool"), 2, "model"),
        (("model", "strides"), [7], "model.strides.0"),
        (("synthesis", "opacity"), [0.9, 0.1], "synthesis"),
        (("synthesis", "sources", "texture"), 1, "textures"),
        (("synthesis", "shapes", "hole"), 1, "synthesis.shapes.hole"),
        (("loss", "contrast"), -1, "loss.contrast"),
        (("loss", "contrast"), float("nan"), "loss.contrast"),
        (("overrides",), {"mvtec_ad/bottel": {}}, "mvtec_ad/bottel"),
        (("overrides",), {"mvtec_ad/bottle": {"train": {"stepps": 3}}}, "train.stepps"),
        (("overrides",), {"mvtec_ad/bottle": {"protocol": {}}}, "protocol"),
        (("benchmark", "methods"), ["clflow-tuned"], "tuned"),
        (("tuned",), "tuned/none.yaml", "tuned/none.yaml"),
        (("tuned",), {"search": {}, "parameters": {"protocol": {}}, "overrides": {}}, "tuned.parameters.protocol"),
        (("tune", "datasets"), ["mvtec"], "mvtec"),
        (("tune", "space"), {}, "tune.space"),
        (("tune", "space"), {"loss.contrst": {"uniform": [0, 1]}}, "loss.contrst"),
        (("tune", "space"), {"protocol.image_size": {"choice": [256, 512]}}, "protocol.image_size"),
        (("tune", "space"), {"train.eval_points": {"integer": [1, 9]}}, "train.eval_points"),
        (("tune", "space"), {"train.learning_rate": {"uniform": [-1, 1]}}, "train.learning_rate"),
        (("tune", "space"), {"model.strides": {"choice": [8, 16]}}, "model.strides"),
        (("tune", "space"), {"loss.contrast": {"uniform": [1, 0]}}, "tune.space.loss.contrast"),
        (("tune", "space"), {"loss.contrast": {"log_uniform": [0, 1]}}, "tune.space.loss.contrast.log_uniform"),
        (("tune", "space"), {"loss.contrast": {"uniform": [0, 1], "choice": [0, 1]}}, "exactly one"),
        (("promotion", "floors"), {"image_auc": 0.9}, "image_auc"),
        (("promotion", "floors"), {"false_alarms": 0.9}, "floors names 'false_alarms'; it may name image_auroc"),
        (("promotion", "ceilings"), {"image_auroc": 0.9}, "ceilings names 'image_auroc'; it may name false_alarms"),
        (("promotion", "ceilings"), {"misses_lower": 0.9}, "misses_lower"),
    ],
)
def test_wrong_value_names_its_key(tmp_path: Path, keys: tuple[str, ...], value: object, names: str):
    with pytest.raises(ParameterError) as error:
        load(broken(tmp_path, *keys, value=value))
    assert names in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_key_is_named_and_never_defaulted(tmp_path: Path):
    tree = effective(ROOT / "params.yaml").tree
    for section in ("protocol", "synthesis", "model", "loss", "train", "tune", "promotion", "serving", "watching"):
        for key in tree[section]:
            with pytest.raises(ParameterError, match=rf"{section}\.{key}.*missing"):
                load(broken(tmp_path, section, key, remove=True))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("loss.negatives", "loss.likelihood_margin"),
        ("loss.surroundings", "loss.near_anomaly_normals"),
        ("train.reports", "train.eval_points"),
        ("train.keep_reports", "train.keep_eval_weights"),
    ],
)
def test_renamed_key_names_its_successor(tmp_path: Path, old: str, new: str):
    section, name = old.split(".")
    with pytest.raises(ParameterError, match=rf"'{old}' is now '{new}'"):
        load(broken(tmp_path, section, name, value=1))
    space = {old: {"choice": [1, 2]}}
    with pytest.raises(ParameterError, match=rf"'{old}', which is now '{new}'"):
        load(broken(tmp_path, "tune", "space", value=space))


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (("benchmark", "seeds"), [], "it must list at least 1 (got [])"),
        (("benchmark", "name"), 3, "it must be text (got 3)"),
        (("data", "btad", "categories"), ["../x"], "only letters, digits and _ are allowed"),
        (("variants",), {"a b": {}}, "only letters, digits and _ are allowed"),
        (("train", "steps"), 0, "it must be at least 1 (got 0)"),
        (("train", "steps"), 3.5, "it must be a whole number (got 3.5)"),
        (("train", "steps"), "many", "it must be a whole number (got 'many')"),
        (("train", "learning_rate"), "0.01", "it must be a number (got '0.01')"),
        (("train", "learning_rate"), 0, "it must be above 0.0 (got 0)"),
        (("train", "bfloat16"), 1, "it must be true or false (got 1)"),
        (("model", "coupling"), "afine", "it must be 'additive' or 'affine' (got 'afine')"),
        (("synthesis", "opacity"), 0.1, "it must be a list (got 0.1)"),
        (("synthesis", "opacity"), [0.1, 0.2, 0.3], "it may list at most 2"),
        (("loss", "contrast"), float("nan"), "it must be a finite number"),
        (("protocol", "image_size"), 100, "it must be a multiple of 32 (got 100)"),
        (("protocol", "holdout"), 0.9, "it must be at most 0.5 (got 0.9)"),
        (("protocol", "mask_threshold"), 1, "it must be below 1.0 (got 1)"),
        (("train",), 3, "it must be a section with keys of its own (got 3)"),
        (("data",), [], "it must be a mapping (got [])"),
    ],
)
def test_reason_is_in_our_words(tmp_path: Path, keys: tuple[str, ...], value: object, reason: str):
    with pytest.raises(ParameterError) as caught:
        load(broken(tmp_path, *keys, value=value))
    assert f"is not valid: {reason}" in str(caught.value)


def test_missing_and_malformed_files_are_one_sentence(tmp_path: Path):
    with pytest.raises(ParameterError, match="does not exist"):
        load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1, 2")
    with pytest.raises(ParameterError, match="not valid YAML"):
        load(tmp_path / "params.yaml")


def test_override_changes_its_category_only(tmp_path: Path):
    params = load(broken(tmp_path, "overrides", value={"btad/01": {"train": {"steps": 777}}}))
    assert params.for_category("btad", "01").train.steps == 777
    assert params.for_category("btad", "01").train.warmup == params.train.warmup
    assert params.for_category("btad", "02") == params


def test_tuned_parameters_are_those_of_methods_that_say_so(tmp_path: Path):
    tree = effective(ROOT / "params.yaml").tree
    tree["benchmark"]["methods"] = ["clflow", "clflow-tuned"]
    tree["tuned"] = "tuned/found.yaml"
    tree["overrides"] = {"btad/02": {"train": {"steps": 9999}}}
    found = {
        "search": {"trials": 3},
        "parameters": {"train": {"steps": 555}, "loss": {"contrast": 0.3}},
        "overrides": {"btad/01": {"train": {"steps": 777}}},
    }
    (tmp_path / "tuned").mkdir()
    write_params(tmp_path / "tuned" / "found.yaml", found)
    params = load(write_params(tmp_path / "params.yaml", tree))
    steps = {
        (category, method): params.for_category("btad", category, method).train.steps
        for category in ("01", "02", "03")
        for method in ("clflow", "clflow-tuned")
    }
    plain = tree["train"]["steps"]
    assert steps == {
        **{("01", "clflow"): plain, ("02", "clflow"): 9999, ("03", "clflow"): plain},
        **{("01", "clflow-tuned"): 777, ("02", "clflow-tuned"): 9999, ("03", "clflow-tuned"): 555},
    }
    assert params.for_category("btad", "01", "clflow-tuned").loss.contrast == 0.3
    alone = [category for category in ("01", "02", "03") if params.is_tuned_alone("btad", category, "clflow-tuned")]
    assert alone == ["01", "02"]
    assert not params.is_tuned_alone("btad", "01", "clflow")
    assert Params.model_validate_json(params.model_dump_json()) == params


def test_variants_change_the_methods_that_name_them(tmp_path: Path):
    path = broken(tmp_path, "variants", value={"plain": {"loss": {"contrast": 0.0}}})
    params = load(path)
    assert params.loss.contrast > 0
    assert params.for_category("mvtec_ad", "bottle", "clflow").loss == params.loss
    assert params.for_category("mvtec_ad", "bottle", "clflow.plain").loss.contrast == 0


def test_variant_that_nobody_described_is_refused(tmp_path: Path):
    with pytest.raises(ParameterError, match=r"'clflow\.plain'.*'plain'"):
        load(broken(tmp_path, "benchmark", "methods", value=["clflow.plain"]))


def test_ablation_differs_from_the_real_benchmark_in_its_methods_alone():
    real, ablation = (load(ROOT / "reports" / "real" / name) for name in ("params.yaml", "ablation.yaml"))
    train = ablation.train.model_copy(
        update={"keep_eval_weights": real.train.keep_eval_weights}
    )  # what is kept trains nothing
    same = {"benchmark": real.benchmark, "variants": real.variants, "train": train}
    assert ablation.model_copy(update=same) == real
    assert ablation.benchmark.seeds == real.benchmark.seeds
    assert {f"clflow.{name}" for name in ablation.variants} < set(ablation.benchmark.methods)
