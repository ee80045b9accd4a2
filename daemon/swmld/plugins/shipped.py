"""The plugins that come with the package."""

from __future__ import annotations

SHIPPED: tuple[str, ...] = (
    "swmld.plugins.pytorch:PyTorch",
    "swmld.plugins.tensorflow:TensorFlow",
    "swmld.plugins.huggingface:HuggingFace",
    "swmld.plugins.onnx:Onnx",
    "swmld.plugins.arrays:Arrays",
    "swmld.plugins.webdataset:WebDataset",
    "swmld.plugins.parquet:Parquet",
)
"""``module:class``, in the order in which they are asked where two are as sure."""
