"""Readouts: what turns features into predictions. `value` is one, `store` its file, `ridge` the mathematics, `fitting` the choice."""
