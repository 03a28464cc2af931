"""The anatomy of a transformer: its layers, attention heads, projections and modules, found by name and structure.

Needs torch only, and knows no library of models: backends and diagnostics use it on any of them.
"""
