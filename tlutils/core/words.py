"""Words for numbers of things, the first of many, what differs, thresholds, and refusals."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def some(items: Iterable[str]) -> str:
    """Name the first three of things.

    Parameters
    ----------
    items : iterable of str

    Returns
    -------
    str

    Examples
    --------
    >>> some("ab"), some("abcde")
    ('a, b', 'a, b, c and 2 more')
    """
    items = list(items)
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Name what a misspelt name may stand for.

    Parameters
    ----------
    name : str
    names : iterable of str, those there are

    Returns
    -------
    str, "" where none is like it

    Examples
    --------
    >>> did_you_mean("blurred", ["dark", "blur"]), did_you_mean("x", ["dark", "blur"])
    (' (did you mean blur?)', '')
    >>> did_you_mean("image_size", ["resize", "size"])
    ' (did you mean size?)'
    """
    names = list(names)
    close = difflib.get_close_matches(name, names, 1, 0.8)
    close += [part for part in name.split("_") if part in names]
    close += difflib.get_close_matches(name, names, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def threshold_as_text(threshold: float) -> str:
    """Write a threshold with three decimals, and with more where these would be 0 or 1.

    Parameters
    ----------
    threshold : float

    Returns
    -------
    str

    Examples
    --------
    >>> threshold_as_text(0.25), threshold_as_text(0.00031), threshold_as_text(0.99983)
    ('0.250', '0.00031', '0.99983')
    """
    return f"{threshold:.3f}" if 0.0005 <= threshold < 0.9995 else f"{threshold:.9g}"


def answered_from(positive: str, threshold: float, of: str | None) -> str:
    """Say from which probability on a class is answered.

    Parameters
    ----------
    positive : str, the class
    threshold : float, among the probabilities that are shown
    of : str or None, what it is the threshold of, such as an adaptation; None leaves that out

    Returns
    -------
    str

    Examples
    --------
    >>> answered_from("PNEUMONIA", 0.25, "the run")
    'PNEUMONIA is answered from a probability of 0.250 on. That is the threshold of the run.'
    """
    sentence = f"{positive} is answered from a probability of {threshold_as_text(threshold)} on."
    if threshold > 1:
        sentence = f"{positive} is never answered, as the threshold is above 1."
    return f"{sentence} That is the threshold of {of}." if of else sentence


def differences(then: dict, now: dict) -> list[str]:
    r"""Say in which values something that is kept in a folder differs from what is requested.

    Parameters
    ----------
    then : dict, what is kept
    now : dict, what is requested; other names do not count, but in a dict inside these all do

    Returns
    -------
    list of str

    Examples
    --------
    >>> differences({"size": 64, "view": {"flip": 0.5}}, {"size": 64, "view": {"flip": 0}})
    ['view.flip: 0.5 in the folder, 0 requested']
    >>> print(*differences({"patient": None}, {"patient": r"(\d+)_"}))
    patient: None in the folder, '(\d+)_' requested
    """
    found = []
    for name, new in now.items():
        old = then.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            inside = differences(old, {**dict.fromkeys(old), **new})
            found += [f"{name}.{one}" for one in inside]
        elif old != new:
            found.append(f"{name}: {quoted(old)} in the folder, {quoted(new)} requested")
    return found


def quoted(value: object) -> str:
    r"""Write a value as it can be copied to a command line: a text in quotes, as it is.

    Parameters
    ----------
    value : object

    Returns
    -------
    str

    Examples
    --------
    >>> print(quoted(r"(?P<patient>\d+)_"), quoted(0.5))
    '(?P<patient>\d+)_' 0.5
    """
    return f"'{value}'" if isinstance(value, str) else repr(value)


def refusal(where: object, found: str, expected: str, todo: str) -> ValueError:
    """Make the error that says what is wrong with something, and what to do.

    Parameters
    ----------
    where : object, such as the path of a file
    found, expected, todo : str

    Returns
    -------
    ValueError, to be raised.

    Examples
    --------
    >>> print(refusal("list.csv", "no row", "one for each image", "list the images in it"))
    found no row in list.csv; expected one for each image; list the images in it
    """
    return ValueError(f"found {found} in {where}; expected {expected}; {todo}")
