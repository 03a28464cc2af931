"""AdapterHub's library `adapters`: one of its adapters for each language."""
