"""Contrastive fine-tuning, to be compared with: same prompts, same pooling, same checkpoint form, no rationale."""
