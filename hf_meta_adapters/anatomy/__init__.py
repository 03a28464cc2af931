"""The anatomy of a transformer: layers, heads, projections, modules, by name and structure.

Needs torch only, and knows no library of models: backends and diagnostics use it on any of them.
"""
