"""Bases of mixins, which hold tests that several cases share.

The type checker sees the case with which a mixin is combined, so that ``self`` needs no annotation. At run time a mixin
is no test case, and trial does not collect it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as CaseMixin

    from tests.channels import ViewsCase as ViewsMixin
    from tests.daemons import DaemonCase as DaemonMixin
else:
    CaseMixin = DaemonMixin = ViewsMixin = object

__all__ = ["CaseMixin", "DaemonMixin", "ViewsMixin"]
