"""The commands of `branchynet`, one a module: each parses, calls and prints; none imports another."""
