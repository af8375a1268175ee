"""A finished run in, one HTML page for a colleague out: pictures inside, no script, no network.

    page     the page, from the run's small files and the pictures of its worst errors
    facts    what the run was, in words: its result, recipe, command, versions
    caveats  what the result does not say, computed from the facts of the run
    html     small builders of HTML that escape everything; needs nothing of the library

`python -m tlutils report RUN` writes it.

Notebooks: 09.
"""
