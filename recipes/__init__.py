"""Recipes that come with rematch, one YAML file a method."""
