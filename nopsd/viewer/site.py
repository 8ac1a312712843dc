"""The pages of some runs: which there are, and what each is made of. In: a page's name and query. Out: HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nopsd.config import Config
from nopsd.errors import UserError
from nopsd.run.stage import Stages
from nopsd.viewer.pages import compare, overview, questions, rollouts, training
from nopsd.viewer.query import Query
from nopsd.viewer.render import link, render
from nopsd.viewer.source import Source, titles

NAVIGATION = {
    "overview": "Overview",
    "training": "Training",
    "rollouts": "Rollouts",
    "questions": "Questions",
    "compare": "Compare",
}
WITHIN = {"response": "rollouts", "question": "questions"}  # pages without an entry of their own


@dataclass(frozen=True)
class Site:
    """Pages over runs. `stages`: the order in which a run's are listed."""

    sources: Sequence[Source]
    stages: Stages
    link: Callable[..., str] = link

    @classmethod
    def of(cls, configs: Sequence[Config], stages: Stages) -> Site:
        """Of runs that have these configurations."""
        names = titles([Path(config.run_dir) for config in configs])
        return cls([Source(i, name, config) for i, (name, config) in enumerate(zip(names, configs))], stages)

    def warm(self) -> None:
        """Read what the runs' tables need."""
        for source in self.sources:
            source.warm()

    def has(self, page: str) -> bool:
        """Whether there is such a page."""
        return page in NAVIGATION or page in WITHIN

    def page(self, page: str, parameters: Mapping[str, str]) -> str:
        """A page's HTML. UserError for a query that can't be meant, or a damaged file."""
        query = Query(parameters)
        source = self._source(query)
        content = self.content(page, source, query)
        running = page in ("overview", "training") and any(card_is_live(s) for s in self.sources)
        return render(
            page,
            content=content,
            source=source,
            sources=self.sources,
            query=query.values,
            page=page,
            tab=WITHIN.get(page, page),
            navigation=NAVIGATION,
            live=running,
            exported=False,
            link=self.link,
        )

    def content(self, page: str, source: Source, query: Query) -> Any:
        """What the page's template shows."""
        if page == "overview":
            return overview.cards(self.sources, self.stages)
        if page == "training":
            return training.curves(self._overlaid(query), query, self.link)
        if page == "compare":
            return compare.page(self.sources, query)
        made: Mapping[str, Callable[[Source, Query], dict[str, Any]]] = {
            "rollouts": rollouts.table,
            "response": rollouts.response,
            "questions": questions.table,
            "question": questions.one,
        }
        return made[page](source, query)

    def _source(self, query: Query) -> Source:
        number = query.whole("run", 0) or 0
        if number >= len(self.sources):
            raise UserError(f"run={number}: there are {len(self.sources)} runs, counted from 0")
        return self.sources[number]

    def _overlaid(self, query: Query) -> list[Source]:
        """The runs whose curves are shown: all, but for those that the query hides."""
        hidden = {part for part in query.text("hide").split(",") if part}
        return [s for s in self.sources if str(s.number) not in hidden] or list(self.sources)


def card_is_live(source: Source) -> bool:
    """Whether the run may still write: its report, the last stage, is not sealed."""
    from nopsd.run.folder import REPORT

    return source.run.manifest(REPORT) is None
