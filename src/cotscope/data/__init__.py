"""Problems (from a file, the hub or the built-in generator), the parser of answers, and the reading of files."""
