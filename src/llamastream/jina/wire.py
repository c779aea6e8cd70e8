"""Protobuf messages of Jina's wire, as we write them: what comes in, `reading` reads.

The descriptors live in a pool of their own: jina and docarray register the same names in the
default one, and a process that imports them must still be able to import us.
`descriptors.binpb` is compiled from the two .proto files beside it by `make protos`.
"""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    empty_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
)


def _load_pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for module in (empty_pb2, struct_pb2, timestamp_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    compiled = descriptor_pb2.FileDescriptorSet.FromString(
        files(__package__).joinpath("protos", "descriptors.binpb").read_bytes()
    )
    for file in compiled.file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = _load_pool()


def _message(name: str) -> type[Any]:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


# Their fields are known at run time only, hence Any.
SingleDocumentRequest: type[Any] = _message("jina.SingleDocumentRequestProto")
Status: type[Any] = _message("jina.StatusProto")
Endpoints: type[Any] = _message("jina.EndpointsProto")
JinaInfo: type[Any] = _message("jina.JinaInfoProto")


def set_fields(document: Any, fields: Mapping[str, str | int | float]) -> None:
    """Make these the fields of a `docarray.DocProto`, in place, as docarray itself writes them.

    Writing over the last document's fields is three times as fast as clearing them first.
    """
    data = document.data
    for name, value in fields.items():
        node = data[name]
        if isinstance(value, str):
            node.text = value
        elif isinstance(value, bool):
            node.boolean = value
        elif isinstance(value, int):
            node.integer = value
        else:
            node.float = value
    if len(data) > len(fields):
        for name in data.keys() - fields.keys():
            del data[name]
    if "id" in fields:
        data["id"].type = "id"
