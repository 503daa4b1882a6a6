"""Monte Carlo scores of cases, their selection as pseudo-labels, and the search of thresholds (section IV-B)."""
