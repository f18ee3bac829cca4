"""Metrics as pure functions: arrays in, numbers out, numpy alone. One family a file.

They know no table, no stage and no model. What cannot be said (of no pairs, of one response) is None or NaN where a
function says so, never a default. Arrays carry shape suffixes, with a legend at the top of each file.
"""
