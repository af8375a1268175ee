"""Transfer learning on medical images, step by step.

From data to a run that is explained, a package for each step, each using only those below it:

    serve         a finished run as a page that answers the images one drops on it
    report        a finished run as one page for a colleague
    runs          an experiment from data to numbers, as a folder of plain files
    inspection    where and why a model is wrong
    training      the loop: early stopping, resume, the frozen part computed once
    evaluation    predictions, and numbers with intervals
    models        a pretrained network with a new head
    data          from a data set's name to batches: records, audit, splits, views
    plots         a table or array in, axes out
    core          devices, files, progress

Nothing here is a medical device.
"""

__version__ = "0.1.0"
