"""Inner products of vectors too long to be stored together, exact or from random projections."""
