"""Whole runs, from a scenario to a report: demo, fleet, replay, sweep, and live nodes against the simulator.

May import everything else of orchestrator."""
