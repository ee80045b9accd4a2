"""ONNX: models as protobuf itself writes them, and the files of weights that they name."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from support.formats import Asked, damaged, hints, knows
from swmld.plugins.interface import NONE, Context
from swmld.plugins.onnx import Onnx

pytest.importorskip("google.protobuf")
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PLUGIN = Onnx()

# onnx.proto, as far as it is needed: message, then name, number, type (a message's name), repeated.
MESSAGES: dict[str, list[tuple[str, int, str, bool]]] = {
    "StringStringEntryProto": [("key", 1, "string", False), ("value", 2, "string", False)],
    "TensorProto": [
        ("dims", 1, "int64", True),
        ("data_type", 2, "int32", False),
        ("name", 8, "string", False),
        ("raw_data", 9, "bytes", False),
        ("external_data", 13, "StringStringEntryProto", True),
        ("data_location", 14, "int32", False),
    ],
    "NodeProto": [
        ("input", 1, "string", True),
        ("output", 2, "string", True),
        ("op_type", 4, "string", False),
    ],
    "GraphProto": [
        ("node", 1, "NodeProto", True),
        ("name", 2, "string", False),
        ("initializer", 5, "TensorProto", True),
    ],
    "ModelProto": [
        ("ir_version", 1, "int64", False),
        ("producer_name", 2, "string", False),
        ("graph", 7, "GraphProto", False),
    ],
}


@functools.cache
def classes() -> dict[str, Any]:
    kinds = {"string": 9, "int64": 3, "int32": 5, "bytes": 12}
    file = descriptor_pb2.FileDescriptorProto(name="onnx.proto", package="onnx", syntax="proto2")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            made = message.field.add(
                name=field, number=number, label=3 if repeated else 1, type=kinds.get(kind, 11)
            )
            if kind not in kinds:
                made.type_name = f".onnx.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"onnx.{name}")) for name in MESSAGES
    }


@functools.cache
def model(*locations: str, weights: int = 4) -> bytes:
    made = classes()["ModelProto"](ir_version=10, producer_name="test")
    for number in range(weights):
        made.graph.node.add(op_type="MatMul", input=["x", f"w{number}"], output=[f"y{number}"])
        tensor = made.graph.initializer.add(name=f"w{number}", dims=[100, 10], data_type=1)
        if locations:
            location = locations[number % len(locations)]
            for key, value in (("location", location), ("offset", f"{number * 4096}"), ("length", "4000")):
                tensor.external_data.add(key=key, value=value)
            tensor.data_location = 1
        else:
            tensor.raw_data = bytes(4000)
    return bytes(made.SerializeToString())


def test_a_model_is_read_whole_and_after_it_its_weights_in_their_order() -> None:
    data = model("weights.1", "./weights.0", "sub/b")
    assert knows(PLUGIN, "model.onnx", data)
    found = hints(PLUGIN, "model.onnx", data)
    assert found.whole
    assert found.files == ("weights.1", "weights.0", "sub/b")


def test_a_model_with_its_weights_within() -> None:
    found = hints(PLUGIN, "model.onnx", model())
    assert found.whole
    assert found.files == ()


def test_weights_are_read_only_below_the_model() -> None:
    assert hints(PLUGIN, "model.onnx", model("../../etc/shadow", "/etc/passwd", "w\0", "fine")).files == (
        "fine",
    )


def test_of_a_model_that_was_cut_off_the_first_weights_are_known() -> None:
    data = model(*(f"w{n}" for n in range(40)), weights=40)
    found = hints(PLUGIN, "model.onnx", data[: len(data) // 2])
    assert 10 < len(found.files) < 40
    assert found.files == tuple(f"w{n}" for n in range(len(found.files)))


def test_a_model_of_gigabytes_is_not_looked_through() -> None:
    asked = Asked(model(), "model.onnx")
    given_ = asked.context
    found = PLUGIN.hints(Context(given_.path, 2 << 30, given_.head, given_.read))
    assert found.whole
    assert asked.calls == []


@pytest.mark.parametrize(
    ("path", "head", "sure"),
    [
        ("m.onnx", b"", 0.8),
        ("m.onnx", b"text of another kind", 0),
        ("m.onnx", b"\x08", 0),
        ("m.onnx.data", b"", 0.8),
        ("dir/model.onnx_data", b"\0" * 64, 0.8),
    ],
)
def test_how_sure(path: str, head: bytes, sure: float) -> None:
    assert PLUGIN.detect(path, head) == sure


def test_files_of_weights_are_read_whole() -> None:
    assert hints(PLUGIN, "model.onnx_data", bytes(5000)).whole


@pytest.mark.parametrize(
    "data", [b"", b"\x08\x0a", b"\x0a" * 500, b"text"], ids=["empty", "short", "tags", "text"]
)
def test_others_say_nothing(data: bytes) -> None:
    assert hints(PLUGIN, "model.onnx", data) == NONE


@settings(max_examples=60, deadline=None)
@given(damaged(model("a", "b")))
def test_damaged_models_are_survived(data: bytes) -> None:
    hints(PLUGIN, "model.onnx", data)
    assert 0 <= PLUGIN.detect("model.onnx", data[:4096]) <= 1
