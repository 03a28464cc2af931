"""What `import hf_meta_adapters` imports, and what waits until it is used."""
