"""The pages that people look at.

=============  ========================================================================
`site_pages`   the pages by their addresses
`layout`       what all pages have in common
`home`         ``/``: the datasets
`datasets`     what the pages show of a dataset
`viewer`       ``/view/TOKEN/``: slices
`paste`        ``/view/TOKEN/catmaid``: what to enter into CATMAID
`state`        ``/status``: what the gateway does
`figures`      the figures of that page
`live_state`   the same figures, sent to every open page as they change
`page_files`   style sheet, scripts and Leaflet
=============  ========================================================================

Everything that a page needs comes from the gateway, by relative addresses, so that it works behind a front too. The
scripts are in ``static``: modules with types in their comments, which ``make lint`` checks.
"""
