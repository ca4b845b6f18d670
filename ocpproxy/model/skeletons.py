"""Skeletons and points as people have them in files: SWC, CATMAID's exports, tables.

* **SWC**: a node a line, ``id type x y z radius parent``, with -1 for the parent of a root (Cannon et al., J. Neurosci.
  Methods 84, 1998). CATMAID writes coordinates of the project, in nanometres; other programs write micrometres.
* **CATMAID's JSON**: the export of "treenode and connector geometry" (``{"skeletons": {id: {"treenodes": {id:
  {"location": [x, y, z], "parent_id": …}}}}}``), and the answers of its API ``compact-detail``, in which a node is
  ``[id, parent, user, x, y, z, …]``.
* **Tables**: values with commas, semicolons or tabs between them, and columns called x, y and z; without a line of
  names, the first three columns. CATMAID's own table names a node's parent too (``treenode_id``,
  ``parent_treenode_id``); then the nodes are connected.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from ocpproxy.model.region import Point, Segment

MOST_SEGMENTS = 100_000
_NO_PARENT = ("", "-1", "none", "null", "nan")
_PLACES = 1
"""Decimal places of a coordinate that is kept: tenths of a nanometre."""


class BadSkeleton(ValueError):
    """A file cannot be read. The message says where, and what was expected."""


class _Nodes:
    """The nodes of a file, and who is whose parent.

    :param unit: nanometres of one unit of the file's coordinates, by axis.
    """

    def __init__(self, unit: Point) -> None:
        self._unit = unit
        self._points: dict[str, Point] = {}
        self._parents: dict[str, str] = {}

    def add(self, where: str, name: object, xyz: Any, parent: object) -> None:
        """Add a node."""
        try:
            point = tuple(round(float(v) * u, _PLACES) for v, u in zip(xyz, self._unit, strict=True))
        except (TypeError, ValueError, OverflowError):
            raise BadSkeleton(f"{where}: expected three numbers x, y, z, not {str(xyz)[:60]}") from None
        if not all(map(isfinite, point)):
            raise BadSkeleton(f"{where}: expected finite coordinates")
        key = str(name)
        if key in self._points:
            raise BadSkeleton(f"{where}: a second node {key[:20]}")
        self._points[key] = (point[0], point[1], point[2])
        if str(parent).strip().lower() not in _NO_PARENT:
            self._parents[key] = str(parent).strip()
        if len(self._points) > MOST_SEGMENTS:
            raise BadSkeleton(f"more than {MOST_SEGMENTS} nodes: split the file")

    def segments(self) -> list[Segment]:
        """Return the line from each node to its parent; a node without one is a point.

        :raises BadSkeleton: a parent is missing, or there are no nodes.
        """
        if not self._points:
            raise BadSkeleton("there are no nodes in it")
        found = []
        for name, point in self._points.items():
            parent = self._parents.get(name)
            if parent is not None and parent not in self._points:
                raise BadSkeleton(f"node {name[:20]}: its parent {parent[:20]} is not in the file")
            found.append(Segment(self._points[parent] if parent is not None else point, point))
        return found


def read_skeleton(text: str, unit: Point) -> list[Segment]:
    """Return the lines of a skeleton, SWC or CATMAID's JSON, in nanometres.

    :raises BadSkeleton: it cannot be read.
    """
    nodes = _Nodes(unit)
    if text.lstrip()[:1] in ("{", "["):
        _read_json(text, nodes)
    else:
        _read_swc(text, nodes)
    return nodes.segments()


def _read_swc(text: str, nodes: _Nodes) -> None:
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        if len(fields) < 7:
            raise BadSkeleton(f"line {number}: expected id, type, x, y, z, radius, parent")
        nodes.add(f"line {number}", fields[0], fields[2:5], fields[6])


def _read_json(text: str, nodes: _Nodes) -> None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSkeleton(f"it is no JSON: {str(error)[:80]}") from None
    for name, skeleton in _skeletons(document):
        if isinstance(skeleton, Mapping):
            found = skeleton.get("treenodes")
            if not isinstance(found, Mapping):
                raise BadSkeleton(f"skeleton {name[:20]}: expected treenodes, as CATMAID exports them")
            for key, node in found.items():
                ok = isinstance(node, Mapping)
                parent = node.get("parent_id") if ok else None
                nodes.add(f"treenode {str(key)[:20]}", key, node.get("location") if ok else None, parent)
        else:
            rows = skeleton[0] if isinstance(skeleton, list) and skeleton else None
            for row in rows if isinstance(rows, list) else ():
                if not isinstance(row, list) or len(row) < 6:
                    raise BadSkeleton("expected nodes [id, parent, user, x, y, z, …], as CATMAID's API gives them")
                nodes.add(f"treenode {str(row[0])[:20]}", row[0], row[3:6], row[1])


def _skeletons(document: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(document, Mapping):
        skeletons = document.get("skeletons", document)
        if not isinstance(skeletons, Mapping):
            raise BadSkeleton("expected skeletons by their ids, as CATMAID exports them")
        yield from skeletons.items()
    else:
        yield "", document


def read_points(text: str, unit: Point) -> list[Segment]:
    """Return the points of a table, in nanometres; lines where the table names parents.

    :raises BadSkeleton: it cannot be read.
    """
    nodes = _Nodes(unit)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    first = lines[0] if lines else ""
    delimiter = next((letter for letter in ",;\t" if letter in first), " ")
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise BadSkeleton(f"it is no table: {error}") from None
    columns = {name.strip().lower(): n for n, name in enumerate(rows[0])} if rows else {}
    named = {"x", "y", "z"} <= columns.keys()
    if rows and not named and not _is_number(rows[0][0]):
        raise BadSkeleton("the first line: expected columns x, y and z")
    places = [columns[axis] for axis in "xyz"] if named else [0, 1, 2]
    ids, parents = columns.get("treenode_id", -1), columns.get("parent_treenode_id", -1)
    connected = named and ids >= 0 and parents >= 0
    for number, row in enumerate(rows[1:] if named else rows, 2 if named else 1):
        if len(row) <= max(*places, ids, parents):
            raise BadSkeleton(f"row {number}: expected {max(*places, ids, parents) + 1} columns or more")
        name, parent = (row[ids], row[parents]) if connected else (number, "")
        nodes.add(f"row {number}", name, [row[place] for place in places], parent)
    return nodes.segments()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
