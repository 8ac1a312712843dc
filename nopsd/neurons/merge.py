"""What several ranks found of the same rows, cut as if one had found it all (SPEC §13.2, §13.3).

In: each rank's `Entries` of the same numbered rows, with keys that no two ranks share. Out: this rank's part of each
row's n greatest by (-score, key), exact and the same for both searches:
* `bisect`: scores as order-preserving uint32; the n-th value of all rows at once, bit by bit, by 32 sums of counts:
  32*4*rows bytes a rank. Ties that don't all fit (known to every rank from the counts) go to the lowest keys: one
  exchange of their numbers (4 bytes a tied row) where a rank's keys all precede the next rank's, else a second
  search over keys, of 4 bytes a tied row and bit of the greatest key.
* `gather`: every rank's candidates on every rank, padded to the longest: 4*rows + 8*E bytes (12*E with keys beyond
  int32). Cut them to n a row first.
All functions are collective. Traffic goes by the name of `ranks`, that of ties by "<name> ties".
"""

from __future__ import annotations

import torch

from nopsd.engine.counting import CountingRanks
from nopsd.neurons.entries import Entries

_SIGN, _ALL = 1 << 31, (1 << 32) - 1


def keep_top(
    entries: Entries, n: int, rows: int, limit: int, ranks: CountingRanks, search: str, ordered: bool
) -> Entries:
    """This rank's entries that are among the n greatest of all ranks' in their row; ties to the lower key.

    `rows`: how many rows there are, on every rank; `limit`: greater than every key, and rows * limit < 2^63.
    `ordered`: the keys of a row on a rank are below those on the next rank.
    """
    cut = _by_gathering if search == "gather" else _by_bisection
    return entries.pick(cut(entries, n, rows, limit, ranks, ordered))


def gather_entries(entries: Entries, rows: int, limit: int, ranks: CountingRanks) -> list[Entries]:
    """All ranks' entries, by rank and in ascending order of row: 4*rows + 8*E bytes, E the longest rank's.

    With `limit` beyond int32 12*E.
    """
    order = torch.sort(entries.rows, stable=True).indices
    sizes = ranks.gather(entries.sizes(rows).int())
    longest = max(int(s.sum()) for s in sizes)
    key_dtype = torch.int32 if limit <= _SIGN else torch.int64
    keys = ranks.gather(_padded(entries.keys[order].to(key_dtype), longest))
    scores = ranks.gather(_padded(entries.scores[order], longest))
    numbers = torch.arange(rows, device=entries.rows.device)
    owned = [numbers.repeat_interleave(s.long()) for s in sizes]
    return [Entries(r, k[: len(r)].long(), s[: len(r)]) for r, k, s in zip(owned, keys, scores)]


def levels(scores: torch.Tensor) -> torch.Tensor:
    """Scores as int64 in [0, 2^32) that order as they do, both zeros being one."""
    bits = (scores + 0.0).view(torch.int32).long() & _ALL
    return torch.where(bits >= _SIGN, bits ^ _ALL, bits | _SIGN)


def _by_bisection(entries: Entries, n: int, rows: int, limit: int, ranks: CountingRanks, ordered: bool) -> torch.Tensor:
    level = levels(entries.scores)
    least, above, enough = _nth_level(entries.rows, level, n, rows, ranks)
    crowded = enough > n  # of these rows not all ties fit
    level_least = least[entries.rows]
    tied = level == level_least
    kept = (level > level_least) | (tied & ~crowded[entries.rows])
    if bool(crowded.any()):
        among = (tied & crowded[entries.rows]).nonzero().flatten()
        number = (crowded.cumsum(0) - 1)[entries.rows[among]]
        lowest = _lowest_by_rank if ordered else _lowest_by_search
        room = (n - above)[crowded]
        kept[among] = lowest(Entries(number, entries.keys[among], entries.scores[among]), room, limit, ranks)
    return kept


def _nth_level(
    row: torch.Tensor, level: torch.Tensor, n: int, rows: int, ranks: CountingRanks
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """By row the n-th greatest level (0 in shorter rows), how many are above it, and how many at or above it.

    The last is 0 in rows with fewer than n, which are kept whole.
    """
    sorted_, start = _sorted_rows(row, _ALL - level, _ALL + 1, rows)
    base = torch.arange(rows, device=row.device) * (_ALL + 1)
    least = torch.zeros(rows, dtype=torch.int64, device=row.device)
    above, enough = torch.zeros_like(least), torch.zeros_like(least)
    for bit in reversed(range(32)):
        asked = least | (1 << bit)
        found = torch.searchsorted(sorted_, base + (_ALL - asked), right=True) - start
        total = ranks.all_sum(found.int()).long()
        reached = total >= n
        least, enough = torch.where(reached, asked, least), torch.where(reached, total, enough)
        above = torch.where(reached, above, total)
    return least, above, enough


def _lowest_by_rank(ties: Entries, room: torch.Tensor, limit: int, ranks: CountingRanks) -> torch.Tensor:
    """Mask of the ties with the `room` lowest keys of their row, where ranks' keys follow one another."""
    counts = ranks.named(f"{ranks.name} ties").gather(ties.sizes(len(room)).int())
    before = sum((c.long() for c in counts[: ranks.rank]), torch.zeros_like(room))
    sorted_, start = _sorted_rows(ties.rows, ties.keys, limit, len(room))
    place = torch.searchsorted(sorted_, ties.rows * limit + ties.keys) - start[ties.rows]
    return place < (room - before)[ties.rows]


def _lowest_by_search(ties: Entries, room: torch.Tensor, limit: int, ranks: CountingRanks) -> torch.Tensor:
    """As `_lowest_by_rank`, for any keys: the greatest bound with at most `room` keys below it, bit by bit."""
    sorted_, start = _sorted_rows(ties.rows, ties.keys, limit, len(room))
    base = torch.arange(len(room), device=room.device) * limit
    bound = torch.zeros_like(room)
    for bit in reversed(range((limit - 1).bit_length())):
        asked = bound | (1 << bit)
        found = torch.searchsorted(sorted_, base + asked.clamp(max=limit)) - start
        total = ranks.named(f"{ranks.name} ties").all_sum(found.int()).long()
        bound = torch.where(total <= room, asked, bound)
    return ties.keys < bound[ties.rows]


def _by_gathering(entries: Entries, n: int, rows: int, limit: int, ranks: CountingRanks, ordered: bool) -> torch.Tensor:
    parts = gather_entries(entries, rows, limit, ranks)
    row = torch.cat([p.rows for p in parts])
    key = torch.cat([p.keys for p in parts])
    by_key = torch.argsort(row * limit + key)
    level = _ALL - levels(torch.cat([p.scores for p in parts]))
    by_score = torch.sort((row * (_ALL + 1) + level)[by_key], stable=True).indices
    order = by_key[by_score]  # by (row, -score, key)
    start = torch.searchsorted(row[order], torch.arange(rows, device=row.device))
    chosen = order[torch.arange(len(order), device=row.device) - start[row[order]] < n]
    kept = torch.sort((row * limit + key)[chosen]).values
    own = entries.rows * limit + entries.keys
    place = torch.searchsorted(kept, own).clamp(max=max(len(kept) - 1, 0))
    return kept[place] == own if len(kept) else torch.zeros(len(own), dtype=torch.bool, device=own.device)


def _sorted_rows(row: torch.Tensor, value: torch.Tensor, limit: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """row * limit + value in ascending order, and where each row starts."""
    sorted_ = torch.sort(row * limit + value).values
    return sorted_, torch.searchsorted(sorted_, torch.arange(rows, device=row.device) * limit)


def _padded(values: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, length - len(values)))
