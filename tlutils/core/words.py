"""Numbers of things in words that agree with them."""


def many(n: int, what: str = "image", several: str = "") -> str:
    """Write a number of things.

    Parameters
    ----------
    n : int
    what : str, one of them
    several : str, what more or fewer are called; "" adds an s

    Returns
    -------
    str

    Examples
    --------
    >>> many(1), many(1200, "patient"), many(0, "class", "classes")
    ('1 image', '1,200 patients', '0 classes')
    """
    return f"{n:,} {what if n == 1 else several or what + 's'}"
