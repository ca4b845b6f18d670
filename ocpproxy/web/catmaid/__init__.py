"""The gateway for CATMAID.

============ ====================================================================
`stacks`     datasets as CATMAID's projects and stacks
`documents`  the export for its importer, and what its clients ask for
`canaries`   places inside the data
`projects`   the answers to these requests
============ ====================================================================
"""
