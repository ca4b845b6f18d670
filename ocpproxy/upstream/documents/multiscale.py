"""Volumes of any format: which documents they have, and the volume that these describe.

===============  ================================================  ==========================================
precomputed      ``info``                                          `precomputed_info`
N5               ``attributes.json`` of an array or a group        `n5`
Zarr 2 and 3     ``.zarray`` or ``zarr.json`` of an array          `zarr`
OME-Zarr         ``.zattrs`` or ``zarr.json`` of an image          `ome`, `collections`
===============  ================================================  ==========================================

The first document that a server returns is not believed: some answer a page for what is not there, and an ``info`` may
describe something else. What cannot be used is passed over; only when nothing can be used does it become the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ocpproxy.upstream.base import NotUnderstood, UpstreamFailure
from ocpproxy.upstream.documents import arrays, checks, collections, n5, ome, precomputed_info, pyramids, zarr
from ocpproxy.upstream.documents.arrays import UNIT_VOXEL, ArrayScale, Documents, SizedArray
from ocpproxy.upstream.documents.checks import Unexpected, unexpected
from ocpproxy.upstream.documents.collections import ReadDocument
from ocpproxy.upstream.documents.pyramids import Volume

_LEVEL_MEMBERS = {"shape", "dimensions"}
"""Members of which an array's document has one."""
_MAX_TEXT = 4 * 2**20
"""Characters of all documents of a volume."""


async def fetch_documents(read: ReadDocument, kinds: Sequence[str]) -> dict[str, str] | None:
    """Return the documents of a volume of one of these kinds, its own one first, or None if there is no volume.

    :param kinds: of ``precomputed``, ``zarr`` and ``n5``, in the order in which they are tried.
    :raises Unexpected: the documents are too large, or what is there is no volume that can be shown.
    """
    found = _Found(read)
    problem: Unexpected | None = None
    for kind in kinds:
        for root, look in _ROOTS[kind]:
            try:
                if await look(found, root):
                    return found.documents
            except Unexpected as error:
                problem = problem or Unexpected(f"{root}: {error}")
            found.documents.clear()
    if problem is not None:
        raise problem
    return None


@dataclass(eq=False)
class _Found:
    """The documents that have been read of one volume."""

    _read: ReadDocument
    documents: dict[str, str] = field(default_factory=dict)

    async def read(self, name: str) -> str | None:
        """Return a document, or None when there is none, or a page of HTML in its place.

        :raises Unexpected: it is no text.
        """
        try:
            text = await self._read(name)
        except NotUnderstood as error:
            raise Unexpected(str(error)) from None
        return None if text is None or text.removeprefix("\ufeff").lstrip().startswith("<") else text

    async def add(self, name: str) -> bool:
        """Add a document if it exists; return whether it does.

        :raises Unexpected: there are too many characters now.
        """
        text = await self.read(name)
        if text is None:
            return False
        self.documents[name] = text
        if sum(map(len, self.documents.values())) > _MAX_TEXT:
            raise unexpected(f"documents of at most {_MAX_TEXT >> 20} MiB in all", "more")
        return True

    async def add_level(self, *names: str) -> bool:
        """Add the first document that is an array's; return whether one is.

        Where there is none, and one could not be read, the reason is added: it costs this level only.
        """
        problem: str | None = None
        for name in names:
            try:
                if await self.add(name):
                    if _LEVEL_MEMBERS & self.parse(name).keys():
                        return True
                    problem = problem or f"expected an array, not {self.documents[name][:60]!r}"
            except Unexpected as error:
                problem = problem or str(error)
            except UpstreamFailure as failure:
                if not failure.lasting:
                    raise
                problem = problem or failure.explanation
            self.documents.pop(name, None)
        if problem is not None:
            self.documents[names[0]] = arrays.absent(problem)
        return False

    def parse(self, name: str) -> Mapping[str, Any]:
        """Return a document that was added, which must be an object."""
        return arrays.parse_object(self.documents, name)


async def _look_for_info(found: _Found, root: str) -> bool:
    if not await found.add(root):
        return False
    precomputed_info.check_kind(found.parse(root))
    return True


async def _look_for_zarr(found: _Found, root: str) -> bool:
    """Look at the document of an array or of a group, of either version."""
    if not await found.add(root):
        return False
    document = found.parse(root)
    if zarr.is_array(root, document):
        if "shape" not in document:
            raise unexpected("the document of an array", sorted(map(str, document)))
        return True
    if collections.is_collection(root, document) and not ome.is_image(root, document):
        image = await collections.find_image(found.read, root, document)
        found.documents.clear()
        root = f"{image}/{root}"
        if not await found.add(root):
            raise unexpected(f"an image at {image}", None)
        document = found.parse(root)
    if ome.is_image(root, document):
        for path in ome.array_paths(root, document):
            await found.add_level(*ome.document_names(path, root))
        return True
    if root == zarr.ATTRIBUTES_2 and zarr.names_axes(document) and await found.add(zarr.DOCUMENT_2):
        found.documents = {name: found.documents[name] for name in (zarr.DOCUMENT_2, zarr.ATTRIBUTES_2)}
        return True
    if root != zarr.ATTRIBUTES_2:  # other programs put attributes of their own into .zattrs
        raise unexpected("an array, or a group with multiscales", sorted(map(str, document)))
    return False


async def _look_for_n5(found: _Found, root: str) -> bool:
    """Look at an array, or a group, which need not have a document."""
    own = found.parse(root) if await found.add(root) else None
    if own is not None and n5.is_array(own):
        return True
    first = f"s0/{root}"
    if own is None and not await found.add_level(first):
        found.documents.pop(first, None)
        return False
    if own is None or not n5.is_complete(own):
        for name in n5.ABOVE:
            await _add_above(found, name)
    counted = n5.scale_factors(n5.inherited(found.documents)) is not None
    for path in n5.array_paths(n5.inherited(found.documents)):
        name = f"{path}/{root}"
        if name not in found.documents and not await found.add_level(name) and not counted:
            found.documents.pop(name, None)
            break
    if own is None:  # the first document tells the format
        found.documents = {root: "{}", **found.documents}
    return True


async def _add_above(found: _Found, name: str) -> None:
    """Add a document of a group above, if it is one: nothing there is needed."""
    try:
        text = await found.read(name)
        if text is not None:
            checks.json_object(name, checks.parse_json(text))
            found.documents[name] = text
    except Unexpected:
        pass
    except UpstreamFailure as failure:
        if not failure.lasting:
            raise


_Look = Callable[[_Found, str], Any]
_ROOTS: Mapping[str, Sequence[tuple[str, _Look]]] = {
    "precomputed": [(precomputed_info.DOCUMENT, _look_for_info)],
    "zarr": [(name, _look_for_zarr) for name in (zarr.DOCUMENT_3, zarr.ATTRIBUTES_2, zarr.DOCUMENT_2)],
    "n5": [(n5.DOCUMENT, _look_for_n5)],
}
"""The documents that a volume of each kind may have at its address, in the order in which they are looked for."""


def parse_volume(channel: str | None, documents: Documents, address: str) -> Volume[Any]:
    """Return the volume that documents describe: its scales are `ArrayScale` or `PrecomputedScale`.

    :param channel: the channel whose address the volume is at.
    :param documents: as `fetch_documents` returns them.
    :param address: its address, which is part of its version: a volume at another one is another volume.
    :raises Unexpected: with what was expected.
    """
    if not documents:
        raise unexpected("documents of a volume", documents)
    root = next(iter(documents))
    if root == precomputed_info.DOCUMENT:
        return precomputed_info.parse_info(channel, documents[root], address)
    volume = n5.parse_volume(channel, documents) if root == n5.DOCUMENT else _parse_zarr(channel, root, documents)
    return replace(volume, version=pyramids.version([address, dict(documents)]))


def _parse_zarr(channel: str | None, root: str, documents: Documents) -> Volume[ArrayScale]:
    document = arrays.parse_object(documents, root)
    if not zarr.is_array(root.rpartition("/")[2], document):
        return ome.parse_volume(channel, root, documents)
    has_attributes = zarr.ATTRIBUTES_2 in documents
    attributes = arrays.parse_object(documents, zarr.ATTRIBUTES_2) if has_attributes else {}
    array = zarr.parse_array(channel, root, document, attributes=attributes)
    return arrays.build_volume([SizedArray("0", UNIT_VOXEL, None, array)])
