"""What goes out to other tools, and comes in from them."""

FORMATS = ("csv", "parquet", "json", "neuronpedia", "lm-eval", "lm-eval-task")
"""What `cotscope tables` can write."""
