"""The anatomy of a transformer, told by names: layers, attention heads, projections, modules.

Needs torch only. Backends and diagnostics use it.
"""
