"""The article's experiments and claims, as data plus a runner."""
