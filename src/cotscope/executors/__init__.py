"""How stages are run: one after another on this machine (`local`)."""
