"""The messages of SeaweedFS's filer that are used here, described to protobuf at import.

Only fields that something here reads or sets: others are skipped by their wire type, so a newer filer's
messages parse. Numbers and types are those of its public interface (package ``filer_pb``), which it keeps.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "filer_pb.SeaweedFiler"

DESCRIPTION = """
FileId: volume_id=1 uint32, file_key=2 uint64, cookie=3 fixed32
FileChunk: file_id=1 string, offset=2 int64, size=3 uint64, modified_ts_ns=4 int64, fid=7 FileId,
    e_tag=5 string, cipher_key=9 bytes, is_compressed=10 bool, is_chunk_manifest=11 bool, sse_type=12 int32
FileChunkManifest: chunks=1 FileChunk*
FuseAttributes: file_size=1 uint64, mtime=2 int64, file_mode=3 uint32, uid=4 uint32, gid=5 uint32,
    crtime=6 int64, ttl_sec=10 int32, md5=14 bytes, symlink_target=13 string, rdev=16 uint32, ctime=18 int64,
    mtime_ns=19 int32, ctime_ns=20 int32, crtime_ns=21 int32
RemoteEntry: remote_e_tag=3 string, remote_mtime=4 int64, remote_size=5 int64
Entry: name=1 string, is_directory=2 bool, chunks=3 FileChunk*, attributes=4 FuseAttributes,
    extended=5 bytes%,
    hard_link_id=7 bytes, hard_link_counter=8 int32, content=9 bytes, remote_entry=10 RemoteEntry
LookupDirectoryEntryRequest: directory=1 string, name=2 string
LookupDirectoryEntryResponse: entry=1 Entry
ListEntriesRequest: directory=1 string, startFromFileName=3 string, inclusiveStartFrom=4 bool, limit=5 uint32
ListEntriesResponse: entry=1 Entry
LookupVolumeRequest: volume_ids=1 string*
Location: url=1 string, public_url=2 string
Locations: locations=1 Location*
LookupVolumeResponse: locations_map=1 Locations%
GetFilerConfigurationRequest:
GetFilerConfigurationResponse: cipher=7 bool
PingRequest: target=1 string, target_type=2 string
PingResponse: start_time_ns=1 int64, remote_time_ns=2 int64, stop_time_ns=3 int64
EventNotification: old_entry=1 Entry, new_entry=2 Entry, new_parent_path=4 string, signatures=6 int32*
SubscribeMetadataRequest: client_name=1 string, path_prefix=2 string, since_ns=3 int64, signature=4 int32,
    client_id=7 int32, client_epoch=9 int32, client_supports_idle_heartbeat=13 bool
SubscribeMetadataResponse: directory=1 string, event_notification=2 EventNotification, ts_ns=3 int64
Clause: kind=1 int32, expected_entry=10 Entry
WriteCondition: clauses=1 Clause*
CreateEntryRequest: directory=1 string, entry=2 Entry, o_excl=3 bool, signatures=5 int32*,
    condition=7 WriteCondition
CreateEntryResponse: error=1 string, metadata_event=2 SubscribeMetadataResponse, error_code=3 int32
UpdateEntryRequest: directory=1 string, entry=2 Entry, signatures=4 int32*, condition=6 WriteCondition
UpdateEntryResponse: metadata_event=1 SubscribeMetadataResponse
DeleteEntryRequest: directory=1 string, name=2 string, is_delete_data=4 bool, is_recursive=5 bool,
    signatures=8 int32*
DeleteEntryResponse: error=1 string
AtomicRenameEntryRequest: old_directory=1 string, old_name=2 string, new_directory=3 string,
    new_name=4 string, signatures=5 int32*
AtomicRenameEntryResponse:
StatisticsRequest: replication=1 string, collection=2 string, ttl=3 string, disk_type=4 string
StatisticsResponse: total_size=4 uint64, used_size=5 uint64
AssignVolumeRequest: count=1 int32, replication=3 string, ttl_sec=4 int32, path=6 string,
    expected_data_size=10 uint64
AssignVolumeResponse: file_id=1 string, count=4 int32, auth=5 string, error=8 string, location=9 Location,
    fsync=11 bool
"""
"""Message: field=number type. A type with * is repeated, with % it is a map from string."""

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "filer_pb"


def _field(message: Any, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if kind.endswith("%"):
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _field(entry, "key", 1, "string")
        _field(entry, "value", 2, kind[:-1])
        field.type_name = f".{_PACKAGE}.{message.name}.{entry.name}"
        field.type, field.label = _Field.TYPE_MESSAGE, _Field.LABEL_REPEATED
        return
    if kind.endswith("*"):
        kind, field.label = kind[:-1], _Field.LABEL_REPEATED
    if kind[0].isupper():
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    else:
        field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")


def described(text: str) -> dict[str, Any]:
    """The classes of messages that ``text`` describes as ``DESCRIPTION`` does, by name.

    In a pool of their own: who else in the process describes SeaweedFS's messages does not meet these."""
    file = descriptor_pb2.FileDescriptorProto(name="swmld/filer.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in re.findall(r"^(\w+):((?:.|\n )*)$", text, re.MULTILINE):
        message = file.message_type.add(name=name)
        for field, number, kind in re.findall(r"(\w+)=(\d+) ([\w*%]+)", fields):
            _field(message, field, int(number), kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = message_factory.GetMessages([file], pool=pool)
    return {name.rpartition(".")[2]: kind for name, kind in found.items()}


MESSAGES = described(DESCRIPTION)

Entry: Any = MESSAGES["Entry"]
FileChunkManifest: Any = MESSAGES["FileChunkManifest"]
METHODS: dict[str, tuple[Any, Any]] = {
    name: (MESSAGES[f"{name}Request"], MESSAGES[f"{name}Response"])
    for name in (
        *("LookupDirectoryEntry", "ListEntries", "LookupVolume", "Ping", "SubscribeMetadata"),
        *("CreateEntry", "UpdateEntry", "DeleteEntry", "AtomicRenameEntry", "AssignVolume"),
        *("GetFilerConfiguration", "Statistics"),
    )
}
"""The filer's calls with what each takes and answers."""
