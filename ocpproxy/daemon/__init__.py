"""The only package that builds things and sees the real reactor.

==========  ======================================================================
`tap`       what twistd finds: options and `makeService`
`gateway`   one whole gateway, and the order in which its services start and stop
`services`  services that only start and stop something
`workers`   several processes on one socket
==========  ======================================================================
"""
