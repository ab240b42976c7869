"""The simulator: a scenario in, a record of each request out, at millions of requests a second.

May import link and branchynet's pure packages, so that it decides by the same objects as the live nodes."""
