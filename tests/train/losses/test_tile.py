"""The search for a row's largest logits, by groups, against a full sort."""

from __future__ import annotations

import pytest
import torch

from nopsd.train.losses.tile import MEMBERS, largest, overlap


@pytest.mark.parametrize("size", [5, 16, 1000, MEMBERS * 33, MEMBERS * 33 + 1, MEMBERS * 50 + 127])
@pytest.mark.parametrize("ties", [False, True])
def test_the_largest_are_those_of_a_full_sort(size: int, ties: bool):
    """All in one group, or in the rest after the groups, too: an id missed would understate the overlap."""
    generator = torch.Generator().manual_seed(size)
    rows = torch.randn(6, size, generator=generator)
    if ties:
        rows = rows.mul(3).round()
    rows[0, -9:] += 50
    rows[1, :9] += 50
    rows[2, :: max(1, size // MEMBERS)] += 50
    found = largest(rows)
    assert torch.equal(found.values, rows.sort(-1, descending=True).values[:, :16])
    assert torch.equal(rows.gather(1, found.ids), found.values)
    assert all(len(set(ids)) == len(ids) for ids in found.ids.tolist())


def test_overlap_counts_common_ids_and_each_sides_mass_on_them():
    masses = torch.tensor([[0.5, 0.25, 0.125]]), torch.tensor([[0.4, 0.3, 0.2]])
    found = overlap(torch.tensor([[7, 1, 3]]), torch.tensor([[3, 9, 7]]), *(m.log() for m in masses))
    wanted = {"top16_overlap": 2 / 3, "top16_student_mass": 0.625, "top16_teacher_mass": 0.6}
    assert {name: pytest.approx(value.item()) for name, value in found.items()} == wanted
