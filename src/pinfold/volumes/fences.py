"""Blocks that no new write may touch for a moment."""


class Fences:
    """Sets of blocks by extent, held by whoever put them up; sets may overlap."""

    def __init__(self) -> None:
        self._masks: dict[int, list[int]] = {}

    def put(self, extent: int, mask: int) -> None:
        """Hold new writes to these blocks."""
        self._masks.setdefault(extent, []).append(mask)

    def lower(self, extent: int, mask: int) -> None:
        """Let them go on, as far as this fence is concerned."""
        masks = self._masks[extent]
        masks.remove(mask)
        if not masks:
            del self._masks[extent]

    def holds(self, extent: int, mask: int) -> int:
        """Those of these blocks that somebody holds, of several who do."""
        for held in self._masks.get(extent, ()):
            if both := held & mask:
                return both
        return 0

    def __bool__(self) -> bool:
        return bool(self._masks)
