"""From a data set's name to batches.

In: a source's name, a folder or a CSV manifest. Out: records (a table, one row an image), what the
audit found in them, and batches of uint8 tensors.

    sources            the named data sets, and how to have them here
    downloads          fetch, verify, unpack safely
    phantoms           drawings of nobody, and of nothing, for trying things out
    layouts            what a folder looks like: where the data begin, its images, split and class
    records            a folder or manifest becomes a table; what is wrong with each file
    shards             images in tar files: written, listed, their labels
    splits             training, validation and test, by patient
    near_duplicates    images that look the same though their files differ; white wedges
    audit              leaks between splits, copies, labels that the files alone show
    cleaning           what the audit found taken out
    loaders            from records to batches, or to small files for many trainings
    augment            seeded views of batches

Only `loaders` and `augment` need torch.

Notebooks: 01, 02, 03, 04, 05, 06, 07, 08, 09.
"""
