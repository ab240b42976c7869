"""The node behind the uplink: the deeper stages, at any cut, with their own exits."""
