"""The manual as web pages, made by Sphinx: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generated  # noqa: E402

import ocpproxy  # noqa: E402

project = "ocpproxy"
author = "the authors of ocpproxy"
release = version = ocpproxy.__version__
extensions = ["myst_parser"]
exclude_patterns = ["_build", "examples"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"ocpproxy {release}"
html_show_copyright = False

generated.main()
