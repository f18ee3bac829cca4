"""Profiles that come with rematch, one YAML file a kind of machine."""
