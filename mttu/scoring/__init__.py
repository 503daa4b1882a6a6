"""Monte Carlo dropout: how sure the network is of a case's IDH status (section IV-B)."""
