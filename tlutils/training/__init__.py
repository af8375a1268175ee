"""Training: a model and loaders come in, the model of its best epoch and the history of all go out.

    options     how to train, as plain values
    loop        epochs, early stopping, resume: `fit`
    batches     what goes into the network, from files or from the store of the frozen part
    optimizers  which optimizer, and its rate by moment and by layer
    losses      the loss of each image, and the weight of its class
    monitors    what chooses the best epoch
    tuning      finding a learning rate, training the head before the rest
    speed       the way in which this machine trains fastest, by a short measurement

Notebooks: 02, 03, 07.
"""
