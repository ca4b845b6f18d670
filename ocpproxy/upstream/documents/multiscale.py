"""N5 and Zarr volumes: which documents they have, and the volume that these describe.

===============  ================================================  ==========================================
precomputed      ``info``                                          `ocpproxy.upstream.precomputed` parses it
N5               ``attributes.json`` of an array or a group        `n5`
Zarr 2 and 3     ``.zarray`` or ``zarr.json`` of an array          `zarr`
OME-Zarr         ``.zattrs`` or ``zarr.json`` of a group           `ome`
===============  ================================================  ==========================================
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from ocpproxy.upstream.documents import arrays, n5, ome, pyramids, zarr
from ocpproxy.upstream.documents.arrays import UNIT_VOXEL, ArrayScale, Documents
from ocpproxy.upstream.documents.checks import unexpected
from ocpproxy.upstream.documents.pyramids import Volume

ReadDocument = Callable[[str], Awaitable[str | None]]
"""Returns the text of a document, by its path below the volume's address, or None if there is none."""

_INFO = "info"
_ROOTS = {
    "precomputed": (_INFO,),
    "zarr": (zarr.DOCUMENT_3, ome.DOCUMENT_04, zarr.DOCUMENT_2),
    "n5": (n5.DOCUMENT,),
}
"""The documents that a volume of each kind may have at its address; the first one that exists describes it."""
_MAX_TEXT = 4 * 2**20
"""Characters of all documents of a volume."""


async def fetch_documents(read: ReadDocument, kinds: Sequence[str]) -> dict[str, str] | None:
    """Return the documents of a volume of one of these kinds, its own one first, or None if there is no volume.

    :param kinds: of ``precomputed``, ``zarr`` and ``n5``, in the order in which they are tried.
    :raises Unexpected: the documents are too large, or an array that the volume has to have does not exist.
    """
    for kind in kinds:
        for root in _ROOTS[kind]:
            text = await read(root)
            if text is None:
                continue
            documents = {root: text}
            # Other programs put attributes of their own into .zattrs.
            if root != ome.DOCUMENT_04 or "multiscales" in arrays.parse_object(documents, root):
                await _fetch_arrays(read, root, documents)
                return documents
    return None


async def _fetch_arrays(read: ReadDocument, root: str, documents: dict[str, str]) -> None:
    """Add the documents of the arrays of a group."""
    if root == _INFO:
        return
    group = arrays.parse_object(documents, root)
    if root == n5.DOCUMENT:
        counted = n5.scale_factors(group) is not None
        for path in n5.array_paths(group):
            if not await _fetch_first(read, [f"{path}/{n5.DOCUMENT}"], documents):
                if counted:
                    raise unexpected(f"an array at {path}", None)
                return
    elif not zarr.is_array(root, group):
        for path in ome.array_paths(root, group):
            if not await _fetch_first(read, ome.document_names(path), documents):
                raise unexpected(f"an array at {path}", None)


async def _fetch_first(read: ReadDocument, names: Sequence[str], documents: dict[str, str]) -> bool:
    """Add the first document that exists; return whether one does."""
    for name in names:
        text = await read(name)
        if text is not None:
            documents[name] = text
            if sum(map(len, documents.values())) > _MAX_TEXT:
                raise unexpected(f"documents of at most {_MAX_TEXT >> 20} MiB in all", "more")
            return True
    return False


def parse_volume(channel: str | None, documents: Documents, address: str) -> Volume[ArrayScale]:
    """Return the volume that documents of N5 or Zarr describe.

    :param channel: the channel whose address the volume is at.
    :param documents: as `fetch_documents` returns them.
    :param address: its address, which is part of its version: a volume at another one is another volume.
    :raises Unexpected: with what was expected.
    """
    if not documents:
        raise unexpected("documents of a volume", documents)
    root = next(iter(documents))
    document = arrays.parse_object(documents, root)
    if root == n5.DOCUMENT:
        volume = n5.parse_volume(channel, documents)
    elif zarr.is_array(root, document):
        volume = arrays.build_volume([(UNIT_VOXEL, zarr.parse_array(channel, root, document))])
    else:
        volume = ome.parse_volume(channel, root, documents)
    return replace(volume, version=pyramids.version([address, dict(documents)]))
