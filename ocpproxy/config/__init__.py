"""``ocp.ini`` read into frozen settings: every option's name, default and limit.

================  ===================================================================
`reading`         reads the whole file, and reports all its faults at once
`options`         every option of every section; what a kind of upstream adds to them
`upstreams`       the upstream of a section: its options by kind, its addresses
`addresses`       addresses of volumes, as people copy them
`values`          how the text of one option becomes its value
`dataset_values`  the same, of options that only datasets have
`settings`        the settings
`faults`          what is wrong with a file
================  ===================================================================

The kinds of upstream are given to `read`: they are in `ocpproxy.upstream.registry`, which this package does not know.
"""

from ocpproxy.config.faults import BadConfiguration, Fault
from ocpproxy.config.reading import demo, parse, read, read_admin
from ocpproxy.config.settings import (
    AdminAddress,
    AdminSettings,
    CacheSettings,
    DatasetSettings,
    IndexSettings,
    IndexUrl,
    ServerSettings,
    Settings,
    UpstreamSettings,
)

__all__ = [
    "AdminAddress",
    "AdminSettings",
    "BadConfiguration",
    "CacheSettings",
    "DatasetSettings",
    "Fault",
    "IndexSettings",
    "IndexUrl",
    "ServerSettings",
    "Settings",
    "UpstreamSettings",
    "demo",
    "parse",
    "read",
    "read_admin",
]
