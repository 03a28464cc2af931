"""New pieces for a tokenizer and a model whose vocabulary cuts a language too finely."""
