"""Numbers as clients write them. Pure."""


def parse_number(text: str, *, most: int) -> int | None:
    """The number that plain ASCII digits stand for; None when it is something else or above `most`.

    `str.isdigit` also takes digits that `int` does not, and `int` takes signs and underscores, and
    raises for thousands of digits.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > 32:
        return None
    number = int(text)
    return number if number <= most else None
