"""The viewer: a server on this machine that shows run folders, and lets their model write again."""
