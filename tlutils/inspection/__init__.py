"""Where and why a model is wrong: in come a model and predictions, out come scans to look at.

errors       single answers, the worst errors, confused classes, labels to doubt
attribution  maps of what counted for an answer, and how far to trust them

Notebooks: 05.
"""
