"""Many simulations over links, cuts and thresholds: their results, the best plan at each point, plots and a report.

May import model."""
