"""Skeletons and points as people have them in files."""

from __future__ import annotations

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ocpproxy.model.region import Segment
from ocpproxy.model.skeletons import MOST_SEGMENTS, BadSkeleton, read_points, read_skeleton

DOCUMENTS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda one: st.one_of(st.lists(one), st.dictionaries(st.sampled_from(("skeletons", "1", "treenodes")), one)),
)
NM = (1.0, 1.0, 1.0)
A, B, C = (10.0, 20.0, 30.0), (11.5, 20.0, 30.0), (12.0, 25.0, 70.0)
TREE = [Segment(A, A), Segment(A, B), Segment(B, C)]

SWC = """# by hand
1 1 10 20 30 5 -1

2 0 11.5 20 30 -1 1
3 0 12 25 70 0 2 # the end
"""
GEOMETRY = json.dumps(
    {
        "skeletons": {
            "7": {
                "treenodes": {
                    "1": {"location": A, "parent_id": None},
                    "2": {"location": B, "parent_id": 1},
                    "3": {"location": C, "parent_id": 2},
                },
                "connectors": {"9": {"location": [1, 2, 3]}},
            }
        }
    }
)
ROWS = [[1, None, 4, *A, -1, 5], [2, 1, 4, *B, -1, 5], [3, 2, 4, *C, -1, 5]]
COMPACT = json.dumps([ROWS, [], {}])
SEVERAL = json.dumps({"skeletons": {"7": [ROWS, [], {}, [], []]}})
TABLE = """"skeleton_id", "treenode_id", "parent_treenode_id", "x", "y", "z", "r"
7, 1, , 10, 20, 30, -1
7, 2, 1, 11.5, 20, 30, -1
7, 3, 2, 12, 25, 70, -1
"""


class SkeletonTests(SynchronousTestCase):
    """`read_skeleton` and `read_points`."""

    def test_forms(self) -> None:
        """The same tree in every form."""
        for text in (SWC, SWC.replace("\n", "\r\n"), GEOMETRY, COMPACT, SEVERAL):
            self.assertEqual(read_skeleton(text, NM), TREE)
        self.assertEqual(read_points(TABLE, NM), TREE)

    def test_children_first(self) -> None:
        """A child may come before its parent."""
        lines = SWC.splitlines()
        self.assertEqual(set(read_skeleton("\n".join(reversed(lines)), NM)), set(TREE))

    def test_units(self) -> None:
        """Coordinates become nanometres, by axis."""
        self.assertEqual(read_skeleton("1 1 1 2 3 1 -1", (4, 4, 40)), [Segment((4, 8, 120), (4, 8, 120))])

    def test_points(self) -> None:
        """Tables with names and without, and any usual delimiter."""
        expected = [Segment(A, A), Segment(C, C)]
        for text in (
            "10,20,30\n12,25,70\n",
            "10;20;30\n12;25;70",
            "10\t20\t30\n12\t25\t70",
            "10 20 30\n12 25 70",
            "z,y,x,name\n30,20,10,a\n70,25,12,b\n",
            "# points\nX,Y,Z\n10,20,30\n\n12,25,70",
        ):
            self.assertEqual(read_points(text, NM), expected, text)

    def test_bad(self) -> None:
        """The message says where, and what was expected."""
        for read, text, words in (
            (read_skeleton, "", "no nodes"),
            (read_skeleton, "1 1 10 20 30 5", "line 1: expected id, type"),
            (read_skeleton, "1 1 10 x 30 5 -1", "line 1: expected three numbers"),
            (read_skeleton, "1 1 10 nan 30 5 -1", "finite"),
            (read_skeleton, "1 1 1 1 1 1 -1\n1 1 2 2 2 1 -1", "line 2: a second node 1"),
            (read_skeleton, "1 1 1 1 1 1 5", "its parent 5 is not in the file"),
            (read_skeleton, "{", "no JSON"),
            (read_skeleton, "[" * 100_000, "no JSON"),
            (read_skeleton, '{"skeletons": 3}', "by their ids"),
            (read_skeleton, '{"skeletons": {"1": {"nodes": {}}}}', "expected treenodes"),
            (read_skeleton, '{"skeletons": {"1": {"treenodes": {"2": 3}}}}', "three numbers"),
            (read_skeleton, "[[[1, 2]]]", "expected nodes"),
            (read_points, "a,b,c\n1,2,3", "columns x, y and z"),
            (read_points, "x,y,z\n1,2", "row 2: expected 3 columns"),
            (read_points, "x,y,z\n1,2,c", "row 2: expected three numbers"),
            (read_points, "", "no nodes"),
            (read_points, '1,2,"' + "3" * 200_000 + '"', "no table"),
            (read_skeleton, "[[[1, null, 4, 1" + "0" * 400 + ", 1, 1, 0]]]", "three numbers"),
        ):
            with self.assertRaises(BadSkeleton) as raised:
                read(text, NM)
            self.assertIn(words, str(raised.exception))

    def test_too_many(self) -> None:
        """There is an end to what is read."""
        many = "\n".join(f"{n} 0 1 1 1 1 -1" for n in range(MOST_SEGMENTS + 1))
        self.assertRaises(BadSkeleton, read_skeleton, many, NM)

    @given(st.one_of(st.text(), st.text('[]{}",:0123456789.-enul x#\n'), DOCUMENTS.map(json.dumps)))
    def test_anything(self, text: str) -> None:
        """Nothing else is raised."""
        for read in (read_skeleton, read_points):
            with contextlib.suppress(BadSkeleton):
                read(text, NM)
