"""Runs: a recipe and a data set's name come in, a folder of plain files with all numbers goes out.

    recipes         the named experiments, as data
    folder          a run's folder: what lies there, read and checked
    train           from data to numbers: prepare, make the model, fit, finish; or all at once
    learning_curve  ways to train against each other, on few patients and on more
    stress          a finished run under changes of acquisition
    reference       what tells images unlike a run's training images
    use             a finished run measured anew, asked about new images
    adapt           a finished run's threshold and temperature chosen anew for another place
    export          a finished run as an ONNX file
    openings        how often a run's own test images were scored

Notebooks: 01, 02, 03, 04, 05, 06, 07, 08, 09.
"""
