"""What everything else stands on, and two tools that copy the library.

No data set, no model, no table is known here.

In: a device's name, a path, bytes, numbers. Out: a machine to compute on, files written whole,
pictures, intervals.

    devices      what to compute on, in which precision, with which seeds and processes
    dicom        the picture in a DICOM file, and its patient
    files        files written whole or not at all, and locks
    images       the one way in which an image file is opened
    intervals    resampled patients, Wilson's interval, a guess beside a number
    packages     packages that only single functions need
    progress     bars where a person watches
    standalone   one file made of a module and of what it uses
    starter      the library copied into another project, with a first notebook
    tars         images in tar files, read where they lie
    words        counts, the first of many, and refusals in words

Only `devices` needs torch.

Notebooks: 01, 02, 03, 04, 05, 06, 07, 08, 09.
"""
