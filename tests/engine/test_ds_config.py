"""`load_ds_config` fills "auto", and refuses a file that says something else than the main config."""

import json

import pytest

from nopsd.engine.ds_config import RunSettings, load_ds_config, zero_stage
from nopsd.errors import ConfigError

BASE = {"zero_optimization": {"stage": 3}, "gradient_clipping": "auto", "_why": "a comment"}


def load(tmp_path, extra=None, role="student"):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({**BASE, **(extra or {})}))
    return load_ds_config(str(path), role, "cpu", RunSettings(4, 0.5, "bfloat16", accumulation=2))


def test_autos_are_filled_and_comments_dropped(tmp_path):
    config = load(tmp_path, {"train_micro_batch_size_per_gpu": "auto", "bf16": {"enabled": "auto"}})
    assert config == {
        "zero_optimization": {"stage": 3},
        "gradient_clipping": 0.5,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "bf16": {"enabled": True},
    }
    assert zero_stage(config) == 3


@pytest.mark.parametrize(
    "extra, named",
    [
        ({"train_micro_batch_size_per_gpu": 8}, "train.micro"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps"),
        ({"gradient_clipping": 1.0}, "train.clip"),
        ({"bf16": {"enabled": False}}, "model.dtype"),
        ({"fp16": {"enabled": True}}, "model.dtype"),
    ],
)
def test_contradictions_name_file_and_key(tmp_path, extra, named):
    """Else DeepSpeed would train with other settings than the run's config states."""
    with pytest.raises(ConfigError, match=r"ds\.json") as caught:
        load(tmp_path, extra)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_a_teacher_has_no_optimizer_and_no_clipping(tmp_path):
    assert "gradient_clipping" not in load(tmp_path, role="teacher")
    with pytest.raises(ConfigError, match="optimizer: a frozen teacher has none"):
        load(tmp_path, {"optimizer": {"type": "AdamW"}}, role="teacher")


def test_unfilled_auto_missing_file_and_damaged_json(tmp_path):
    with pytest.raises(ConfigError, match='zero_optimization.reduce_bucket_size="auto"'):
        load(tmp_path, {"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}})
    with pytest.raises(ConfigError, match="does not exist"):
        load_ds_config(str(tmp_path / "no.json"), "student", "cpu", RunSettings(1, 1.0, "float32"))
    (tmp_path / "bad.json").write_text('{"a": 1,\n nonsense}')
    with pytest.raises(ConfigError, match=r"bad\.json: line 2 is not JSON"):
        load_ds_config(str(tmp_path / "bad.json"), "student", "cpu", RunSettings(1, 1.0, "float32"))


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("device, dtype", [("cpu", "float32"), ("gpu", "bfloat16"), ("gpu", "float32")])
def test_the_shipped_files_are_found_and_filled(role, device, dtype):
    config = load_ds_config(None, role, device, RunSettings(3, 1.0, dtype, accumulation=2))
    assert config["train_micro_batch_size_per_gpu"] == 3 and zero_stage(config) == 3
    assert config["bf16"]["enabled"] == (dtype == "bfloat16")
