"""Problems (from a file, the hub or the built-in generator) and the parser of answers."""
