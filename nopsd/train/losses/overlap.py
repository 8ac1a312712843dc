"""Which ids two distributions hold most likely, and how much of it they share.

A row's k largest lie in the k groups whose largest are the largest: any element outside them has k above it. So one
pass over the row finds the groups' maxima, and a full search is left for k groups alone.

In: logits or log-probabilities [n, V]. Out: per token [n].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

OVERLAP_K = 16
MEMBERS = 128  # of a group: every V // MEMBERS-th id


class Top(NamedTuple):
    """The k largest of each row, falling, and their ids; both [n, k]."""

    values: Tensor
    ids: Tensor


def largest(values_nV: Tensor, k: int = OVERLAP_K) -> Top:
    """As `torch.topk`, and the same in every way but for which of equal values is taken."""
    n, size = values_nV.shape
    k, groups = min(k, size), size // MEMBERS
    if groups <= 2 * k:
        return Top(*values_nV.topk(k))
    grouped_nmg = values_nV[:, : groups * MEMBERS].unflatten(1, (MEMBERS, groups))
    chosen_nk = grouped_nmg.amax(1).topk(k).indices
    members_nmk = grouped_nmg.gather(2, chosen_nk[:, None].expand(n, MEMBERS, k))
    rest_nr = values_nV[:, groups * MEMBERS :]
    found = torch.cat([members_nmk.flatten(1), rest_nr], 1).topk(k)
    place_nk = found.indices.clamp_max(MEMBERS * k - 1)
    inside_nk = place_nk // k * groups + chosen_nk.gather(1, place_nk % k)
    outside_nk = found.indices + (groups * MEMBERS - MEMBERS * k)
    return Top(found.values, torch.where(found.indices < MEMBERS * k, inside_nk, outside_nk))


def overlap(
    student_ids_nk: Tensor, teacher_ids_nk: Tensor, student_logp_nk: Tensor, teacher_logp_nk: Tensor
) -> dict[str, Tensor]:
    """Share of common ids among both sides' top ids, and each side's mass on them.

    Args:
        student_ids_nk: Top ids of the student; `teacher_ids_nk` of the teacher.
        student_logp_nk: Their log-probs under the student; `teacher_logp_nk` of the teacher's ids under the teacher.
    """
    shared_nkk = student_ids_nk[:, :, None] == teacher_ids_nk[:, None, :]
    in_teacher, in_student = shared_nkk.any(2), shared_nkk.any(1)
    return {
        "top16_overlap": in_teacher.to(student_logp_nk.dtype).mean(-1),
        "top16_student_mass": (student_logp_nk.exp() * in_teacher).sum(-1),
        "top16_teacher_mass": (teacher_logp_nk.exp() * in_student).sum(-1),
    }
