"""Where a model is and what it is: if these fail, a run uses other weights than its manifest says."""

import shutil

import pytest

from nopsd.config import ModelConfig
from nopsd.errors import UserError
from nopsd.models import LAB_MODEL, resolve_model


def test_the_hash_follows_config_and_weights_and_not_the_folders_name(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(LAB_MODEL, copy)
    same, lab = resolve_model(ModelConfig(path=str(copy))), resolve_model(ModelConfig(path="lab"))
    assert same.hash == lab.hash and same.window == lab.window and same.path == copy.resolve()
    weights = next(copy.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert resolve_model(ModelConfig(path=str(copy))).hash != lab.hash


@pytest.mark.parametrize(
    ("made", "message"), [([], "no config.json"), (["config.json", "pytorch_model.bin"], "no pickled weights")]
)
def test_a_folder_that_is_no_model_is_named(tmp_path, made, message):
    for name in made:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=message):
        resolve_model(ModelConfig(path=str(tmp_path)))
    with pytest.raises(UserError, match="no such folder, and not a hub id"):
        resolve_model(ModelConfig(path="/nowhere"))
