"""The stages of a study: one file each. They meet in the run folder and never import each other."""
