"""Makes ``twistd ocpproxy`` known. The module is named as a string: ``twistd --help`` imports nothing of it."""

from twisted.application.service import ServiceMaker

ocpproxy = ServiceMaker(
    "ocpproxy",
    "ocpproxy.daemon.tap",
    "The caching tile gateway for connectomics volumes (CATMAID, Open Connectome).",
    "ocpproxy",
)
