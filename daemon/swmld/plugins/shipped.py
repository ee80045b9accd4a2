"""The plugins that come with the package."""

from __future__ import annotations

SHIPPED: tuple[str, ...] = (
    "swmld.plugins.pytorch:PyTorch",
    "swmld.plugins.tensorflow:TensorFlow",
    "swmld.plugins.onnx:Onnx",
    "swmld.plugins.huggingface:HuggingFace",
    "swmld.plugins.webdataset:WebDataset",
    "swmld.plugins.parquet:Parquet",
    "swmld.plugins.arrays:Arrays",
)
"""``module:class``. The earlier comes first where a process or a file fits two: what trains has NumPy
and Arrow mapped too, what reads Parquet has NumPy."""
