"""A finished run in, a page on this machine out that answers the images one drops on it.

    answers  the run held in memory: from the bytes of an image to its answer as a plain dict
    server   the page around it: who may ask, how much, one after the other

`python -m tlutils serve RUN` starts it. The page itself lies in static/.

Notebooks: none.
"""
