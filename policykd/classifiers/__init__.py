"""Modules that turn images or texts into logits, as teachers and students; they refuse to know where data come from."""
