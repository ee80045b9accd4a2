"""What holds for every plugin that comes with the package."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st
from support.formats import hints
from swmld import documents
from swmld.plugins import shipped
from swmld.plugins.interface import API, Plugin, Range
from swmld.rules import loading, reading


def made(name: str) -> Plugin:
    module, _, kind = name.partition(":")
    plugin = getattr(importlib.import_module(module), kind)()
    assert isinstance(plugin, Plugin)
    return plugin


PLUGINS = {plugin.framework_name(): plugin for plugin in map(made, shipped.SHIPPED)}
EACH = pytest.mark.parametrize("plugin", PLUGINS.values(), ids=PLUGINS)
SOURCES = Path(shipped.__file__).parent


def test_their_names() -> None:
    assert set(PLUGINS) == {"pytorch", "tensorflow", "huggingface", "onnx", "numpy", "webdataset", "parquet"}
    assert all(plugin.api == API for plugin in PLUGINS.values())


@pytest.mark.parametrize("name", shipped.SHIPPED)
def test_they_are_short(name: str) -> None:
    path = SOURCES / (name.partition(":")[0].rpartition(".")[2] + ".py")
    assert len(path.read_text().splitlines()) <= 150


@EACH
def test_their_rules_and_templates_load_together_and_are_named(plugin: Plugin, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(f"rules:\n{plugin.default_rules()}templates:\n{plugin.default_templates()}")
    found = loading.load([documents.read(path, **reading.LIMITS)])
    ids = {line.split()[-1] for line in plugin.default_rules().splitlines() if line.startswith("- id: ")}
    assert ids <= {rule.id for rule in found.rules}


@pytest.mark.parametrize(
    ("path", "framework"),
    [
        ("/usr/lib/python3/site-packages/torch/lib/libtorch_cpu.so", "pytorch"),
        ("/opt/libtorch/lib/libc10.so", "pytorch"),
        ("/x/tensorflow/libtensorflow_framework.so.2", "tensorflow"),
        ("/x/tensorflow/python/_pywrap_tensorflow_internal.so", "tensorflow"),
        ("/x/onnxruntime/capi/onnxruntime_pybind11_state.cpython-311-x86_64-linux-gnu.so", "onnx"),
        ("/usr/lib/libonnxruntime.so.1.20", "onnx"),
        ("/x/tokenizers/tokenizers.abi3.so", "huggingface"),
        ("/x/safetensors/_safetensors_rust.abi3.so", "huggingface"),
        ("/x/pyarrow/libarrow.so.2600", "parquet"),
        ("/x/pyarrow/libparquet.so.2600", "parquet"),
        ("/x/h5py.libs/libhdf5-9e18f0c6.so.320.0.0", "numpy"),
        ("/x/numpy/_core/_multiarray_umath.cpython-311-x86_64-linux-gnu.so", "numpy"),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", None),
        ("/data/libtorch_cpu.so.txt.d/notes", "pytorch"),  # by the name alone: what is mapped as such
    ],
)
def test_what_processes_have_mapped(path: str, framework: str | None) -> None:
    found = [
        name
        for name, plugin in PLUGINS.items()
        if any(re2.search(pattern, path) for pattern in plugin.libraries)
    ]
    assert found == ([framework] if framework else [])


def test_libraries_are_called_so_in_this_process() -> None:
    """Names change from version to version: what is imported here is found in our own maps."""
    wanted = {"numpy": "numpy", "pyarrow.parquet": "parquet", "safetensors": "huggingface"}
    for module in wanted:
        pytest.importorskip(module)
    mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    for module, framework in wanted.items():
        assert module in sys.modules
        patterns = PLUGINS[framework].libraries
        assert any(re2.search(pattern, path) for pattern in patterns for path in mapped), module


@EACH
@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(
        [
            "x",
            "x.pt",
            "a.zarr/0",
            "x.index",
            "models--a--b/blobs/0",
            "x.bin.index.json",
            "x.data-00000-of-00001",
        ]
    ),
    st.binary(max_size=300),
    st.lists(st.builds(Range, st.integers(0, 300), st.integers(0, 300)), max_size=6),
)
def test_anything_is_survived(plugin: Plugin, path: str, data: bytes, touched: list[Range]) -> None:
    hints(plugin, path, data, touched)
    assert 0 <= plugin.detect(path, data) <= 1


def test_they_work_without_any_package() -> None:
    """Without site-packages there is nothing but the standard library."""
    program = (
        f"import sys; sys.path.insert(0, {str(SOURCES.parents[1])!r}); import importlib\n"
        f"for name in {shipped.SHIPPED!r}:\n"
        "    module, _, kind = name.partition(':')\n"
        "    print(getattr(importlib.import_module(module), kind)().framework_name())\n"
    )
    command = [sys.executable, "-I", "-S", "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (found.stdout.split(), found.stderr) == (list(PLUGINS), "")
