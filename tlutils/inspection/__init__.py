"""Where and why a model is wrong: in come a model and predictions, out come scans to look at.

errors       single answers, the worst errors, confused classes, labels to doubt
attribution  maps of what counted for an answer, how far to trust them, and what layers see

Notebooks: 03, 05.
"""
