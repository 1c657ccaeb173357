"""What to look for in a model: sets of concepts, and the lexicon that finds their candidates."""
