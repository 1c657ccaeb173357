"""The prompts of a study: exemplars, the prompts derived from them, their variants, and ready files."""
