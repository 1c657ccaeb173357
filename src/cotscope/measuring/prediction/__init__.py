"""Which answers are right: traces of answers, what may tell, what it comes to on other data, and what is done with it."""
