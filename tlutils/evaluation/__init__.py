"""How good a model is: in comes a predictions table, out come numbers with intervals.

predict      a model and a loader to the predictions table
acquisition  plausible changes of acquisition, made to batches of images
metrics      the numbers of a split, and the tables behind its pictures
thresholds   from probabilities to answers, chosen on validation images
novelty      how unlike the training images an image is
calibration  probabilities made true: temperature and prior
robustness   what changes of acquisition cost a model
adaptation   threshold and temperature for another place, and what they are worth there
comparison   two models, or two recipes trained several times, on the same images

Only `predict` and `acquisition` need torch.

Notebooks: 03, 04, 05, 06, 07, 08, 09.
"""
