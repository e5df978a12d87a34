"""How fast this is, beside what else there is: `make bench`, and METHODOLOGY.md for what its figures mean."""
