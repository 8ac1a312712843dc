"""tools/plan_selection.py: its arithmetic against a table by hand, public model sizes, and plain sums."""

from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
KB, MB, GB = 1e3, 1e6, 1e9
# Questions, counts and uids, ids, packed in 19 bits, bitset, selected ids, intersections: bytes by hand, for Qwen3-4B
# (350,208 neurons), K = 5,000 and a fifth selected.
BY_HAND = [
    (1_439, 12 * KB, 28.8 * MB, 17.1 * MB, 63 * MB, 5.7 * MB, 1.7 * MB),
    (2_984, 24 * KB, 59.7 * MB, 35.4 * MB, 131 * MB, 11.9 * MB, 7.1 * MB),
    (5_636, 45 * KB, 112.7 * MB, 66.9 * MB, 247 * MB, 22.5 * MB, 25.4 * MB),
    (9_625, 77 * KB, 192.5 * MB, 114.3 * MB, 421 * MB, 38.5 * MB, 74.1 * MB),
    (100_000, 0.8 * MB, 2.0 * GB, 1.19 * GB, 4.4 * GB, 400 * MB, 8.0 * GB),
]
COLUMNS = ["counts and uids", "ids, gather-all", "ids packed", "bitset", "ids, queries-only", "intersections"]


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import plan_selection

    return plan_selection


@pytest.mark.parametrize("row", BY_HAND, ids=lambda row: str(row[0]))
def test_bytes_are_those_by_hand(plan, row):
    """Users would plan with other numbers than the method's."""
    found = plan.sample_bytes(plan.Job(row[0]), plan.MODELS["Qwen3-4B"].neurons)
    for name, stated in zip(COLUMNS, row[1:]):
        digits = 0.05 if stated < 100 * KB or stated == 1.7 * MB else 0.012  # as many digits as the table has
        assert found[name] == pytest.approx(stated, rel=digits), name


def test_bytes_of_candidates_are_those_by_hand(plan):
    """0.7 MB for 5,636 questions on 8 ranks."""
    model, job = plan.MODELS["Qwen3-4B"], plan.Job(5_636, ranks=8)
    assert plan.sample_bytes(job, model.neurons)["candidates, queries-only"] == pytest.approx(0.7 * MB, rel=0.05)


@pytest.mark.parametrize(
    ("name", "neurons", "billions"),
    [
        ("Qwen3-0.6B", 86_016, 0.44),
        ("Qwen3-1.7B", 172_032, 1.4),
        ("Qwen3-4B", 350_208, 3.6),
        ("Qwen3-8B", 442_368, 6.95),
        ("Qwen3-14B", 696_320, 13.2),
        ("Qwen3-32B", 1_638_400, 31.2),
        ("Qwen3-30B-A3B", 4_718_592, None),
    ],
)
def test_model_sizes_give_the_model_cards_non_embedding_parameters(plan, name, neurons, billions):
    """A mistyped width would spoil every line of the table."""
    assert plan.MODELS[name].neurons == neurons
    if billions:
        assert plan.MODELS[name].active_weights / 1e9 == pytest.approx(billions, rel=0.015)


def test_time_and_memory_are_plain_sums(plan):
    job = plan.Job(1_000_000, ranks=8)
    assert job.selected == 200_000
    model = plan.MODELS["Qwen3-4B"]
    batches = -(-200_000 // plan.plan_blocks(512 << 20, 5_000, 5_000, model.neurons, 2, 13).queries)
    assert 2 < batches < 20
    assert plan.search_seconds(job, model, plan.Speed(100, 50_000), 2, 512) == pytest.approx(
        200_000 * 1_000_000 * 100e-9 / 16 + (200_000 + batches * 125_000) * 50e-6
    )
    assert plan.rank_memory(job, 512) == pytest.approx(
        4 * 5_000 * 125_000 + 2 * 4 * 5_000 * 200_000 + 512 * 2**20 + (64 * 10 + 40 * 10) * 200_000
    )
    assert plan.scoring_seconds(job, model, 2_000, 1e14, 1.35) == pytest.approx(
        2 * model.active_weights * 2_000 * 1e6 * 1.35 / 8e14
    )


def test_the_table_is_printed_from_a_calibration_here(plan, capsys):
    assert plan.main(["--k", "100", "--questions", "1000", "1000000", "--ranks", "1", "4"]) == 0
    printed = capsys.readouterr().out
    assert "ns a pair and thread (measured; " in printed
    assert "1,000,000" in printed and "candidates, queries-only" in printed
