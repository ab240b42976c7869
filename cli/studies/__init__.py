"""`branchynet study`: experiments whose result is a table and not a plan, a rule or an answer."""
