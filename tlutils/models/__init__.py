"""Networks: in come a backbone's name, weights and images, out come a model and its features.

build           a torchvision backbone with a new head: frozen parts, counts, summary
weights         pretrained weights, found and checked; files of tensors opened without running code
random_weights  random weights that pass on what they see
checkpoints     a trained model as a file
prefix          where the frozen part ends, and a hash of all that it does
feature_store   the frozen part's outputs, kept on disk
to_onnx         a model as an ONNX file
predict_onnx    what such a file answers, as a script that needs no torch

Notebooks: 03, 05, 06, 07.
"""
