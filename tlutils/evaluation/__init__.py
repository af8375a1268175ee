"""How good a model is: in comes a predictions table, out come numbers with intervals.

predict      a model and a loader to the predictions table; the one module here that knows torch
metrics      the numbers of a split, and the tables behind its pictures
thresholds   from probabilities to answers, chosen on validation images
novelty      how unlike the training images an image is
calibration  probabilities made true: temperature and prior
comparison   two models, or two recipes trained several times, on the same images

Notebooks: 03, 04, 05, 06, 07, 08, 09.
"""
