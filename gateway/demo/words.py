"""Word lists kept as paragraphs, which read better than a column of quotes."""


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def names(text: str) -> tuple[str, ...]:
    """Split at commas; a name may hold spaces, and may be broken over two lines."""
    return tuple(" ".join(name.split()) for name in text.split(","))
