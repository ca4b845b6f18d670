"""Style sheet, scripts and Leaflet, which come from installed packages, at ``/static/DIGEST/NAME``."""

from __future__ import annotations

from functools import cached_property
from hashlib import blake2b
from importlib.resources import files
from importlib.resources.abc import Traversable

_OWN = "ocpproxy.web.pages"
_LEAFLET = "xstatic.pkg.leaflet"
_OF_LEAFLET = ("leaflet.js", "leaflet.css")


class PageFiles:
    """The files by their names."""

    @cached_property
    def _files(self) -> dict[str, Traversable]:
        own = {one.name: one for one in (files(_OWN) / "static").iterdir() if one.is_file()}
        leaflet = files(_LEAFLET) / "data"
        return own | {name: leaflet / name for name in _OF_LEAFLET}

    @cached_property
    def digest(self) -> str:
        """A name that changes with the content of any file: browsers keep them for ever."""
        digest = blake2b(digest_size=8)
        for name in sorted(self._files):
            digest.update(f"{name}\0".encode() + self._files[name].read_bytes())
        return digest.hexdigest()

    def read(self, name: str) -> bytes:
        """Return a file. (In a thread.)

        :raises OSError: there is none.
        """
        found = self._files.get(name)
        if found is None:
            raise FileNotFoundError(name)
        return found.read_bytes()
