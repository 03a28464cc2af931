"""The files that travel with the package: recipes, their configurations, and verses."""
