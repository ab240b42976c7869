"""The one command, `branchynet`: it parses, calls and prints, and leaves every decision to the packages below."""
