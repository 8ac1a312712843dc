"""`nopsd plan`: if these fail, a user rents GPUs on which the run dies of memory, or for the wrong number of hours."""

import re

import pytest

from nopsd.cli import main
from nopsd.cluster.doctor.memory import PUBLISHED, shape_of
from nopsd.cluster.doctor.scaling import QWEN3, Machine, Work, step_s
from nopsd.config import load_config
from nopsd.errors import ConfigError
from nopsd.run.stage import Counts
from nopsd.tasks.plan import Gpus, Lengths, costs_of, plan, shape_for_work


def hours(text):
    return {row[0]: (float(row[1]), float(row[2])) for row in re.findall(r"^(\w+) .* GiB +(\S+) +(\S+)$", text, re.M)}


def test_what_fits_and_what_it_costs(capsys):
    assert main(["plan", "--preset", "paper/qwen3_8b", "--gpus", "8"]) == 0
    text = capsys.readouterr().out
    assert "student_gpu.json and teacher_gpu.json" in text and "fits: " in text and "assumed, not measured" in text
    found = hours(text)
    assert list(found) == ["rollout", "evaluate_base", "neurons", "train", "evaluate", "all"]
    assert found["all"][0] == pytest.approx(sum(h for name, (h, _) in found.items() if name != "all"), abs=0.03)
    assert all(cost == pytest.approx(8 * h, abs=0.05) for h, cost in found.values())


def test_the_weights_go_to_the_host_where_the_gpu_is_too_small():
    config = load_config("paper/qwen3_32b", ["dist.student_config=null", "dist.teacher_config=null"])
    text, code = plan(config, Gpus(1, 8, 79.0), Lengths())
    assert code == 0 and "student_gpu_offload.json and teacher_gpu_offload.json" in text and "of the host's" in text
    text, code = plan(config, Gpus(4, 8, 139.0), Lengths())
    assert code == 0 and "student_gpu.json and teacher_gpu.json" in text
    text, code = plan(config, Gpus(1, 1, 20.0), Lengths())
    assert code == 1 and "does not fit" in text and "train.lora.r=16" in text


def test_training_takes_the_steps_of_the_scaling_model():
    """By hand for 8B: the model's own step, times 150."""
    config, machine = load_config("paper/qwen3_8b"), Machine()
    folder = PUBLISHED / "Qwen" / "Qwen3-8B"
    shape = shape_for_work(folder, shape_of(str(folder)))
    assert shape.multiplied == QWEN3["Qwen3-8B"].multiplied and shape.tied is False
    costs = {
        cost.stage: cost for cost in costs_of(config, shape, machine, 8, Counts(100, {"a": 10}), Lengths(256, 0.5))
    }
    train = config.train
    work = Work(
        16, 256, config.context.max_prompt, 4096, 8192, train.micro * (10_240 + 8192), train.gradient_checkpointing
    )
    assert costs["train"].seconds == pytest.approx(150 * sum(step_s(shape, machine, work, 8, 8).values()))
    assert costs["evaluate"].tokens == 10 * 8 * (256 + 8192)


def test_what_selection_goes_by_is_paid_for():
    """Else a selector that reads every answer behind its demonstrations costs hours that nobody expects."""
    folder = PUBLISHED / "Qwen" / "Qwen3-8B"
    shape, machine, lengths = shape_for_work(folder, shape_of(str(folder))), Machine(), Lengths(256, 0.5)

    def signals(*settings):
        config = load_config("paper/qwen3_8b", list(settings))
        costs = costs_of(config, shape, machine, 8, Counts(100, {"a": 10}), lengths)
        return {cost.stage: cost for cost in costs}.get("signals")

    assert signals() is None, "the paper's selection needs no further pass"
    config = load_config("paper/qwen3_8b")
    answer, taught = 256 + 0.5 * config.zero_shot.max_new, config.context.max_prompt + 0.5 * config.zero_shot.max_new
    one = signals("select.selector=token_entropy")
    assert one.tokens == 100 * answer and one.seconds > 0
    two = signals("select.selector=teacher_shift")
    assert two.tokens == 100 * (answer + taught) and two.seconds > one.seconds
    shown = signals("select.selector=belief_shift", "zero_shot.n=2")
    assert shown.tokens == 100 * config.signal.belief_samples * taught


def test_a_mixture_costs_what_its_tokens_meet():
    folder = PUBLISHED / "Qwen" / "Qwen3-30B-A3B"
    shape = shape_for_work(folder, shape_of(str(folder)))
    assert 2.5e9 < shape.multiplied < 3.6e9 and 30e9 < shape.parameters < 31e9


def test_a_model_that_is_not_here_is_named():
    with pytest.raises(ConfigError, match=r"owner/absent: its config.json isn't here: give model.path=FOLDER"):
        plan(load_config("paper/qwen3_8b", ["model.path=owner/absent"]), Gpus(1, 8, 79.0), Lengths())
