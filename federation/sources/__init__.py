"""Where rows come from: one small module per kind of source, one mapping for all of them.

`federation.sources.table` reads the columns of a source as they stand; `federation.sources.rows`
maps them, row by row, to what a model sees.
"""
