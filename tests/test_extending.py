"""The files of docs/extending.md, as a user copies them: each is found by its key and does what the page says."""

import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nopsd.config import METHODS, DistillConfig, load_config
from nopsd.data.answers import extract_answer
from nopsd.data.majority import majority
from nopsd.data.reading import AnswerReader, answer_reader
from nopsd.data.records import Question
from nopsd.data.sources import load_answer_key, load_splits
from nopsd.errors import ConfigError
from nopsd.files import read_jsonl
from nopsd.neurons.adapters import find_sites, watch
from nopsd.neurons.adapters.find import find_adapter
from nopsd.plugins import source_hashes
from nopsd.rollout.types import Rollout
from nopsd.train.losses.fused_linear import DistillInputs, fused_linear_divergence
from nopsd.train.losses.support import find_divergence
from tests import command

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
FILES = dict(re.findall(r"^<!-- file: (\S+) -->\n```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder a user starts in, with the page's files; their modules are forgotten afterwards."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
    sys.path[:] = [p for p in sys.path if p != str(tmp_path)]


def test_the_page_has_a_file_for_each_kind():
    assert set(FILES) == {f"my_{kind}.py" for kind in ("selector", "data", "family", "loss", "method", "judge")}
    assert all(len(text.splitlines()) <= 35 for text in FILES.values())


def test_a_data_set(folder):
    """Breaks if a user's data set isn't split like ours, or its answers reach the pool."""
    (folder / "capitals.csv").write_text("".join(f"Country {n},Capital {n}\n" for n in range(40)))
    given = ["data.name=my_data:capitals", "data.path=capitals.csv", "data.domain=geography"]
    config = load_config("lab", given).data
    splits, key = load_splits(config), load_answer_key(config)
    assert (len(splits.pool), len(splits.tests["geography"]), len(key)) == (36, 4, 40)
    assert key["Country 7"] == "Capital 7" and "Capital" not in repr(splits)


def test_a_model_family():
    """Breaks if an adapter of a user's own isn't asked, or its neurons' values aren't those of the forward pass."""

    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.w_in, self.w_out = nn.Linear(4, 6), nn.Linear(6, 4, bias=False)

        def forward(self, x):
            return self.w_out(torch.relu(self.w_in(x)))

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = Mlp()

        def forward(self, hidden_states):
            return hidden_states + self.mlp(hidden_states)

    decoder = SimpleNamespace(layers=nn.ModuleList([Layer(), Layer()]))
    head = nn.Linear(4, 5, bias=False)
    model = SimpleNamespace(get_output_embeddings=lambda: head, get_decoder=lambda: decoder)
    with pytest.raises(Exception, match="set model.mlp_adapter to an adapter of yours"):
        find_sites(model)
    sites, seen, states = find_sites(model, "my_family:match"), [], torch.randn(2, 3, 4)
    assert sites.widths == (6, 6)
    with watch(sites, "act_fn", lambda activity: seen.append(activity.blocks[0].values(slice(0, 6)))):
        decoder.layers[1](decoder.layers[0](states))
    assert torch.equal(seen[0], torch.relu(decoder.layers[0].mlp.w_in(states)).reshape(6, 6))


def test_a_loss():
    """Breaks if the tiled loss and its gradient aren't those of the user's function on whole log-probabilities."""
    config = DistillConfig(divergence="my_loss:skewed_reverse_kl", logit_chunk=3)
    torch.manual_seed(0)
    hidden, teacher = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    weight, weights = torch.randn(11, 5, dtype=torch.float64), torch.rand(7, dtype=torch.float64)
    results = []
    for fused in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if fused:
            loss = fused_linear_divergence(h, w, DistillInputs(teacher, weight, weights), config).loss
        else:
            log_p, log_q = (h @ w.T).log_softmax(-1), (teacher @ weight.T).log_softmax(-1)
            mixture = (0.9 * log_q.exp() + 0.1 * log_p.exp()).log()
            loss = weights @ (log_p.exp() * (log_p - mixture)).sum(-1)
        loss.backward()
        results.append((loss.detach(), h.grad, w.grad))
    for fused, plain in zip(*results):
        torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-12)
    bounded = find_divergence("my_loss:skewed_reverse_kl")(torch.tensor([[0.0, -50.0]]), torch.tensor([[-50.0, 0.0]]))
    assert float(bounded) <= math.log(10) + 1e-6


def test_a_loss_is_refused_where_it_has_no_meaning():
    own = "distill.divergence=my_loss:skewed_reverse_kl"
    with pytest.raises(ConfigError, match="distill.support=topk has no meaning for distill.divergence=my_loss"):
        load_config("lab", [own, "distill.support=topk"])
    with pytest.raises(ConfigError, match="distill.kernel=numba has no code for distill.divergence=my_loss"):
        load_config("lab", [own, "distill.kernel=numba"])


def test_a_method():
    """Breaks if a method of a user's own has not its defaults, or prepares something else than what it says."""
    config = load_config("lab", ["method=my_method:METHOD"])
    assert (config.zero_shot.n, config.context.retriever, config.train.epochs) == (4, "none", 1)
    assert load_config("lab", ["method=my_method:METHOD", "zero_shot.n=6"]).zero_shot.n == 6
    with pytest.raises(ConfigError, match="distill.beta=0.4 has no meaning for method=my_method:METHOD"):
        load_config("lab", ["method=my_method:METHOD", "distill.beta=0.4"])
    question = Question("q", "d", "s", "How many?")
    texts = ["It is <answer>7</answer>", "Well, well: <answer>7</answer>", "<answer>8</answer>"]
    rollouts = [rollout("q", n, text) for n, text in enumerate(texts)]
    run = SimpleNamespace(selection=lambda: SimpleNamespace(uids=["q"]))
    session = SimpleNamespace(
        run=run, rollouts=rollouts, questions={"q": question}, reader=AnswerReader(), config=load_config("lab")
    )
    uids, algorithm, facts = METHODS["my_method:METHOD"].prepare(session)
    assert uids == ["q"] and algorithm.responses == {"q": [rollouts[0].response_ids]}
    assert facts["voted_questions"] == 1


def rollout(uid: str, sample: int, text: str) -> Rollout:
    return Rollout(
        uid=uid,
        sample=sample,
        prompt_ids=[1],
        response_ids=list(range(len(text))),
        logprobs=None,
        text=text,
        finish_reason="stop",
        policy_version=0,
    )


def test_an_answer_judge():
    """One judge for votes and evaluation: two ways to write a length win a vote together."""
    question = Question("q", "d", "s", "How long?")
    reader = answer_reader(load_config("lab", ["answer.judge=my_judge:length"]))
    said = "<think>5 m</think>It is 1.2 km long."
    assert reader.same(question)(reader.read_text(said, question), reader.gold("1,200 m", question))
    assert reader.read_text("None at all", question) is None
    rollouts = [rollout("q", i, f"{length} of them") for i, length in enumerate(("3 m", "1.2 km", "1200 m"))]
    assert majority(reader.answers(rollouts, question))[1] == 2


def test_a_reader_of_the_evaluations_own(folder):
    (folder / "my_reader.py").write_text("def last_word(text, question):\n    return text.split()[-1]\n")
    question, mode = Question("q", "d", "s", "Where?"), "my_reader:last_word"
    config = load_config("lab", [f"eval.extract={mode}"])
    assert answer_reader(config, mode).read_text("In Oslo", question) == "Oslo"
    assert answer_reader(config).read_text("In Oslo", question) is None


def test_a_name_that_cannot_be_loaded_is_refused():
    for key in ("method", "eval.extract", "distill.divergence", "answer.judge"):
        with pytest.raises(ConfigError, match="module nowhere can't be imported"):
            config = load_config("lab", [f"{key}=nowhere:thing"])
            extract_answer("x", Question("q", "d", "s", "?"), config.eval.extract)
            answer_reader(config)
            find_divergence(config.distill.divergence)


def test_a_name_without_a_module_is_refused():
    with pytest.raises(ConfigError, match="^model.mlp_adapter=match: Your own is named by its import path"):
        find_adapter("match")


def test_edited_code_is_another_input(folder):
    """Breaks if a stage counts as done after its user's own code has changed."""
    names, groups = {"answer.judge": "my_judge:length"}, {"answer.judge": "nopsd.judges"}
    before = source_hashes(names, groups)
    (folder / "my_judge.py").write_text(FILES["my_judge.py"] + "# edited\n")
    assert list(before) == ["code of answer.judge"] and source_hashes(names, groups) != before
    assert source_hashes({"answer.judge": "numeric"}, groups) == {}


@pytest.mark.soak
@pytest.mark.engine
@pytest.mark.parametrize("own", ["method=my_method:METHOD", "distill.divergence=my_loss:skewed_reverse_kl"])
def test_a_method_and_a_loss_train_on_ranks(own, folder):
    """Breaks if a user's file is found by the command and not by the ranks that DeepSpeed starts for it."""
    done = command.nopsd("train", "--preset", "lab", "run_dir=run", own, *command.SMALL)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = read_jsonl(folder / "run" / "train" / "metrics.jsonl")
    assert len(rows) == 3 and all(math.isfinite(row["loss"]) for row in rows)
    assert (folder / "run" / "train" / "export" / "model.safetensors").is_file()
    if own.startswith("distill"):
        assert all(0 < row["loss"] < row["reverse_kl"] for row in rows), "the mixture lies nearer than the teacher"
