"""HTTP in.

===========  =================================================================================
`site`       the HTTP server; requests that are being answered
`channel`    one connection: answers leave at once; bounds for clients that do not read
`hot_path`   hits answered within the HTTP channel
`answers`    headers, validators, and the one table from failures to HTTP
`tiles`      tiles, and everything else behind a token
`catmaid`    documents for CATMAID and its clients
`pages`      the gateway's own pages, and the resource tree
===========  =================================================================================
"""
