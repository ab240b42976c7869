"""Who leaves where: exit rules, how thresholds are chosen, what is promised of them, and when they no longer fit.

Pure: numbers in, a value out. May import numpy and errors; no torch, no gRPC, no clock, no environment."""
