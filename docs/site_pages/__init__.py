"""Pages of the documentation that are made from the code, and not written, whenever the site is built."""
