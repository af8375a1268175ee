"""Pictures: a table or an array in, matplotlib Axes out.

Each function draws into `ax` (one Axes, or as many as the picture has panels); None makes a figure
as wide as a notebook page, as `of_images.class_grid` always does. None shows or saves it. One panel
comes back as an Axes, several as an array. A `caption` is a small grey line under the picture for
what a reader must know: phantom data, random weights, the split. Call `style.style()` once at the
top of a notebook.

    style        the look of all pictures, the colors of classes, the parts that pictures share
    of_data      what the data are: counts, sizes, patients, the audit, two ways to split
    of_images    the scans themselves: grids, views, single answers, errors, maps over a scan
    of_training  what happened in training: curves by epoch, loss by learning rate, map of features
    of_results   how good it is: confusion, curves, calibration, intervals, costs

Needs core.images and core.words, no other part of the library and no torch: copied with them it
draws.

Notebooks: 01, 02, 03, 04, 05, 06, 07, 08, 09.
"""
