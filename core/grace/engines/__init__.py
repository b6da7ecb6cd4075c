"""Engines: what turns a job into a representation. `vllm` is the one that serves, `transformers` the reference."""
