"""Recipes: what a variant is made like, as frozen values with a digest that never drifts."""
