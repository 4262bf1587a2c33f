"""What the components of a plan lack. Each component is asked once, however many readers want to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchbd.plugins.input_files import missing_files

if TYPE_CHECKING:
    from benchbd.plugins.contract import Attack, Dataset, Defense, Model


class AbsentFiles:
    """The lines in which components say that a file or package is missing.

    Args:
        refuse_mistakes: whether to refuse a plan with mistakes: models and defenses that lack something, which may be a
            network of that name or a program among their files, and data sets that lack nothing and have no sizes.

    Attributes:
        unsized: messages of such data sets.
    """

    def __init__(self, refuse_mistakes: bool = False) -> None:
        self.refuse_mistakes = refuse_mistakes
        self._asked: dict[tuple[str, str], str | None] = {}
        self.unsized: list[str] = []

    def line(self, kind: str, part: str, component: Dataset | Model | Attack | Defense, root: str | None) -> str | None:
        """What a component lacks, or None.

        Args:
            kind: ``dataset``, ``model``, ``attack`` or ``defense``.
            part: the component, as in :class:`benchbd.plugins.part.Part`.
            component: the component itself, which is asked the first time.
            root: folder of the data sets; None is the user's cache.

        Raises:
            UsageError: its ``missing()`` raises, or returns neither a line nor None.
        """
        if (kind, part) not in self._asked:
            self._asked[kind, part] = missing_files(component, root)
        return self._asked[kind, part]

    def lines(self) -> list[str]:
        """The distinct lines so far, then the messages of data sets without sizes."""
        return list(dict.fromkeys([*filter(None, self._asked.values()), *self.unsized]))
