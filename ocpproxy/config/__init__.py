"""``ocp.ini`` read into frozen settings: every option's name, default and limit.

==========  =====================================================
`reading`   the whole file, with all its faults at once
`values`    how the value of one option is read
`settings`  the settings
==========  =====================================================
"""

from ocpproxy.config.reading import BadConfiguration, Fault, embedded, parse, read
from ocpproxy.config.settings import (
    CacheSettings,
    DatasetSettings,
    IndexSettings,
    IndexUrl,
    ServerSettings,
    Settings,
    UpstreamSettings,
)

__all__ = [
    "BadConfiguration",
    "CacheSettings",
    "DatasetSettings",
    "Fault",
    "IndexSettings",
    "IndexUrl",
    "ServerSettings",
    "Settings",
    "UpstreamSettings",
    "embedded",
    "parse",
    "read",
]
