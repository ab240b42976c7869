"""Pure decisions: numbers (and `now`) in, a value out. No torch, no gRPC, no clock, no environment.

The live nodes, the calibration and the simulator call the same objects from here.
"""
