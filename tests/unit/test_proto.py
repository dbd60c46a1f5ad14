"""The generated control_pb2.py is of this control.proto."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.embedded import control_pb2

ROOT = Path(__file__).parents[2]


def test_generated_file_is_up_to_date(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc", reason="needs grpcio-tools")
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    out = tmp_path / "set"
    assert protoc.main(["protoc", f"-I{ROOT}", f"--descriptor_set_out={out}", "runtime/embedded/control.proto"]) == 0
    (fresh,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    committed = descriptor_pb2.FileDescriptorProto()
    control_pb2.DESCRIPTOR.CopyToProto(committed)
    assert [m.name for m in committed.message_type] == [m.name for m in fresh.message_type]
    for old, new in zip(committed.message_type, fresh.message_type, strict=True):
        assert [(f.name, f.number, f.type) for f in old.field] == [(f.name, f.number, f.type) for f in new.field], (
            old.name
        )
