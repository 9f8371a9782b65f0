"""Histories written down by hand, one call a line."""

from dataclasses import replace

from pinfold.sim.checkers.history import History, Kind, Operation, Outcome, Page


class Story:
    """Collects operations on bucket `b`; times are whole numbers chosen by the test."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.pages: list[Page] = []

    def does(
        self,
        began: float,
        ended: float | None,
        kind: Kind,
        name: str = "k",
        value: str | None = None,
        *,
        condition: str | None = None,
        outcome: Outcome = "ok",
        error: str = "",
        source: str | None = None,
        upload: str = "",
        user: str = "",
        part: int = 0,
        parts: tuple[tuple[int, str], ...] = (),
    ) -> "Story":
        self.operations.append(
            Operation(
                id=len(self.operations),
                client=f"c{len(self.operations)}",
                kind=kind,
                bucket="b",
                name=name,
                value=value,
                condition=condition,
                source=None if source is None else ("b", source),
                upload=upload,
                user=user,
                part=part,
                parts=parts,
                began=began,
                ended=ended,
                outcome=outcome,
                error=error,
            )
        )
        return self

    def maybe(
        self,
        began: float,
        kind: Kind,
        name: str = "k",
        value: str | None = None,
        *,
        condition: str | None = None,
        source: str | None = None,
        upload: str = "",
    ) -> "Story":
        """An operation of unknown outcome whose client gave up at once."""
        self.does(
            began,
            began + 0.5,
            kind,
            name,
            value,
            condition=condition,
            source=source,
            upload=upload,
            outcome="unknown",
            error="unavailable",
        )
        return self

    def no(
        self,
        began: float,
        ended: float,
        kind: Kind,
        error: str = "conflict",
        *,
        name: str = "k",
        value: str | None = None,
        condition: str | None = None,
        upload: str = "",
    ) -> "Story":
        """An operation that was refused."""
        return self.does(
            began,
            ended,
            kind,
            name,
            value,
            condition=condition,
            upload=upload,
            outcome="refused",
            error=error,
        )

    def lists(self, began: float, ended: float, *names: str, **wish: object) -> "Story":
        """A page; `name=token` where the token was looked at."""
        shown = tuple((name, token or None) for name, _, token in (n.partition("=") for n in names))
        page = Page(
            id=len(self.pages), client="lister", bucket="b", names=shown, began=began, ended=ended
        )
        self.pages.append(replace(page, **wish))  # type: ignore[arg-type]
        return self

    def history(self) -> History:
        ordered = sorted(self.operations, key=lambda operation: operation.began)
        return History(operations=tuple(ordered), pages=tuple(self.pages))
