"""HTTP in.

===============  ==========================================================================
`site`           the HTTP server: connections with the hot path, requests
`channel`        one connection: answers leave at once; bounds for clients that do not read
`hot_path`       hits answered within the HTTP channel
`route_cache`    which tile a request's target means
`answers`        headers, validators, and the one table from failures to HTTP
`answer_record`  what is counted and logged of every answer
`access_log`     a line for each answer
`request_ids`    ids by which an answer is found in the logs
`open_requests`  the requests that are being answered
`tree`           the resource tree
`resources`      resources that are answered by coroutines
`tiles`          tiles, and everything else behind a token
`catmaid`        documents for CATMAID and its clients
`pages`          the pages that people look at
`health`         what supervisors and Prometheus ask for
`access`         who may see a dataset
`signed_links`   links by which somebody sees one for some time
`file_answers`   answers with files of installed packages
`voxels`         the formats of other readers, and Neuroglancer
`front`          the addresses of clients and of the gateway, directly or through a front
`target`         a request's target, and which requests are refused
`request`        what every answer has in common
`connections`    how many connections there may be
`log_file`       a file of the access log
`admin`          the admin endpoint
`tracing`        what the gateway does with a request, step by step
===============  ==========================================================================
"""
