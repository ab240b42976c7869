"""Where the work is done: cut, exits and codec chosen for given times and links, and chosen again when these change.

Pure: numbers and `now` in, a value out. May import exits and errors; no torch, no gRPC, no clock, no environment."""
